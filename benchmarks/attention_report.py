"""Tables of attention results, and which goals they meet."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.attention_passes import PASSES
from benchmarks.attention_providers import NAIVE, OURS

Row = Mapping[str, Any]

_HEADS = {
    "forward": "fwd",
    "backward": "bwd",
    "forward_backward": "fwd+bwd",
    "double_backward": "bwd2",
    "penalty": "penalty",
}


def _cases(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(row["case"] for row in rows))


def _find(rows: Sequence[Row], case: str) -> dict[tuple[str, str], Row]:
    return {(row["provider"], row["pass"]): row for row in rows if row["case"] == case}


def _timed(found: Mapping[tuple[str, str], Row], which: str) -> list[Row]:
    return [row for (_, pass_), row in found.items() if pass_ == which and row["status"] == "ok"]


def _ratio(peer: Row, ours: Row) -> float:
    """A peer's time over ours: measured within the same rounds, if it was."""
    paired: float | None = peer["ratio_to_ganfuse"]
    return peer["ms"] / ours["ms"] if paired is None else paired


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row['ms']:.4g}" if row["status"] == "ok" else row["status"]


def full_tables(rows: Sequence[Row]) -> str:
    """Every implementation at every case: milliseconds by pass, peak memory and launches of the whole penalty."""
    parts = []
    for case in _cases(rows):
        found = _find(rows, case)
        head = f"{'ms':<16}" + "".join(f"{_HEADS[p]:>10}" for p in PASSES)
        lines = [case, head + f"{'MiB fwd':>10}{'MiB f+b':>10}{'MiB pen':>10}{'launches fwd/f+b/pen':>22}  how"]
        for provider in dict.fromkeys(provider for provider, _ in found):
            by_pass = {p: found.get((provider, p)) for p in PASSES}
            line = f"{provider:<16}" + "".join(f"{_cell(by_pass[p]):>10}" for p in PASSES)
            memory, launches = [], []
            for which in ("forward", "forward_backward", "penalty"):
                row = by_pass[which] or {}
                peak = row.get("peak_bytes")
                memory.append("-" if peak is None else f"{peak / 2**20:.0f}")
                launches.append("-" if row.get("launches") is None else str(row["launches"]))
            line += "".join(f"{m:>10}" for m in memory) + f"{'/'.join(launches):>22}"
            lines.append(line + "  " + next((r["detail"] for r in by_pass.values() if r and r.get("detail")), ""))
        reasons = {
            (row["provider"], row.get("reason", "")): row["pass"] for row in found.values() if row["status"] != "ok"
        }
        lines += [f"  {provider}, {which}: {reason}" for (provider, reason), which in reasons.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def summary(rows: Sequence[Row]) -> str:
    """One line per case and pass: our time, its share of the ceilings, the fastest peer."""
    lines = [
        f"{'case':<40}{'pass':<17}{'ms':>9}{'±%':>5}{'TF/s':>7}{'%matmul':>8}{'%floor':>7}"
        "  fastest peer (its time / ours)"
    ]
    for case in _cases(rows):
        found = _find(rows, case)
        for which in PASSES:
            ours = found.get((OURS, which))
            if ours is None:
                continue
            line = f"{case:<40}{which:<17}"
            if ours["status"] != "ok":
                lines.append(f"{line}{ours['status']}: {ours.get('reason', '')}")
                continue
            matmul = ours.get("matmul_share")
            line += f"{ours['ms']:>9.4f}{100 * ours['spread']:>5.0f}{ours['tflops']:>7.3g}"
            line += f"{100 * matmul:>8.0f}" if matmul is not None else f"{'-':>8}"
            line += f"{100 * ours['floor_share']:>7.0f}"
            peers = [row for row in _timed(found, which) if row["provider"] != OURS]
            if peers:
                best = min(peers, key=lambda row: _ratio(row, ours))
                line += f"  {best['provider']} {best['ms']:.4f} (x{_ratio(best, ours):.2f})"
            lines.append(line)
    return "\n".join(lines)


class Goal:
    """Verdicts on one goal."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.passed: list[str] = []
        self.tied: list[str] = []
        self.missed: list[str] = []
        self.unknown: list[str] = []

    @property
    def verdict(self) -> str:
        """PASS, TIE (misses, all of them by less than the noise), MISS, or NOT MEASURED."""
        if self.missed:
            return "MISS"
        if self.unknown or not (self.passed or self.tied):
            return "NOT MEASURED"
        return "TIE" if self.tied else "PASS"

    def __str__(self) -> str:
        count = len(self.passed) + len(self.tied) + len(self.missed) + len(self.unknown)
        lines = [f"{self.verdict:<13}{self.name}: {len(self.passed)} of {count} met"]
        for label, items in (("missed", self.missed), ("within noise", self.tied), ("not measured", self.unknown)):
            lines += [f"    {label}: {item}" for item in items]
        return "\n".join(lines)


def _against(goal: Goal, case: str, which: str, found: Mapping[tuple[str, str], Row], peers: Sequence[Row]) -> None:
    ours = found.get((OURS, which))
    label = f"{case} {which}"
    if ours is None or ours["status"] != "ok" or not peers:
        goal.unknown.append(
            label if ours is None or not peers else f"{label}: {ours['status']}: {ours.get('reason', '')}"
        )
        return
    for peer in peers:
        ratio = _ratio(peer, ours)
        text = f"{label}: {peer['provider']} takes x{ratio:.2f} of our time"
        noise = peer.get("ratio_spread")
        noise = max(peer["spread"], ours["spread"]) if noise is None else noise
        (goal.passed if ratio >= 1 else goal.tied if 1 - ratio <= noise else goal.missed).append(text)


def goals(rows: Sequence[Row], device_type: str) -> list[Goal]:
    """The goals that hold on this kind of device, with a verdict for each case and pass."""
    if device_type != "cuda":
        naive = Goal("on the CPU at least as fast as every naive form")
        for case in _cases(rows):
            found = _find(rows, case)
            for which in PASSES:
                peers = [row for row in _timed(found, which) if row["provider"] in NAIVE]
                _against(naive, case, which, found, peers)
        return [naive]
    rate = Goal("forward at 50 % or more of the measured matmul rate where d, e >= 64")
    fastest = Goal("faster than every peer at every SAGAN-128 shape")
    second = Goal("double backward at most 3.5 times the first backward")
    for case in _cases(rows):
        found = _find(rows, case)
        any_row = next(iter(found.values()))
        half = any_row["shape"]["dtype"] in ("bf16", "fp16")
        if half and min(any_row["shape"]["d"], any_row["shape"]["e"]) >= 64:
            _rate(rate, case, found.get((OURS, "forward")))
        if half and any_row["goal"]:
            for which in ("forward", "forward_backward", "double_backward", "penalty"):
                peers = [row for row in _timed(found, which) if row["provider"] != OURS]
                _against(fastest, case, which, found, peers)
        if half:
            _second(second, case, found)
    return [rate, fastest, second]


def _rate(goal: Goal, case: str, row: Row | None) -> None:
    if row is None or row["status"] != "ok":
        goal.unknown.append(case if row is None else f"{case}: {row['status']}: {row.get('reason', '')}")
        return
    text = f"{case}: {100 * row['matmul_share']:.0f} %"
    (goal.passed if row["matmul_share"] >= 0.5 else goal.missed).append(text)


def _second(goal: Goal, case: str, found: Mapping[tuple[str, str], Row]) -> None:
    pair = [found.get((OURS, which)) for which in ("double_backward", "backward")]
    if any(row is None or row["status"] != "ok" for row in pair):
        goal.unknown.append(case)
        return
    second, first = (row["ms"] for row in pair if row is not None)
    (goal.passed if second <= 3.5 * first else goal.missed).append(f"{case}: x{second / first:.2f}")


def host_table(records: Sequence[Row]) -> str:
    """Microseconds of host time per call at a size where the GPU has nothing to do."""
    rows = [record for record in records if record["kind"] == "host"]
    if not rows:
        return ""
    lines = [f"{'host time per call, us':<40}{'forward':>10}{'fwd+bwd':>10}"]
    for row in rows:
        lines.append(f"{row['provider']:<40}{row['forward_us']:>10.1f}{row['forward_backward_us']:>10.1f}")
    return "\n".join(lines)


def spread_line(rows: Sequence[Row]) -> str:
    """How much the same implementation differs between rounds."""
    spreads = [row["spread"] for row in rows if row["status"] == "ok"]
    if not spreads:
        return "nothing was timed"
    return (
        f"the same code measured twice differs by {100 * statistics.median(spreads):.1f} % (median), "
        f"{100 * max(spreads):.1f} % (most)"
    )
