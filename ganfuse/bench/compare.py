"""Two result files against each other: what became slower, faster or wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ganfuse.bench.records import joined_rows

Row = Mapping[str, Any]

# Changes below that are not worth a word, however certain.
LEAST_CHANGE = 0.03
# With five rounds each, complete separation happens by chance once in 126 comparisons of equals.
LEAST_ROUNDS = 5


@dataclass(frozen=True)
class Change:
    """One row in both files.

    Attributes:
        ratio: new time over old; None where one of them has no time.
        verdict: "slower", "faster", "same", "wrong" (it had a time and has none), "mended" (the other way round).
    """

    case: str
    provider: str
    which: str
    ratio: float | None
    verdict: str
    reason: str = ""

    @property
    def is_regression(self) -> bool:
        return self.verdict in ("slower", "wrong")


def compare(old: Sequence[Row], new: Sequence[Row]) -> list[Change]:
    """Rows that both files have, in the order of the new one.

    "slower" and "faster" mean that every round of one run lies beyond every round of the other, that there are at
    least five rounds in both, and that the medians differ by more than 3 % and by more than the rounds of either
    drifted apart.

    Args:
        old, new: all records of a result file.

    Raises:
        ValueError: no row is in both.
    """
    before = {(r["case"], r["provider"], r["pass"]): r for r in joined_rows(list(map(dict, old)))}
    changes = []
    for row in joined_rows(list(map(dict, new))):
        key = (row["case"], row["provider"], row["pass"])
        if key in before:
            changes.append(_change(key, before[key], row))
    if not changes:
        raise ValueError("the two results have no row in common: they differ in ops, shapes, types or layouts")
    return changes


def _change(key: tuple[str, str, str], old: Row, new: Row) -> Change:
    if "ms" not in old or "ms" not in new:
        verdict = "wrong" if "ms" in old else "mended" if "ms" in new else "same"
        return Change(*key, None, verdict, str(new.get("reason", "")))
    ratio = new["ms"] / old["ms"]
    rounds = old["round_ms"], new["round_ms"]
    drift = max(old["spread"], new["spread"])
    verdict = "same"
    if min(map(len, rounds)) >= LEAST_ROUNDS and abs(ratio - 1) > max(LEAST_CHANGE, drift):
        if min(rounds[1]) > max(rounds[0]):
            verdict = "slower"
        elif max(rounds[1]) < min(rounds[0]):
            verdict = "faster"
    return Change(*key, ratio, verdict)


def differences(old: Sequence[Row], new: Sequence[Row]) -> list[str]:
    """What else differs between the runs, so that times may: device, versions, threads."""
    keys = ("device", "torch", "triton", "threads", "cuda")
    return [f"{k}: {old[0].get(k)} then, {new[0].get(k)} now" for k in keys if old[0].get(k) != new[0].get(k)]


def lines(changes: Sequence[Change]) -> list[str]:
    """One line for each change, significant ones marked with a star; a summary at the end."""
    found = []
    width = max(17, *(len(change.provider) for change in changes)) + 1
    for change in changes:
        ratio = "" if change.ratio is None else f"×{change.ratio:.3f}"
        mark = "" if change.verdict == "same" else f"* {change.verdict}"
        text = f"{ratio:>8}  {mark:<10} {change.provider:<{width}}{change.which:<17}{change.case}  {change.reason[:80]}"
        found.append(text.rstrip())
    counts = {v: sum(c.verdict == v for c in changes) for v in ("slower", "faster", "wrong", "mended", "same")}
    found.append(", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count))
    return found
