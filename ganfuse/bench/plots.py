"""Drawings of results: roofline, bars against peers, memory against the number of positions, where a training step's
time goes. By matplotlib.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ganfuse.bench.op_groups import OURS_PREFIX
from ganfuse.bench.subject import OURS, REFERENCE
from ganfuse.engine.curves import svg_of

Row = Mapping[str, Any]


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModuleNotFoundError("plots are drawn by matplotlib: pip install 'ganfuse[report]'") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes: Any = figure.subplots(1, columns)
    for each in axes if columns > 1 else [axes]:
        each.tick_params(labelsize=8)
        each.grid(alpha=0.25)
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _color(index: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["tab20"](index % 20)


def roofline(rows: Sequence[Row], ceilings: Row) -> str:
    """Ours under the measured ceilings: what computes by its FLOP/s, what only moves memory by its bytes/s."""
    figure, (left, right) = _figure(12.5, 4.6, 2)
    ours = [r for r in rows if r["provider"] == OURS and r["status"] == "ok" and r.get("least_bytes")]
    ops = list(dict.fromkeys(row["op"] for row in ours))
    markers = dict(zip(dict.fromkeys(row["pass"] for row in ours), "os^"))
    copy = ceilings["copy"]
    computing = [row for row in ours if row["flops"]]
    intensities = [row["flops"] / row["least_bytes"] for row in computing] or [1.0, 100.0]
    low, high = min(intensities) / 3, max(intensities) * 3
    for name, rate in ceilings["matmul"].items():
        xs = sorted({low, high, *(x for x in (rate / copy,) if low < x < high)})
        left.plot(xs, [min(rate, copy * x) / 1e12 for x in xs], color="#888", linewidth=1.2)
        left.annotate(
            f"matrix product, {name}", (high, min(rate, copy * high) / 1e12), ha="right", va="bottom", fontsize=7
        )
    sizes = [row["least_bytes"] / 1e6 for row in ours if not row["flops"]] or [1.0, 10.0]
    # Of themselves the axes would begin at 0 where there is nothing to show.
    right.set_xlim(min(sizes) / 2, max(sizes) * 2)
    right.axhline(copy / 1e9, color="#888", linewidth=1.2)
    right.annotate("copy", (max(sizes), copy / 1e9), ha="right", va="bottom", fontsize=7)
    for row in ours:
        style = {"color": _color(ops.index(row["op"])), "marker": markers[row["pass"]], "s": 28}
        if row["flops"]:
            left.scatter(row["flops"] / row["least_bytes"], row["tflops"], **style)
        else:
            right.scatter(row["least_bytes"] / 1e6, row["gb_s"], **style)
    for index, op in enumerate(ops):
        where = left if any(row["op"] == op for row in computing) else right
        where.scatter([], [], color=_color(index), label=op)
    for which, marker in markers.items():
        right.scatter([], [], color="#555", marker=marker, label=which)
    for axes, x, y in ((left, "FLOP per byte", "TFLOP/s"), (right, "least traffic, MB", "GB/s")):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(x, fontsize=9)
        axes.set_ylabel(y, fontsize=9)
        axes.minorticks_off()
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    left.set_title("what computes", fontsize=10, loc="left")
    right.set_title("what moves memory", fontsize=10, loc="left")
    return svg_of(figure, "roofline")


def bars(rows: Sequence[Row]) -> str:
    """One case: milliseconds of each implementation, by pass, with p20 and p80."""
    passes = list(dict.fromkeys(row["pass"] for row in rows))
    providers = sorted(dict.fromkeys(row["provider"] for row in rows), key=lambda p: (p != OURS, p != REFERENCE))
    figure, axes = _figure(6.4, 0.7 + 0.24 * len(passes) * len(providers))
    place = 0.0
    ticks, names = [], []
    for which in passes:
        for provider in providers:
            row = next((r for r in rows if r["pass"] == which and r["provider"] == provider), None)
            if row is not None and row["status"] == "ok":
                below, above = row["ms"] - row["p20_ms"], row["p80_ms"] - row["ms"]
                axes.barh(place, row["ms"], color="C0" if provider == OURS else "#bbb", height=0.85)
                axes.errorbar(row["ms"], place, xerr=[[max(below, 0)], [max(above, 0)]], color="#444", linewidth=0.8)
            elif row is not None:
                axes.text(0, place, f" {row['status']}", va="center", fontsize=7, color="#a33")
            ticks.append(place)
            names.append(f"{which} · {provider}" if provider == providers[0] else provider)
            place += 1
        place += 0.6
    axes.set_yticks(ticks, names, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("ms", fontsize=9)
    axes.set_xlim(left=0)
    return svg_of(figure, "bars" + rows[0]["case"])


def memory_curve(lines: Sequence[Row]) -> str:
    """Peak memory of attention's forward and backward against the number of positions."""
    figure, axes = _figure(6.4, 3.6)
    for provider in dict.fromkeys(line["provider"] for line in lines):
        points = sorted(
            (r["positions"], r["peak_bytes"]) for r in lines if r["provider"] == provider and r["peak_bytes"]
        )
        if not points:
            continue
        xs, ys = zip(*points)
        axes.plot(xs, [y / 2**20 for y in ys], marker="o", markersize=4, label=provider)
        if len(points) > 1:
            power = math.log(ys[-1] / ys[0]) / math.log(xs[-1] / xs[0])
            axes.annotate(f"N^{power:.1f}", (xs[-1], ys[-1] / 2**20), ha="right", va="bottom", fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("positions N of query and key", fontsize=9)
    axes.set_ylabel("MiB", fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    return svg_of(figure, "memory")


def training_bars(rows: Sequence[Row]) -> str:
    """Milliseconds of a step by variant, each bar divided by where the profile says that its time goes."""
    measured = [row for row in rows if row.get("groups")]
    figure, axes = _figure(9.0, 1.2 + 0.42 * len(measured))
    totals: dict[str, float] = {}
    for row in measured:
        for group, ms in row["groups"].items():
            totals[group] = totals.get(group, 0.0) + ms / row["profiled_ms"]
    # Ours first, then what takes most; what would be a hair's breadth is drawn as one.
    shown = [group for group, share in totals.items() if share >= 0.02 * len(measured)]
    shown.sort(key=lambda group: (not group.startswith(OURS_PREFIX), -totals[group]))
    colors = _group_colors(shown)
    for place, row in enumerate(measured):
        left = 0.0
        shares = {group: row["groups"].get(group, 0.0) / row["profiled_ms"] for group in shown}
        for group, share in {**shares, "the rest": 1.0 - sum(shares.values())}.items():
            axes.barh(place, share * row["ms"], left=left, color=colors.get(group, "#ddd"), height=0.7)
            left += share * row["ms"]
        below, above = row["ms"] - row["p20_ms"], row["p80_ms"] - row["ms"]
        axes.errorbar(row["ms"], place, xerr=[[max(below, 0)], [max(above, 0)]], color="#444", linewidth=0.8)
    for group in [*shown, "the rest"]:
        axes.barh(0, 0, color=colors.get(group, "#ddd"), label=group)
    axes.set_yticks(range(len(measured)), [row["provider"] for row in measured], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("ms per step, divided as the profile's time is", fontsize=9)
    axes.set_xlim(left=0)
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return svg_of(figure, "training" + rows[0]["case"])


def _group_colors(groups: Sequence[str]) -> dict[str, Any]:
    import matplotlib

    ours = [group for group in groups if group.startswith(OURS_PREFIX)]
    others = [group for group in groups if group not in ours]
    blues, browns = matplotlib.colormaps["Blues"], matplotlib.colormaps["tab20c"]
    found: dict[str, Any] = {group: blues(0.9 - 0.6 * place / max(len(ours), 1)) for place, group in enumerate(ours)}
    return found | {group: browns(4 + place % 16) for place, group in enumerate(others)}
