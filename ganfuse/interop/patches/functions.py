"""Patching functions of a codebase's modules: looked up in a module at each call, they are replaced there."""

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ganfuse.interop.patches.checking import fail
from ganfuse.interop.patches.comparing import compare_functions
from ganfuse.interop.patches.report import PatchReport
from ganfuse.interop.patches.style_ops import LEFT, OPS, Op, replacement

__all__ = ["modules_of", "modules_with_ops", "patch_functions", "submodules", "unpatch_functions"]


@dataclass
class _Replaced:
    """A function that is replaced, everywhere that it is bound to a name.

    Attributes:
        owners: keys of the patches that asked for it; it is put back when the last one is undone.
    """

    original: Callable[..., Any]
    ours: Callable[..., Any]
    by: str
    owners: set[Any] = field(default_factory=set)


# By the id of the original, which the entry keeps alive.
_replaced: dict[int, _Replaced] = {}


def submodules(package: ModuleType, report: PatchReport) -> list[ModuleType]:
    """The module, and those directly below it if it is a package; what cannot be imported is reported."""
    found = [package]
    for entry in pkgutil.iter_modules(getattr(package, "__path__", [])):
        if entry.ispkg or entry.name not in _HOMES:
            continue
        name = f"{package.__name__}.{entry.name}"
        try:
            found.append(importlib.import_module(name))
        except Exception as error:
            report.leave(name, "a module", f"it cannot be imported ({type(error).__name__}: {error})")
    return found


_HOMES = {op.name for op in OPS} | {"conv2d_gradfix", "filtered_lrelu", "grid_sample_gradfix"}


def modules_of(model: nn.Module) -> list[ModuleType]:
    """The modules in which the classes of a model's layers, and the classes that these inherit from, are written."""
    names = {kind.__module__ for layer in model.modules() for kind in type(layer).__mro__ if kind is not object}
    return [sys.modules[name] for name in sorted(names) if name in sys.modules and not _is_library(name)]


def modules_with_ops(start: Iterable[ModuleType]) -> list[ModuleType]:
    """Those modules, the ones that they use by name, and loaded ones that use the same; where functions of OPS are."""
    homes = list(dict.fromkeys(start))
    for _ in range(2):
        # The networks' module uses conv2d_resample's, which uses upfirdn2d's.
        used = [value for module in homes for value in list(vars(module).values()) if isinstance(value, ModuleType)]
        homes = list(dict.fromkeys([*homes, *(module for module in used if _is_relevant(module))]))
    homes = [module for module in homes if _is_relevant(module)]
    users = [
        module
        for module in list(sys.modules.values())
        if isinstance(module, ModuleType)
        and any(value in homes for value in _modules_in(module))
        and _functions(module)
    ]
    return list(dict.fromkeys([*homes, *users]))


def patch_functions(
    modules: Iterable[ModuleType], owner: Any, report: PatchReport, check: str, skip: Callable[[str], bool]
) -> None:
    """Replace the functions of OPS in the modules, and wherever else they are bound to a name.

    Args:
        owner: names this patch for `unpatch_functions`.
    """
    # Where a function is written comes before where it is imported to.
    modules = sorted(modules, key=lambda module: module.__name__.rsplit(".", 1)[-1] not in _HOMES)
    for module in modules:
        for op, function in _functions(module):
            where = f"{module.__name__}.{op.name}"
            if skip(where) or skip(op.name):
                continue
            _patch_function(op, function, where, owner, report, check)
        for name, why in LEFT.items():
            if _is_left(module, vars(module).get(name)):
                report.leave(f"{module.__name__}.{name}", name, why)


def unpatch_functions(owner: Any) -> bool:
    """Put back what only this owner asked for; whether it had asked for anything."""
    mine = [entry for entry in _replaced.values() if owner in entry.owners]
    for entry in mine:
        entry.owners.discard(owner)
        if not entry.owners:
            _rebind(entry.ours, entry.original)
            del _replaced[id(entry.original)]
    return bool(mine)


