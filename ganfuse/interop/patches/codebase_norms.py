"""Norms that codebases write themselves, recognised by what they hold and proven by trying them.

* adaILN and ILN (U-GAT-IT): a parameter rho, and gamma and beta given or learnt, all (1, C, 1, 1);
* conditional batch norm with the statistics in buffers of its own (BigGAN-PyTorch) or in a child (StudioGAN), whose
  gain and bias are layers that the condition goes through; and BigGAN-PyTorch's unconditional one.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ganfuse.interop.patches.norms import KINDS, NormKind, batch_statistics, own_hooks, refuse_map, runs_fused
from ganfuse.kernels import batch_norm_act, layer_instance_norm_act

__all__ = ["Candidate", "codebase_norm", "left_codebase_norm", "norm_forward"]


class Candidate(NamedTuple):
    """What a module may be: kinds of norm, to be tried in this order, and arguments to try them with."""

    kinds: Sequence[str]
    inputs: Callable[[], Sequence[Any]]


def codebase_norm(module: nn.Module) -> Candidate | None:
    """What kinds of norm a module that is none of torch.nn's may be, by its parameters, buffers and children."""
    shapes = {name: tuple(value.shape) for name, value in module._parameters.items() if value is not None}
    buffers, children = set(module._buffers), dict(module._modules)
    if not isinstance(getattr(module, "eps", None) or getattr(children.get("bn"), "eps", None), float):
        return None
    parameters = set(shapes)
    if parameters in ({"rho"}, {"rho", "gamma", "beta"}) and not buffers and not children:
        (shape,) = set(shapes.values()) if len(set(shapes.values())) == 1 else ((),)
        if len(shape) != 4 or shape != (1, shape[1], 1, 1):
            return None
        adaptive, channels = parameters == {"rho"}, shape[1]
        kinds = [f"{'AdaLIN' if adaptive else 'ILN'}{tail}" for tail in ("", " of biased variances")]
        return Candidate(kinds, lambda: (_map(channels), *_rows(channels, 2 if adaptive else 0)))
    stored = {"stored_mean", "stored_var"}
    if parameters == {"gain", "bias"} and buffers == stored and not children:
        channels = shapes["gain"][0]
        return Candidate(["gain and bias batch norm"], lambda: (_map(channels),))
    if set(children) == {"gain", "bias"} and buffers == stored and not parameters:
        channels, make = module._buffers["stored_mean"].numel(), _condition(children["gain"])  # type: ignore[union-attr]
        if make is not None:
            kinds = ["conditional batch norm", "conditional batch norm of its momentum"]
            return Candidate(kinds, partial(_with_condition, channels, make))
    inner = children.get("bn")
    if set(children) == {"bn", "gain", "bias"} and type(inner) is nn.BatchNorm2d and not inner.affine:
        channels, make = inner.num_features, _condition(children["gain"])
        if make is not None:
            return Candidate(["conditional batch norm of a child"], partial(_with_condition, channels, make))
    return None


def left_codebase_norm(module: nn.Module) -> str | None:
    """Why a module that looks like a conditional norm is not even tried; None for other modules."""
    names = {*module._modules, *module._parameters}
    if {"gain", "bias", "bn"} <= names and type(module._modules.get("bn")) is not nn.BatchNorm2d:
        kind = type(module._modules["bn"]).__name__
        return f"its statistics are those of {kind}, which are not those of F.batch_norm"
    return None


def norm_forward(kind: str, everywhere: bool) -> Callable[..., Tensor]:
    """The forward of a norm that is patched by itself: its activation, if any, stays where it is."""
    how = KINDS[kind]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        if args and not kwargs and runs_fused(self, kind, everywhere, args):
            return how.run(self, args, "none", 0.0)
        result: Tensor = self._ganfuse_original.forward(self, *args, **kwargs)
        return result

    return forward


def _map(channels: int) -> Tensor:
    return torch.randn(3, channels, 5, 4, dtype=torch.float64) * 1.5 + 0.5


