"""A module that runs other code and stays what it is otherwise.

Its class becomes a subclass of what it was, made for it alone, whose methods find everything through ``self``. So its
children, parameters, buffers, hooks and state-dict keys are untouched, ``isinstance`` says what it said, optimisers and
DistributedDataParallel hold the same tensors, a deep copy is patched like its model, and a replica of DataParallel
computes with its own weights. A pickle holds the original class: it loads without ganfuse, unpatched. (Not so hooks,
which compute spectral norms together: a pickle has them, and needs ganfuse.)
"""

import copy
import copyreg
from collections.abc import Callable, Mapping
from types import new_class
from typing import Any, SupportsIndex

import torch
from torch import nn

from ganfuse.interop.patches.report import PatchReport

__all__ = ["FUSED", "PREFIX", "Patched", "Site", "adopt", "cannot_adopt", "original_class", "release", "site_of"]

# Of everything that a patch puts into a module.
PREFIX = "_ganfuse_"
_SITE = f"{PREFIX}site"
# Whether PyTorch's spectral norms of a model were fused, as they are in a pickle, too.
FUSED = f"{PREFIX}fused"


class Site:
    """What a patched module carries: where it is reported, and whether it has yet to be checked.

    Attributes:
        where, what: the module.
        entries: `where` and `what` of the report's entries for it.
        check: ``""``, ``"fall back"`` or ``"raise"``: what to do at the next call before trusting the replacement.
        noted: whether a fallback at run time was reported already.
    """

    def __init__(self, report: PatchReport, where: str, what: str, check: str = "") -> None:
        self.report = report
        self.where = where
        self.what = what
        self.entries = [(where, what)]
        self.check = check
        self.noted = False


class Patched:
    """Base of the classes that patched modules have."""

    __slots__ = ()
    _ganfuse_original: type[nn.Module]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(self.__dict__, memo))  # type: ignore[attr-defined]
        return new

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        state = {key: value for key, value in self.__dict__.items() if key == FUSED or not key.startswith(PREFIX)}
        # What protocols 0 and 1 rebuild objects with: found by every Python, and free to name another class.
        return copyreg._reconstructor, (self._ganfuse_original, object, None), state  # type: ignore[attr-defined]


def original_class(module: nn.Module) -> type[nn.Module]:
    """The class that `module` has where it is not patched."""
    return module._ganfuse_original if isinstance(module, Patched) else type(module)


def site_of(module: nn.Module) -> Site | None:
    """What `adopt` gave to the module, or None."""
    found = module.__dict__.get(_SITE)
    return found if isinstance(found, Site) else None


def cannot_adopt(module: nn.Module) -> str | None:
    """Why the module's class cannot be exchanged; None if it can."""
    if isinstance(module, Patched):
        return "it is patched already"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is compiled by TorchScript"
    kind = type(module)
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    if kind.__reduce_ex__ is not object.__reduce_ex__ or kind.__reduce__ is not object.__reduce__:
        return "its class decides itself how it is pickled"
    if hasattr(kind, "__deepcopy__") or not kind.__setstate__.__module__.startswith("torch."):
        return "its class decides itself how it is copied"
    if kind.__call__ is not nn.Module.__call__:
        return "its class has a __call__ of its own"
    return None


def adopt(module: nn.Module, methods: Mapping[str, Callable[..., Any]], site: Site, **constants: Any) -> None:
    """Give `module` a class of its own with `methods` and `constants`; `cannot_adopt` has nothing against it."""
    original = type(module)

    def fill(namespace: dict[str, Any]) -> None:
        namespace.update(methods, **constants)
        namespace["_ganfuse_original"] = original
        for name in ("__module__", "__qualname__", "__doc__"):
            namespace[name] = getattr(original, name)

    module.__class__ = new_class(original.__name__, (original, Patched), exec_body=fill)
    module.__dict__[_SITE] = site


def release(module: nn.Module) -> None:
    """Undo `adopt`."""
    assert isinstance(module, Patched)
    module.__class__ = module._ganfuse_original  # type: ignore[assignment]
    for key in [key for key in module.__dict__ if key.startswith(PREFIX)]:
        del module.__dict__[key]