def _patch_function(
    op: Op, function: Callable[..., Any], where: str, owner: Any, report: PatchReport, check: str
) -> None:
    known = next((entry for entry in _replaced.values() if function in (entry.ours, entry.original)), None)
    if known is not None:
        if owner not in known.owners:
            known.owners.add(owner)
            report.add(where, op.name, f"{known.by} (already)")
        return
    ours = replacement(op, function)
    # Not `ours`, which would leave to the original what it refuses.
    wrong = _tried(op, function, op.make(function))
    if wrong is not None:
        report.leave(where, op.name, wrong)
        return
    entry = _Replaced(function, ours, op.by, {owner})
    if check and op.trials is not tuple:
        entry.ours = ours = _checked(function, ours, where, op.name, report, check, entry)
    _replaced[id(function)] = entry
    _rebind(function, ours)
    report.add(where, op.name, op.by)


def _tried(op: Op, function: Callable[..., Any], ours: Callable[..., Any]) -> str | None:
    """What ours computes otherwise, or why it could not be tried; None: nothing."""
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for args, kwargs in op.trials():
                wrong = compare_functions(function, ours, args, kwargs, every=False)
                if wrong is not None:
                    return f"it computes something else ({wrong})"
    except Exception as error:
        return f"it could not be tried ({type(error).__name__}: {error})"
    return None


def _checked(
    function: Callable[..., Any], ours: Callable[..., Any], where: str, name: str, report: PatchReport, check: str,
    entry: _Replaced,
) -> Callable[..., Any]:  # fmt: skip
    """Ours, compared with the original at the first call."""
    pending = True

    def first_checked(*args: Any, **kwargs: Any) -> Any:
        nonlocal pending
        if pending:
            pending = False
            wrong = compare_functions(function, ours, args, kwargs, every=False)
            if wrong is not None:
                _rebind(first_checked, function)
                _replaced.pop(id(entry.original), None)
                report.withdraw([(where, name)], fail(where, wrong, check))
                return function(*args, **kwargs)
        return ours(*args, **kwargs)

    first_checked.__dict__.update(ours.__dict__)
    return first_checked


def _functions(module: ModuleType) -> list[tuple[Op, Callable[..., Any]]]:
    """Functions of a module that have the name and the parameters of one of OPS."""
    found = []
    for op in OPS:
        function = vars(module).get(op.name)
        if not callable(function) or isinstance(function, type):
            continue
        entry = next((entry for entry in _replaced.values() if entry.ours is function), None)
        original = function if entry is None else entry.original
        if _parameters(original)[: len(op.parameters)] == op.parameters:
            found.append((op, function))
    return found


def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        names = tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
    if names != ("args", "kwargs"):
        return names
    # Wrapped for a profiler, by a decorator that does not say what it wraps.
    for cell in getattr(function, "__closure__", None) or ():
        if inspect.isfunction(cell.cell_contents):
            return _parameters(cell.cell_contents)
    return ()


def _is_left(module: ModuleType, function: Any) -> bool:
    """Whether a function of LEFT's names is that of such a codebase, and written in this module."""
    home = module.__name__.rsplit(".", 1)[-1] in _HOMES
    return home and inspect.isfunction(function) and not _is_library(function.__module__)


def _is_relevant(module: ModuleType) -> bool:
    if _is_library(module.__name__):
        return False
    return bool(_functions(module)) or any(_is_left(module, vars(module).get(name)) for name in LEFT)


def _modules_in(module: ModuleType) -> list[ModuleType]:
    if _is_library(module.__name__):
        return []
    return [value for value in list(vars(module).values()) if isinstance(value, ModuleType)]


def _rebind(before: Callable[..., Any], after: Callable[..., Any]) -> None:
    """Put one function in another's place in all modules, under whatever name they imported it."""
    for module in list(sys.modules.values()):
        if isinstance(module, ModuleType) and not _is_library(module.__name__):
            for name, value in list(vars(module).items()):
                if value is before:
                    setattr(module, name, after)


def _is_library(name: str) -> bool:
    return name.split(".")[0] in ("torch", "ganfuse", "numpy", "builtins", "scipy", "typing", "torchvision")
