"""Patching a model: every layer of it that is recognised, and the containers where neighbours go together."""

import types
import weakref
from collections.abc import Callable, Collection, MutableMapping
from functools import partial
from typing import Any

import torch
from torch import nn

from ganfuse.engine.layers.fuse_spectral_norms import fuse_spectral_norms, unfuse_spectral_norms
from ganfuse.interop.patches import spectral
from ganfuse.interop.patches.attention import attention_candidate
from ganfuse.interop.patches.checking import adopt_checked, fail
from ganfuse.interop.patches.codebase_norms import codebase_norm, left_codebase_norm, norm_forward
from ganfuse.interop.patches.comparing import prove
from ganfuse.interop.patches.containers import plan_for
from ganfuse.interop.patches.norms import KINDS, find_norm, left_norm
from ganfuse.interop.patches.report import PatchReport
from ganfuse.interop.patches.swapping import FUSED, Patched, Site, adopt, cannot_adopt, original_class, release
from ganfuse.interop.patches.torch_spectral import torch_normalised, wrong_spectral_norm

__all__ = ["Session", "inner_model", "is_patched", "unpatch_model"]


def inner_model(model: nn.Module) -> nn.Module:
    """The model within wrappers that call it: of torch.compile, DataParallel and DistributedDataParallel."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def is_patched(model: nn.Module) -> bool:
    """Whether any part of a model is patched."""
    return any(FUSED in module.__dict__ or isinstance(module, Patched) for module in model.modules())


def unpatch_model(model: nn.Module) -> None:
    """Undo everything that a session did to a model, or to one that it is a copy of."""
    for module in model.modules():
        # A part may have been patched by itself.
        spectral.unbatch_norms(module)
        if module.__dict__.pop(FUSED, False):
            unfuse_spectral_norms(module)
        if isinstance(module, Patched):
            release(module)


class Session:
    """One call of `patch`: what is asked for, and what is known so far.

    Args:
        check: ``""``, ``"fall back"`` or ``"raise"``.
        everywhere: take our forms also where they are slower.
        leave: names of submodules to be left alone, with all below them.
    """

    def __init__(self, report: PatchReport, check: str, everywhere: bool, leave: Collection[str]) -> None:
        self.report = report
        self.check = check
        self.everywhere = everywhere
        self.leave = tuple(leave)
        # Weakly: a session of a module's classes outlives the models that are built of them.
        self.kinds: MutableMapping[nn.Module, str] = weakref.WeakKeyDictionary()
        # By class and settings, so that one of a model's many like layers is tried, the smallest.
        self.proven: dict[Any, tuple[Any, str | None]] = {}

    def skip(self, name: str) -> bool:
        """Whether the caller said to leave a submodule alone."""
        return any(name == given or name.startswith(f"{given}.") for given in self.leave)

    def patch_model(self, model: nn.Module, root: str = "") -> None:
        """Patch all that is found in a model.

        Args:
            root: what the report calls the model.
        """
        every = [(".".join(filter(None, (root, name))), module) for name, module in model.named_modules()]
        scripted = [name for name, module in every if isinstance(module, torch.jit.ScriptModule)]
        if scripted:
            self.report.leave(scripted[0], "a compiled module", "it is compiled by TorchScript")
            every = [(name, module) for name, module in every if not isinstance(module, torch.jit.ScriptModule)]
        named = [(name, module) for name, module in every if not self.skip(name)]
        small_first = sorted(named, key=lambda item: sum(p.numel() for p in item[1].parameters(recurse=False)))
        solo = [entry for name, module in small_first if (entry := self.layer(name, module)) is not None]
        fused = self._containers(named)
        modules = dict(named)
        order = {name: place for place, (name, _) in enumerate(named)}
        for name, what, by in sorted(solo, key=lambda entry: order[entry[0]]):
            if name not in fused or modules[name] not in self.kinds:
                self.report.add(name, what, by)
        inner = {part for module in self.kinds if isinstance(module, Patched) for part in module.modules()}
        seen = fused | {entry.where for entry in self.report.left}
        for name, module in named:
            if module in self.kinds and module not in inner and name not in seen:
                self.report.leave(name, type(module).__name__, "no activation follows it in the forward that calls it")
        self._spectral(model, every)

    def layer(self, name: str, module: nn.Module) -> tuple[str, str, str] | None:
        """Patch a module that is recognised by itself; what to report of it."""
        what = type(module).__name__
        if type(module).__module__.startswith("ganfuse."):
            return None
        kind = find_norm(module)
        if kind is not None:
            self.kinds[module] = kind
            return None
        why = left_norm(module) or left_codebase_norm(module) or spectral.left_spectral(module)
        if why is not None:
            self.report.leave(name, what, why)
            return None
        for find in (self._codebase_norm, self._attention, self._normalised):
            found = find(name, module)
            if found is not None:
                return name, what, found
        return None

    def _codebase_norm(self, name: str, module: nn.Module) -> str | None:
        candidate = codebase_norm(module)
        if candidate is None:
            return None

        def trial(kind: str) -> str | None:
            methods = {"forward": norm_forward(kind, True)}
            return prove(module, lambda copy: adopt(copy, methods, Site(self.report, name, "")), candidate.inputs)

        kind = self._first(name, module, candidate.kinds, trial)
        if kind is None:
            return None
        self.kinds[module] = kind
        adopt_checked(module, {"forward": norm_forward(kind, self.everywhere)}, self._site(name, module))
        note = "" if KINDS[kind].on_cpu or self.everywhere else " (on CPUs as before)"
        return f"{KINDS[kind].label}{note}"

    def _attention(self, name: str, module: nn.Module) -> str | None:
        candidate = attention_candidate(module)
        if candidate is None:
            return None

        def trial(forward: Callable[..., Any]) -> str | None:
            methods = {"forward": forward}
            return prove(module, lambda copy: adopt(copy, methods, Site(self.report, name, "")), candidate.inputs)

        forward = self._first(name, module, candidate.forwards, trial)
        if forward is None:
            return None
        adopt_checked(module, {"forward": forward}, self._site(name, module))
        return "feature_attention"

    def _normalised(self, name: str, module: nn.Module) -> str | None:
        if not spectral.normalises_itself(module):
            return None

        def trial(_: str) -> str | None:
            site = Site(self.report, name, "")
            return prove(module, lambda copy: spectral.adopt_norm(copy, site), tuple, "W_")

        if self._first(name, module, ("biggan",), trial) is None:
            return None
        spectral.adopt_norm(module, self._site(name, module))
        return "spectral_normalize"

    def _first(self, name: str, module: nn.Module, candidates: Any, trial: Callable[[Any], str | None]) -> Any:
        """The first candidate that computes the same, tried once per class and settings; None: reported why."""
        why = cannot_adopt(module)
        if why is not None:
            self.report.leave(name, type(module).__name__, why)
            return None
        key = _settings(module)
        if key not in self.proven:
            reasons = []
            for candidate in candidates:
                wrong = trial(candidate)
                if wrong is None:
                    self.proven[key] = candidate, None
                    break
                reasons.append(wrong)
            else:
                self.proven[key] = None, reasons[0]
        found, why = self.proven[key]
        if why is not None:
            self.report.leave(name, type(module).__name__, why)
        return found

    def _containers(self, named: list[tuple[str, nn.Module]]) -> set[str]:
        """Patch modules that call others; names of the children that are part of something fused."""
        fused: set[str] = set()
        for name, module in named:
            if not _calls_others(module) or module in self.kinds or isinstance(module, Patched):
                continue
            prefix = f"{name}." if name else ""
            plan = plan_for(module, self.kinds, self.everywhere, partial(self._skip_child, prefix))
            why = cannot_adopt(module) if plan.forward is not None else None
            for child, what, reason in plan.left:
                self.report.leave(prefix + child, what, reason)
            if why is not None:
                self.report.leave(name, type(module).__name__, why)
            elif plan.forward is not None:
                site = self._site(name, module)
                site.entries = [(prefix + child, what) for child, what, _ in plan.replaced]
                adopt_checked(module, {"forward": plan.forward}, site)
                for child, what, by in plan.replaced:
                    self.report.add(prefix + child, what, by)
                    fused.add(prefix + child)
        return fused

    def _skip_child(self, prefix: str, child: str) -> bool:
        return self.skip(prefix + child)

    def _spectral(self, model: nn.Module, every: list[tuple[str, nn.Module]]) -> None:
        if any(spectral.is_fused(module) for module in model.modules()):
            self.report.leave("", "spectral norms", "they are computed together already")
            return
        ours = [module for _, module in every if spectral.is_adopted(module)]
        theirs = [(name, module) for name, module in every if torch_normalised(module)]
        kept = [name for name, _ in theirs if self.skip(name)]
        wrong = None
        if theirs and self.check and not kept:
            wrong = next((f"{name}: {w}" for name, module in theirs if (w := wrong_spectral_norm(module))), None)
        if kept:
            self.report.leave("", "spectral norms", f"{kept[0]} was to be left, and they are computed together")
        elif wrong is not None:
            self.report.leave("", "spectral norms", fail("spectral norms", wrong, self.check))
        elif theirs:
            fuse_spectral_norms(model)
            model.__dict__[FUSED] = True
            for name, module in theirs:
                self.report.add(name, f"spectral norm of {original_class(module).__name__}", "fuse_spectral_norms")
        if ours:
            spectral.batch_norms(model, ours)

    def _site(self, name: str, module: nn.Module) -> Site:
        return Site(self.report, name or "the model", type(module).__name__, self.check)


def _calls_others(module: nn.Module) -> bool:
    kind = original_class(module)
    if not module._modules or kind.forward is nn.Module.forward:
        return False
    home = kind.__module__
    return kind is nn.Sequential or not home.startswith(("torch.nn.", "ganfuse."))


# Whole numbers below are choices, such as a stride; above they are sizes, of which the smallest stands for all.
_LEAST_SIZE = 16
_SETTINGS = (bool, float, str, type(None), types.FunctionType, types.BuiltinFunctionType, type)


def _settings(module: nn.Module) -> tuple[Any, ...]:
    """What decides, beside sizes, what a layer computes."""
    plain = {
        name: value
        for name, value in vars(module).items()
        if (isinstance(value, _SETTINGS) or (isinstance(value, int) and value < _LEAST_SIZE))
        and not name.startswith("_")
        and name != "training"
    }
    children = tuple((name, type(child)) for name, child in module._modules.items())
    dims = tuple((name, value.dim()) for name, value in module._parameters.items() if value is not None)
    return type(module), tuple(sorted(plain.items(), key=str)), children, dims
