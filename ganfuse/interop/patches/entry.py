"""The two public functions."""

import importlib
import weakref
from collections.abc import Collection
from types import ModuleType
from typing import Literal

from torch import nn

from ganfuse.interop.patches.classes import PatchedClasses
from ganfuse.interop.patches.functions import (
    modules_of,
    modules_with_ops,
    patch_functions,
    submodules,
    unpatch_functions,
)
from ganfuse.interop.patches.models import Session, inner_model, is_patched, unpatch_model
from ganfuse.interop.patches.report import PatchReport

__all__ = ["patch", "unpatch"]

_classes: dict[str, PatchedClasses] = {}
# Models for whose sake functions were replaced.
_owners: "weakref.WeakKeyDictionary[nn.Module, object]" = weakref.WeakKeyDictionary()


def patch(
    target: nn.Module | ModuleType | str,
    *,
    check: bool | Literal["raise"] = False,
    everywhere: bool = False,
    leave: Collection[str] = (),
    verbose: bool = True,
) -> PatchReport:
    """Let the slow layers of an existing codebase run on ganfuse's kernels, in place; prints and returns what it did.

    A **model** is patched layer by layer: norms followed by an activation (BatchNorm2d, InstanceNorm2d, GroupNorm, and
    the conditional and layer-instance norms of BigGAN-PyTorch, StudioGAN and U-GAT-IT), nearest ×2 upsampling and the
    convolution behind it, convolution and 2×2 mean, self-attention, spectral normalisation. Functions that its classes
    share with all of their codebase (upfirdn2d, bias_act, modulated_conv2d, ... of StyleGAN2-ADA and StyleGAN3) are
    replaced for all of it.

    A **module** of an installed codebase, or its name: its functions of those kinds are replaced, and whatever is built
    of its classes, before or after, is patched when it is first called.

    What is replaced is found by its attributes and behaviour: layers that a codebase wrote itself are tried beside ours
    first, in float64, values and derivatives; what calls them must do the same in every call, as far as can be proven
    from its code. All else is left, with the reason in the report. Parameters, buffers, hooks, modes and keys of the
    state dict are untouched; optimisers, DistributedDataParallel, deep copies and DataParallel work as before; a
    pickle of a patched model holds it unpatched, but for spectral norms, for which loading it needs ganfuse.

    Args:
        target: the model (also within DistributedDataParallel and torch.compile's wrapper), or the module.
        check: compare every replacement with the original in its first call, with that call's inputs: result, gradients
            and second derivatives. Where they differ beyond rounding, True puts the original back, with a warning and
            in the report; ``"raise"`` raises. That call takes several times as long, and memory for two copies of the
            layer.
        everywhere: use our forms also where they were measured to be slower (on CPUs: plain batch norm and group norm),
            where by default the original runs.
        leave: names of submodules, classes or functions to be left alone; of submodules with all that is in them.
        verbose: print the report.

    Returns:
        What was replaced by what, what was left, and why.

    Raises:
        ValueError: `target` is patched already, is no model or module, or cannot be imported.
        PatchError: in the first call, with ``check="raise"``.

    Example::

        report = ganfuse.interop.patch(generator)
        ganfuse.interop.patch("torch_utils.ops")
    """
    if not isinstance(check, bool) and check != "raise":
        raise ValueError(f"check must be False, True or 'raise', got {check!r}")
    how = "raise" if check == "raise" else "fall back" if check else ""
    if isinstance(leave, str):
        raise ValueError(f"leave must be a list of names, got the text {leave!r}")
    if isinstance(target, nn.Module):
        report = _patch_model(inner_model(target), how, everywhere, leave)
    else:
        report = _patch_module(_module(target), how, everywhere, leave)
    if verbose:
        print(report)
    return report


def unpatch(target: nn.Module | ModuleType | str) -> None:
    """Undo `patch`: everything runs the code that it ran before.

    Of a module, also in what was built of its classes and called since. A deep copy of a patched model is a target of
    its own: it is unpatched by itself.

    Raises:
        ValueError: `target` is not patched.
    """
    if isinstance(target, nn.Module):
        model = inner_model(target)
        owner = _owners.pop(model, None)
        found = owner is not None and unpatch_functions(owner)
        if not is_patched(model) and not found:
            raise ValueError(f"target: {type(model).__name__} is not patched")
        unpatch_model(model)
        return
    name = _module(target).__name__
    classes = _classes.pop(name, None)
    if not unpatch_functions(name) and classes is None:
        raise ValueError(f"target: {name} is not patched")
    if classes is not None:
        classes.undo()


def _patch_model(model: nn.Module, check: str, everywhere: bool, leave: Collection[str]) -> PatchReport:
    if is_patched(model) or model in _owners:
        raise ValueError(f"target: {type(model).__name__} is patched already; unpatch it first")
    report = PatchReport(type(model).__name__)
    session = Session(report, check, everywhere, leave)
    session.patch_model(model)
    modules = modules_with_ops(modules_of(model))
    if modules:
        owner = _owners[model] = object()
        patch_functions(modules, owner, report, check, session.skip)
    return report


def _patch_module(module: ModuleType, check: str, everywhere: bool, leave: Collection[str]) -> PatchReport:
    name = module.__name__
    if name in _classes:
        raise ValueError(f"target: {name} is patched already; unpatch it first")
    report = PatchReport(name)
    session = Session(report, check, everywhere, ())
    modules = submodules(module, report)
    patch_functions(modules_with_ops(modules), name, report, check, lambda where: where in leave)
    classes = _classes[name] = PatchedClasses(modules, session, leave)
    for kind in classes.classes:
        report.add(f"{kind.__module__}.{kind.__name__}", "class", "what is found in its instances at their first call")
    return report


def _module(target: ModuleType | str) -> ModuleType:
    if isinstance(target, ModuleType):
        return target
    if not isinstance(target, str):
        raise ValueError(f"target: expected a model, a module or its name, got {type(target).__name__}")
    try:
        return importlib.import_module(target)
    except ImportError as error:
        raise ValueError(f"target: cannot import {target!r}: {error}") from error
