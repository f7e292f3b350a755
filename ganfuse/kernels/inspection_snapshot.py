"""What the compiler made of the kernels at some commit, as a file: to see which of them became worse since.

The file is JSON with a line for each kernel at each shape: `FIELDS` by chip. Kernels that a case launches more than
once in different configurations are numbered, in the order of their launches.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganfuse.kernels.inspection import Report

__all__ = ["Snapshot", "Worse", "digest", "versions"]

FIELDS = ("config", "registers", "spills", "shared", "dot", "load", "narrowest load", "store", "occupancy")
"""Of each entry: tile, warps and stages; registers per thread; bytes of spills per thread and of shared memory per
program; the tensor-core instruction; bits of the widest and the narrowest global load and of the widest store; warps
resident on a multiprocessor as a share of its most. A kernel that cannot be compiled has the error in place of them."""

# The compiler counts registers anew for each small change, and a few more cost nothing by themselves.
REGISTERS_SHARE, REGISTERS_LEAST = 0.10, 8
SHARED_SHARE, SHARED_LEAST = 0.10, 1024
OCCUPANCY_SHARE = 0.20
# The instructions of a chip in the order of their rate.
_DOTS = ("", "MFMA", "DMMA", "IMMA", "HMMA", "HGMMA", "UTC")

Entry = Sequence[Any]
Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class Worse:
    """A kernel that is not what it was.

    Attributes:
        op, case, kernel, target: which.
        reasons: in words, with the numbers of before and now.
    """

    op: str
    case: str
    kernel: str
    target: str
    reasons: list[str]

    def __str__(self) -> str:
        return f"{self.target} {self.op} {self.case} {self.kernel}: {'; '.join(self.reasons)}"


def versions() -> dict[str, str]:
    """What compiles: Triton's version (its wheel carries the assembler)."""
    import triton

    return {"triton": triton.__version__}


def digest(reports: Iterable[Report]) -> dict[Key, list[Any]]:
    """Entries by (op, case, kernel, target)."""
    found: dict[Key, list[Any]] = {}
    for report in reports:
        name = f"{report.kernel} {report.flags}".strip()
        key = (report.op, report.case, name, report.target)
        number = 2
        while key in found:
            key = (report.op, report.case, f"{name} #{number}", report.target)
            number += 1
        found[key] = _entry(report)
    return found


def _entry(report: Report) -> list[Any]:
    if report.error:
        return [report.error]
    return [
        report.config, report.registers, report.spills, report.shared, report.matrix_instruction, report.widest_load,
        min(report.loads, default=0), report.widest_store, round(report.occupancy, 3),
    ]  # fmt: skip