def _with_condition(channels: int, make: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    return _map(channels), make()


def _rows(channels: int, count: int) -> list[Tensor]:
    return [torch.randn(3, channels, dtype=torch.float64) for _ in range(count)]


def _condition(layer: nn.Module | None) -> Callable[[], Tensor] | None:
    """What makes a condition that the layer takes: labels of an embedding, vectors of a linear layer."""
    if isinstance(layer, nn.Embedding):
        classes = layer.num_embeddings
        return lambda: torch.arange(3) % classes
    features = getattr(layer, "in_features", None)
    return None if features is None else lambda: torch.randn(3, features, dtype=torch.float64)


def _lin_reason(module: Any, args: tuple[Any, ...]) -> str | None:
    channels = module.rho.numel()
    wrong = refuse_map(args[0], channels)
    if wrong is None and args[0].shape[2] * args[0].shape[3] == 1:
        wrong = "the map has one pixel, whose unbiased variance is not a number"
    if wrong is None and any(style.shape != args[0].shape[:2] for style in args[1:]):
        wrong = "gamma and beta are not (B, C)"
    return wrong


def _adalin(unbiased: bool) -> Callable[[nn.Module, tuple[Any, ...], str, float], Tensor]:
    def run(module: Any, args: tuple[Any, ...], activation: str, slope: float) -> Tensor:
        x, *styles = args
        gain, bias = styles or (module.gamma.flatten(), module.beta.flatten())
        return layer_instance_norm_act(
            _promoted(x, module.rho, gain, bias), module.rho.flatten(), gain, bias, eps=module.eps, unbiased=unbiased,
            activation=activation, negative_slope=slope,
        )  # fmt: skip

    return run


def _stored_reason(module: Any, args: tuple[Any, ...]) -> str | None:
    wrong = refuse_map(args[0], module.stored_mean.numel())
    if wrong is None and module.training and args[0].numel() == args[0].shape[1]:
        wrong = "there is one value per channel"
    return wrong


def _child_reason(module: Any, args: tuple[Any, ...]) -> str | None:
    wrong = refuse_map(args[0], module.bn.num_features)
    if wrong is None and module.bn.training and args[0].numel() == args[0].shape[1]:
        wrong = "there is one value per channel"
    if wrong is None and own_hooks(module.bn):
        wrong = "something is hooked to its batch norm"
    return wrong


def _styled(module: Any, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x in the result's type, and gain and bias for each sample."""
    gain, bias = module.gain(condition), module.bias(condition)
    x = _promoted(x, gain, bias)
    # Under autocast a linear layer's result is bfloat16, whose steps around 1 are of 1/128.
    return x, 1 + gain.to(torch.promote_types(gain.dtype, torch.float32)), bias


def _promoted(x: Tensor, *others: Tensor) -> Tensor:
    """x in the type that arithmetic with the others has: under autocast, parameters make a result float32."""
    dtype = x.dtype
    for other in others:
        dtype = torch.promote_types(dtype, other.dtype)
    return x.to(dtype)


def _gain_and_bias(module: Any, args: tuple[Any, ...], activation: str, slope: float) -> Tensor:
    return batch_norm_act(
        args[0], module.gain, module.bias, module.stored_mean, module.stored_var, training=module.training,
        momentum=module.momentum, eps=module.eps, activation=activation, negative_slope=slope,
    )  # fmt: skip


def _conditional(momentum: float | None) -> Callable[[nn.Module, tuple[Any, ...], str, float], Tensor]:
    def run(module: Any, args: tuple[Any, ...], activation: str, slope: float) -> Tensor:
        x, condition = args
        x, gain, bias = _styled(module, x, condition)
        return batch_norm_act(
            x, gain, bias, module.stored_mean, module.stored_var, training=module.training,
            momentum=module.momentum if momentum is None else momentum, eps=module.eps, activation=activation,
            negative_slope=slope,
        )  # fmt: skip

    return run


def _conditional_of_child(module: Any, args: tuple[Any, ...], activation: str, slope: float) -> Tensor:
    x, condition = args
    x, gain, bias = _styled(module, x, condition)
    return batch_norm_act(x, gain, bias, activation=activation, negative_slope=slope, **batch_statistics(module.bn))


for _tail, _unbiased in (("", True), (" of biased variances", False)):
    for _name in ("AdaLIN", "ILN"):
        KINDS[_name + _tail] = NormKind("layer_instance_norm_act", _adalin(_unbiased), _lin_reason, True)
# BigGAN-PyTorch hands 0.1 on, whatever momentum its layer was given.
KINDS["conditional batch norm"] = NormKind("batch_norm_act", _conditional(0.1), _stored_reason, True)
KINDS["conditional batch norm of its momentum"] = NormKind("batch_norm_act", _conditional(None), _stored_reason, True)
KINDS["conditional batch norm of a child"] = NormKind("batch_norm_act", _conditional_of_child, _child_reason, True)
KINDS["gain and bias batch norm"] = NormKind("batch_norm_act", _gain_and_bias, _stored_reason, False)
