"""What a patch replaced and what it left, to be read by people and by programs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Left", "PatchError", "PatchReport", "Replaced"]

# A model has the same layer dozens of times: so many names of each group are printed.
_MOST_NAMES = 3


class PatchError(RuntimeError):
    """With ``check="raise"``: what was put in a layer's place computes something else than the layer."""


@dataclass(frozen=True)
class Replaced:
    """One thing that runs our code now.

    Attributes:
        where: the submodule's name in the model, or the function's full name.
        what: what was there.
        by: what runs in its place.
    """

    where: str
    what: str
    by: str


@dataclass(frozen=True)
class Left:
    """One thing that looked as if it could be replaced, and was not.

    Attributes:
        where, what: as in `Replaced`.
        why: the reason.
    """

    where: str
    what: str
    why: str


@dataclass
class PatchReport:
    """What `ganfuse.interop.patch` did; ``str()`` is the text that it prints.

    Grows while the target runs: by what is found only at the first call (classes that were patched by module), and by
    what the check at the first use undid.

    Attributes:
        target: the class of the model, or the name of the module.
        replaced, left: see `Replaced` and `Left`.
    """

    target: str
    replaced: list[Replaced] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def add(self, where: str, what: str, by: str) -> None:
        """Note something as replaced."""
        self.replaced.append(Replaced(where or "the model", what, by))

    def leave(self, where: str, what: str, why: str) -> None:
        """Note something as left, once."""
        entry = Left(where or "the model", what, why)
        if entry not in self.left:
            self.left.append(entry)

    def withdraw(self, entries: Iterable[tuple[str, str]], why: str) -> None:
        """What was replaced, `where` and `what` of each, is not any more."""
        for where, what in entries:
            self.replaced = [entry for entry in self.replaced if (entry.where, entry.what) != (where, what)]
            self.leave(where, what, why)

    def __deepcopy__(self, memo: dict[int, Any]) -> "PatchReport":
        # Copies of a patched model report to the same place.
        return self

    def __str__(self) -> str:
        lines = [f"{self.target}: {_count(self.replaced)} replaced, {len(self.left)} left"]
        lines += _grouped((f"{entry.what} → {entry.by}", entry.where) for entry in self.replaced)
        if self.left:
            lines.append("left as they were:")
            lines += _grouped((f"{entry.what}: {entry.why}", entry.where) for entry in self.left)
        return "\n".join(lines)


def _count(replaced: list[Replaced]) -> str:
    return str(len(replaced)) if replaced else "nothing"


def _grouped(entries: Iterable[tuple[str, str]]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for text, where in entries:
        groups.setdefault(text, []).append(where)
    lines = []
    for text, names in groups.items():
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        lines.append(f"  {len(names):3d} × {text}  [{', '.join(names[:_MOST_NAMES])}{more}]")
    return lines