class Snapshot:
    """Entries of kernels by (op, case, kernel, target), and what compiled them.

    Args:
        entries: as `digest` gives them.
        compiled_by: as `versions` gives it.
    """

    def __init__(
        self, entries: Mapping[Key, Entry] | None = None, compiled_by: Mapping[str, str] | None = None
    ) -> None:
        self.entries: dict[Key, list[Any]] = {key: list(entry) for key, entry in (entries or {}).items()}
        self.compiled_by = dict(compiled_by or {})

    @classmethod
    def read(cls, path: Path) -> "Snapshot":
        """The snapshot in a file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it is something else.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["fields"] != list(FIELDS):
                raise ValueError(f"its entries have the fields {', '.join(content['fields'])}")
            return cls(dict(_flat(content["kernels"])), content["versions"])
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no snapshot of ganfuse inspect ({error!r})") from error
        except ValueError as error:
            raise ValueError(f"{path} is no snapshot of this version of ganfuse inspect: {error}") from error

    def text(self) -> str:
        """The content of the file: a line for each kernel at each shape."""
        nested: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
        for op, case, kernel, target in sorted(self.entries):
            chips = nested.setdefault(op, {}).setdefault(case, {}).setdefault(kernel, {})
            chips[target] = self.entries[op, case, kernel, target]
        ops = []
        for op, cases in nested.items():
            of_op = []
            for case, kernels in cases.items():
                lines = [f"    {_json(kernel)}: {_json(chips)}" for kernel, chips in kernels.items()]
                of_op.append(f"   {_json(case)}: {{\n" + ",\n".join(lines) + "\n   }")
            ops.append(f"  {_json(op)}: {{\n" + ",\n".join(of_op) + "\n  }")
        head = f' "versions": {_json(self.compiled_by)},\n "fields": {_json(list(FIELDS))},\n'
        return "{\n" + head + ' "kernels": {\n' + ",\n".join(ops) + "\n }\n}\n"

    def has(self, op: str, case: str, target: str) -> bool:
        """Whether that case was compiled for that chip."""
        return (op, case, target) in {(o, c, t) for o, c, _, t in self.entries}

    def replaced(self, reports: Sequence[Report], known: Mapping[str, Sequence[str]]) -> "Snapshot":
        """With these reports in place of what there was of their cases, and without cases that are no longer `known`.

        Args:
            known: the cases that each op has.
        """
        anew = {(r.op, r.case, r.target) for r in reports}
        kept = {
            key: entry
            for key, entry in self.entries.items()
            if (key[0], key[1], key[3]) not in anew and key[1] in known.get(key[0], ())
        }
        return Snapshot({**kept, **digest(reports)}, versions())

    def worse(self, reports: Sequence[Report]) -> list[Worse]:
        """Which of these kernels are worse than here; those that a case here did not launch are among them.

        Only cases that the snapshot has are looked at. Worse is: an error, more spills, a slower tensor-core
        instruction or none, narrower loads or stores; shared memory, registers or occupancy beyond the tolerances at
        the top of this file.
        """
        covered = {(o, c, t) for o, c, _, t in self.entries}
        found = []
        for key, now in digest(reports).items():
            op, case, kernel, target = key
            if (op, case, target) not in covered:
                continue
            before = self.entries.get(key)
            reasons = ["not in the snapshot"] if before is None else _reasons(before, now)
            if reasons:
                found.append(Worse(op, case, kernel, target, reasons))
        return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _flat(kernels: Mapping[str, Any]) -> Iterator[tuple[Key, list[Any]]]:
    for op, cases in kernels.items():
        for case, of_case in cases.items():
            for kernel, chips in of_case.items():
                for target, entry in chips.items():
                    yield (op, case, kernel, target), entry


def _reasons(before: Entry, now: Entry) -> list[str]:
    if len(now) == 1:
        return [] if len(before) == 1 else [str(now[0])]
    if len(before) == 1:
        return []
    old, new = dict(zip(FIELDS, before)), dict(zip(FIELDS, now))
    found = []

    def beyond(name: str, share: float, least: float) -> None:
        if new[name] > old[name] + max(share * old[name], least):
            found.append(f"{name} {old[name]} → {new[name]}")

    beyond("spills", 0, 0)
    beyond("registers", REGISTERS_SHARE, REGISTERS_LEAST)
    beyond("shared", SHARED_SHARE, SHARED_LEAST)
    if _rank(new["dot"]) < _rank(old["dot"]):
        found.append(f"tensor-core instruction {old['dot']} → {new['dot'] or 'none'}")
    for name in ("load", "store"):
        if new[name] < old[name]:
            found.append(f"widest {name} {old[name]} → {new[name]} bits")
    # Loads of 32 bits are masks, indices and vectors of statistics; below that it is half types, one by one.
    if new["narrowest load"] < min(32, old["narrowest load"]):
        found.append(f"narrowest load {old['narrowest load']} → {new['narrowest load']} bits")
    if new["occupancy"] < old["occupancy"] * (1 - OCCUPANCY_SHARE):
        found.append(f"occupancy {old['occupancy']:.0%} → {new['occupancy']:.0%}")
    return found


def _rank(instruction: str) -> int:
    name = "UTC" if instruction.startswith("UTC") else instruction
    return _DOTS.index(name) if name in _DOTS else 0
