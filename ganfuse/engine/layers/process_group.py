"""Modules that belong to a group of processes, and can be copied all the same."""

import copy
from typing import Any, TypeVar

__all__ = ["InProcessGroup"]

Self = TypeVar("Self", bound="InProcessGroup")


class InProcessGroup:
    """To be derived from beside nn.Module: copies of the module are in the same `process_group`."""

    process_group: Any

    def __deepcopy__(self: Self, memo: dict[int, Any]) -> Self:
        # A process group cannot be copied, and should not be: a copy of the model belongs to the same processes.
        memo[id(self.process_group)] = self.process_group
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__dict__, memo))  # type: ignore[attr-defined]
        return new
