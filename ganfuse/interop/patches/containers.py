"""Modules that call others, whose forward is rewritten where neighbours in it can be computed together.

Found in what `tracing.trace` tells of the forward: a norm whose result goes to an activation and nowhere else, a
nearest ×2 upsampling (and a mirroring pad) that goes to a convolution, a convolution that goes to a 2×2 mean. The
children stay as they are, and where they are; anything that reaches them in another way finds what it found before.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ganfuse.interop.patches.convolutions import (
    conv_pool,
    doubles,
    halves,
    keeps_size,
    pads_one,
    upsample_conv,
)
from ganfuse.interop.patches.norms import KINDS, activation_of, norm_act, own_hooks
from ganfuse.interop.patches.swapping import site_of
from ganfuse.interop.patches.tracing import Traced, children_of, same, trace

__all__ = ["Plan", "plan_for"]

_log = logging.getLogger("ganfuse")
_RELU = {torch.relu, torch.relu_, F.relu, F.relu_}


class Plan(NamedTuple):
    """A forward in place of a module's own.

    Attributes:
        forward: the method.
        replaced: name of the child, what is fused, by what; for the report.
        left: name of the child, what could be, why it was not.
    """

    forward: Callable[..., Any] | None
    replaced: list[tuple[str, str, str]]
    left: list[tuple[str, str, str]]


def plan_for(module: nn.Module, kinds: Mapping[nn.Module, str], everywhere: bool, skip: Callable[[str], bool]) -> Plan:
    """What can be fused in the forward of `module`.

    Args:
        kinds: of norms, by module (see `norms.KINDS`).
        everywhere: also where that is slower.
        skip: whether a child is to be left alone, by its name in `module`.
    """
    traced = trace(module)
    if isinstance(traced, str):
        found = _neighbours(module, kinds)
        return Plan(None, [], [] if found is None else [(*found, traced)])
    rewriter = _Rewriter(module, traced.graph, kinds, everywhere, skip)
    rewriter.run()
    if not rewriter.replaced:
        return Plan(None, [], rewriter.left)
    return Plan(_forward(module, traced, rewriter.unhooked), rewriter.replaced, rewriter.left)


def _neighbours(module: nn.Module, kinds: Mapping[nn.Module, str]) -> tuple[str, str] | None:
    """A child, and what it is, for which it is a pity that the forward is not known."""
    children = dict(module.named_children())
    acts = any(activation_of(child) is not None for child in children.values())
    for name, child in children.items():
        if child in kinds and acts:
            return name, f"{type(child).__name__} and its activation"
    return None


class _Rewriter:
    def __init__(
        self, module: nn.Module, graph: fx.Graph, kinds: Mapping[nn.Module, str], everywhere: bool,
        skip: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self.module, self.graph, self.kinds, self.everywhere, self.skip = module, graph, kinds, everywhere, skip
        self.replaced: list[tuple[str, str, str]] = []
        self.left: list[tuple[str, str, str]] = []
        # Children whose part is done elsewhere, with what they are if they are activations.
        self.unhooked: list[tuple[str, tuple[str, float] | None]] = []
        self.gone: set[fx.Node] = set()

    def run(self) -> None:
        for node in list(self.graph.nodes):
            if node in self.gone:
                continue
            child = self._child(node)
            if child is not None and child in self.kinds:
                self._norm(node, child)
            elif doubles(node.target, node.args, node.kwargs, child):
                self._upsampling(node)
        for node in list(self.graph.nodes):
            if halves(node.target, node.args, node.kwargs, self._child(node)):
                self._pooling(node)

    def _child(self, node: fx.Node) -> nn.Module | None:
        return self.module.get_submodule(str(node.target)) if node.op == "call_module" else None

    def _norm(self, node: fx.Node, child: nn.Module) -> None:
        what = type(child).__name__
        user = _only_user(node)
        activation = None if user is None else self._activation(user)
        if activation is None or user is None:
            if any(self._activation(other) for other in node.users):
                self._leave(node, f"{what} and its activation", "its result is used elsewhere, too")
            return
        if self.skip(str(node.target)) or node.kwargs:
            return
        (name, slope), act = activation
        with self.graph.inserting_before(node):
            module = self.graph.create_node("get_attr", str(node.target))
            args = (module, self.kinds[child], self.everywhere, name, slope, *node.args)
            fused = self.graph.call_function(norm_act, args)
        user.replace_all_uses_with(fused)
        self._erase(user, node)
        self.unhooked.append((str(node.target), None))
        if user.op == "call_module":
            self.unhooked.append((str(user.target), (name, slope)))
        kind = KINDS[self.kinds[child]]
        note = "" if kind.on_cpu or self.everywhere else " (on CPUs as before)"
        self.replaced.append((str(node.target), f"{what} + {act}", f"{kind.label}{note}"))

    def _activation(self, node: fx.Node) -> tuple[tuple[str, float], str] | None:
        """Name and slope of an activation of one input, and what it is called in the model."""
        child = self._child(node)
        if child is not None:
            found = activation_of(child)
            return None if found is None or len(node.args) != 1 or node.kwargs else (found, type(child).__name__)
        given = set(node.kwargs) - {"inplace"}
        if node.op == "call_function" and node.target in _RELU and not given and len(node.args) <= 2:
            return ("relu", 0.0), "relu"
        if node.op == "call_method" and node.target in ("relu", "relu_") and len(node.args) == 1 and not node.kwargs:
            return ("relu", 0.0), "relu"
        if node.op == "call_function" and node.target in (F.leaky_relu, F.leaky_relu_) and given <= {"negative_slope"}:
            slope = node.kwargs.get("negative_slope", node.args[1] if len(node.args) > 1 else 0.01)
            return (("leaky_relu", float(slope)), "leaky_relu") if isinstance(slope, (int, float)) else None
        if node.op == "call_function" and node.target is F.silu and not given and len(node.args) <= 2:
            return ("silu", 0.0), "silu"
        return None

    def _upsampling(self, node: fx.Node) -> None:
        user = _only_user(node)
        what = "nearest ×2"
        before = [node]
        if user is not None and pads_one(self._child(user)):
            before.append(user)
            what, user = "nearest ×2 + ReflectionPad2d", _only_user(user)
        conv = None if user is None else self._child(user)
        if user is None or not isinstance(conv, nn.Conv2d) or user.args != (before[-1],) or user.kwargs:
            return
        what = f"{what} + {type(conv).__name__}"
        if self.skip(str(user.target)):
            return
        reason = keeps_size(conv, padded=len(before) > 1)
        if reason is not None:
            self._leave(user, what, reason)
            return
        # Not where the convolution is: until then something may have changed x in place.
        with self.graph.inserting_before(node):
            module = self.graph.create_node("get_attr", str(user.target))
            steps = [
                self.graph.create_node("get_attr", str(step.target)) if step.op == "call_module" else None
                for step in before
            ]
            x = node.args[0] if node.args else node.kwargs["input"]
            # The steps themselves, for inputs that the kernel does not take.
            args = (module, "reflect" if len(before) > 1 else "zeros", tuple(steps), x)
            fused = self.graph.call_function(upsample_conv, args)
        user.replace_all_uses_with(fused)
        self._erase(user, *reversed(before))
        self.unhooked += [(str(step.target), None) for step in before if step.op == "call_module"]
        self.replaced.append((str(user.target), what, "upsample_conv2d"))

    def _pooling(self, node: fx.Node) -> None:
        source = node.args[0] if node.args else node.kwargs.get("input")
        conv = self._child(source) if isinstance(source, fx.Node) else None
        if not isinstance(source, fx.Node) or not isinstance(conv, nn.Conv2d) or len(source.args) != 1 or source.kwargs:
            return
        what = f"{type(conv).__name__} + average pool"
        if self.skip(str(source.target)):
            return
        reason = "its result is used elsewhere, too" if _only_user(source) is not node else keeps_size(conv)
        if reason is not None:
            self._leave(source, what, reason)
            return
        # Likewise not where the pooling is.
        with self.graph.inserting_before(source):
            module = self.graph.create_node("get_attr", str(source.target))
            fused = self.graph.call_function(conv_pool, (module, source.args[0]))
        node.replace_all_uses_with(fused)
        self._erase(node, source)
        self.unhooked += [(str(node.target), None)] if node.op == "call_module" else []
        self.replaced.append((str(source.target), what, "conv2d_downsample"))

    def _erase(self, *nodes: fx.Node) -> None:
        for node in nodes:
            self.graph.erase_node(node)
            self.gone.add(node)

    def _leave(self, node: fx.Node, what: str, why: str) -> None:
        self.left.append((str(node.target), what, why))


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _forward(
    module: nn.Module, traced: Traced, unhooked: list[tuple[str, tuple[str, float] | None]]
) -> Callable[..., Any]:  # fmt: skip
    """The method that runs the rewritten graph, where what it was made from still holds."""
    code = traced.graph.python_code("self")
    namespace = dict(code.globals)
    exec(code.src, namespace)
    rewritten = namespace["forward"]
    children, reads = children_of(module), traced.reads
    names = [node.name for node in traced.graph.nodes if node.op == "placeholder"]
    count = len(names)

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        why = None
        if kwargs or len(args) != count or not all(isinstance(arg, Tensor) for arg in args):
            why = "it was called with other arguments than tensors in their order"
        elif children_of(self) != children:
            why = "its children are others than when it was patched"
        elif not all(same(getattr(self, name), value) for name, value in reads):
            why = "its attributes are others than when it was patched"
        else:
            why = _changed(self, unhooked)
        if why is None:
            return rewritten(self, *args)
        _note(self, why)
        return self._ganfuse_original.forward(self, *args, **kwargs)

    return forward


def _changed(module: nn.Module, unhooked: list[tuple[str, tuple[str, float] | None]]) -> str | None:
    for name, activation in unhooked:
        child = module.get_submodule(name)
        if own_hooks(child):
            return "something is hooked to its children"
        if activation is not None and activation_of(child) != activation:
            return "its activation is another than when it was patched"
    return None


def _note(module: nn.Module, why: str) -> None:
    site = site_of(module)
    if site is not None and not site.noted:
        site.noted = True
        site.report.leave(site.where, site.what, f"in some calls, because {why}")
        _log.warning("%s runs as before it was patched, because %s", site.where, why)
