"""The first table of docs/performance.md: what every result file of times amounts to, a line per comparison."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ganfuse.bench import records
from ganfuse.bench.subject import OURS

Records = Sequence[Mapping[str, Any]]
# Below this a case counts as slower; closer to 1 is noise.
SLOWER = 0.95


@dataclass
class Comparison:
    """What ran in two ways, and how many times as long as ganfuse the other took, case by case."""

    what: str
    instead: str
    ratios: list[float] = field(default_factory=list)


def comparisons(found: Records) -> list[Comparison]:
    """Those of a result file; none where it compares nothing, as files of memory do."""
    read = _READERS.get(found[0]["benchmark"])
    return [] if read is None else _gathered(read(records.joined_rows(list(map(dict, found)))))


def order(benchmark: str) -> int:
    """Where a benchmark's lines stand in the table: whole turns and steps before single ops."""
    return list(_READERS).index(benchmark) if benchmark in _READERS else len(_READERS)


def cells(comparison: Comparison) -> list[str]:
    """What it is, in place of what, median, range, cases, and how many of them are slower."""
    ratios = sorted(comparison.ratios)
    spread = f"{ratios[0]:.2f}–{ratios[-1]:.2f}" if len(ratios) > 1 else ""
    slower = sum(ratio < SLOWER for ratio in ratios)
    return [
        comparison.what,
        comparison.instead,
        f"{statistics.median(ratios):.2f}",
        spread,
        str(len(ratios)),
        str(slower or ""),
    ]


_Found = Iterable[tuple[str, str, float]]


def _gathered(found: _Found) -> list[Comparison]:
    lines: dict[tuple[str, str], Comparison] = {}
    for what, instead, ratio in found:
        lines.setdefault((what, instead), Comparison(what, instead)).ratios.append(ratio)
    return list(lines.values())


def _biggan_turns(rows: Records) -> _Found:
    for row in rows:
        for form, values in row["turns"].items():
            maker, dtype = form.split()
            if maker == OURS:
                yield f"turn of {row['case']}, {dtype}", f"plain PyTorch, {dtype}", values["over_same"]
                if dtype != "float32":
                    yield f"turn of {row['case']}, {dtype}", "plain PyTorch, float32", values["over_float32"]


def _stylegan2_turns(rows: Records) -> _Found:
    for row in rows:
        for form, values in row["forms"].items():
            if form != OURS:
                yield f"turn of {row['case']}", f"{form} convolutions", values["turn_over_ganfuse"]


def _translation_steps(rows: Records) -> _Found:
    for row in rows:
        for form, ratio in row["ratio"].items():
            yield f"step of {row['model']} at {row['side']} px{form.removeprefix(OURS)}", "plain PyTorch", ratio


def _patched(rows: Records) -> _Found:
    for kind, what in (("step", "step"), ("penalty", "step with a gradient penalty")):
        for row in rows:
            if kind in row:
                yield f"{what} of patched codebases' networks", "the networks before", row[kind]["ratio"]


def _spectral_norms(rows: Records) -> _Found:
    for row in rows:
        if row["implementation"] != OURS and row["status"] == "ok":
            yield f"spectral norms of {row['model']}", f"`{row['implementation']}`", row["ratio_to_ganfuse"]


def _fastest_others(rows: Records, label: Callable[[Mapping[str, Any]], str]) -> _Found:
    """Against the best of the other ways, which is another one from case to case."""
    best: dict[tuple[str, str], tuple[str, float]] = {}
    for row in rows:
        ratio = row.get("ratio_to_ganfuse")
        if row["provider"] == OURS or ratio is None:
            continue
        key = (row["case"], row["pass"])
        if key not in best or ratio < best[key][1]:
            best[key] = (label(row), ratio)
    for what, ratio in best.values():
        yield what, "the fastest other way", ratio


def _ops(rows: Records) -> _Found:
    return _fastest_others(rows, lambda row: f"`{row['op']}`")


def _attention(rows: Records) -> _Found:
    return _fastest_others(rows, lambda row: f"attention, {row['pass'].replace('_', ' ')}")


def _gpu_norms(rows: Records) -> _Found:
    return _fastest_others(rows, lambda row: f"norms with their activation, {row['pass'].replace('_', ' ')}")


def _modulated(rows: Records) -> _Found:
    return _fastest_others(rows, lambda row: f"modulated convolution, {row['pass']}")


def _norms(rows: Records) -> _Found:
    for row in rows:
        yield f"norms with their activation, {row['dtype']}", "plain PyTorch", row["ratio"]


def _folded(rows: Records) -> _Found:
    for row in rows:
        what = {"conv": "resampling convolutions", "block": "residual blocks that resample"}[row["what"]]
        yield f"{what}, {row['dtype']}", "resampling and convolution apart", row["taken"]


def _resampling(rows: Records) -> _Found:
    for row in rows:
        yield f"resampling with filters, {row['passes']}", "plain PyTorch", row["ratio"]


_READERS: dict[str, Callable[[Records], _Found]] = {
    "biggan-turn": _biggan_turns,
    "stylegan2-turn": _stylegan2_turns,
    "translation-step": _translation_steps,
    "patched-codebases": _patched,
    "bench": _ops,
    "attention": _attention,
    "norms": _gpu_norms,
    "norms-cpu": _norms,
    "spectral-norm": _spectral_norms,
    "folded-convs": _folded,
    "resampling": _resampling,
    "modulated-conv": _modulated,
}
"""By the benchmark that a file's first line names, in the order of the table."""
