"""The operations of StyleGAN2-ADA, StyleGAN3 and what is built on them: which functions, and what stands in for them.

A function is recognised by its name and its parameters' names, and tried on small inputs in float64 beside ours before
it is replaced (`OPS` has the inputs).
"""

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ganfuse.kernels import bias_act, modulated_conv2d, no_weight_gradients, setup_filter, upfirdn2d
from ganfuse.kernels.conv2d_resample import conv2d_resample
from ganfuse.kernels.modulated_conv2d.demodulation import demodulation
from ganfuse.kernels.scaled_bias_act import scaled_bias_act

__all__ = ["LEFT", "OPS", "Op", "replacement"]

_log = logging.getLogger("ganfuse")


Trial: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]


class Op(NamedTuple):
    """A function of those codebases.

    Attributes:
        name: its name there.
        parameters: names of its parameters, in order; those after the last of these are its own business.
        by: for the report.
        make: our function, given the original.
        trials: arguments to try both with; empty where there is nothing to compare.
    """

    name: str
    parameters: tuple[str, ...]
    by: str
    make: Callable[[Callable[..., Any]], Callable[..., Any]]
    trials: Callable[[], Sequence[Trial]]


# What has no form of ours, by name, and why it may stay.
LEFT = {
    "filtered_lrelu": "there is no kernel for it; where its plugin is not used, it is made of ops that were replaced",
    "conv2d": "it is PyTorch's own convolution, which leaves out weight gradients that nobody waits for",
    "grid_sample": "PyTorch's own is differentiable twice",
}


def replacement(op: Op, original: Callable[..., Any]) -> Callable[..., Any]:
    """Our function under the original's name and signature; what ours refuses, the original computes."""
    ours = op.make(original)
    refused: set[str] = set()

    @functools.wraps(original)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        try:
            return ours(*args, **kwargs)
        except ValueError as error:
            # Checked before anything is computed; what is wrong with the call, the original says itself.
            result = original(*args, **kwargs)
            reason = str(error)
            if reason not in refused:
                refused.add(reason)
                _log.warning("%s: a call is computed as before it was patched: %s", op.name, reason)
            return result

    return replaced


def _make_upfirdn2d(original: Callable[..., Any]) -> Callable[..., Any]:
    def ours(
        x: Tensor, f: Tensor | None, up: Any = 1, down: Any = 1, padding: Any = 0, flip_filter: bool = False,
        gain: float = 1, impl: str = "cuda",
    ) -> Tensor:  # fmt: skip
        if impl == "ref":
            return original(x, f, up, down, padding, flip_filter, gain, impl)  # type: ignore[no-any-return]
        return upfirdn2d(x, f, _numbers(up), _numbers(down), _numbers(padding), flip_filter, float(gain))

    return ours


def _make_bias_act(original: Callable[..., Any]) -> Callable[..., Any]:
    def ours(
        x: Tensor, b: Tensor | None = None, dim: int = 1, act: str = "linear", alpha: float | None = None,
        gain: float | None = None, clamp: float | None = None, impl: str = "cuda",
    ) -> Tensor:  # fmt: skip
        if impl == "ref":
            return original(x, b, dim, act, alpha, gain, clamp, impl)  # type: ignore[no-any-return]
        return bias_act(x, b, dim, act, _number(alpha), _number(gain), _number(clamp))

    return ours


def _make_conv2d_resample(original: Callable[..., Any]) -> Callable[..., Any]:
    def ours(
        x: Tensor, w: Tensor, f: Tensor | None = None, up: int = 1, down: int = 1, padding: Any = 0, groups: int = 1,
        flip_weight: bool = True, flip_filter: bool = False,
    ) -> Tensor:  # fmt: skip
        if x.dim() != 4 or w.dim() != 4 or x.dtype != w.dtype or min(up, down) < 1:
            return original(x, w, f, up, down, padding, groups, flip_weight, flip_filter)  # type: ignore[no-any-return]
        return conv2d_resample(x, w, f, up, down, _numbers(padding), groups, flip_weight, flip_filter)

    return ours


def _make_modulated_conv2d(original: Callable[..., Any]) -> Callable[..., Any]:
    def ours(
        x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None = None, up: int = 1, down: int = 1,
        padding: Any = 0, resample_filter: Tensor | None = None, demodulate: bool = True, flip_weight: bool = True,
        fused_modconv: bool = True,
    ) -> Tensor:  # fmt: skip
        return modulated_conv2d(
            x, weight, styles, noise, up, down, _numbers(padding), resample_filter, demodulate, flip_weight
        )

    return ours


def _make_modulated_conv2d_of_stylegan3(original: Callable[..., Any]) -> Callable[..., Any]:
    def ours(
        x: Tensor, w: Tensor, s: Tensor, demodulate: bool = True, padding: Any = 0, input_gain: Tensor | None = None
    ) -> Tensor:
        if x.device.type == "cpu" and not _scaling_is_smaller(x, w):
            return original(x, w, s, demodulate, padding, input_gain)  # type: ignore[no-any-return]
        factors = None
        if demodulate:
            # Karras et al. 2021, "Alias-Free Generative Adversarial Networks", appendix F: weights and styles of mean
            # square 1 before demodulation, against overflow.
            w = w * w.square().mean((1, 2, 3), keepdim=True).rsqrt()
            s = s * s.square().mean().rsqrt()
            factors = demodulation(w, s)
        if input_gain is not None:
            s = s * input_gain.expand(x.shape[0], w.shape[1])
        y = scaled_bias_act(x, s)
        y = conv2d_resample(y, w.to(x.dtype), padding=_numbers(padding))
        return y if factors is None else scaled_bias_act(y, factors)

    return ours


def _scaling_is_smaller(x: Tensor, w: Tensor) -> bool:
    """Whether to scale the maps costs a CPU less than to make weights for each sample."""
    outputs, _, kh, kw = w.shape
    return 2 * outputs * kh * kw > x.shape[2] * x.shape[3]


def _make_no_weight_gradients(original: Callable[..., Any]) -> Callable[..., Any]:
    @contextlib.contextmanager
    def ours(disable: bool = True) -> Iterator[None]:
        with original(disable), no_weight_gradients() if disable else contextlib.nullcontext():
            yield

    return ours


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _numbers(value: Any) -> Any:
    """Integers, also where they came as NumPy's."""
    return [int(part) for part in value] if isinstance(value, (list, tuple)) else int(value)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def _upfirdn2d_trials() -> Sequence[Trial]:
    x, square, long = _random(2, 3, 7, 6), setup_filter([1, 3, 3, 1]), setup_filter([1.0, 4, 2, 6, 3, 5, 2, 1, 7])
    return [
        ((x, None), {}),
        ((x, square), {"up": 2, "padding": [2, 1, 2, 1], "gain": 4}),
        ((x, square, 1, 2, [1, 1, 1, 1], True), {}),
        ((x, long), {"up": [2, 1], "down": [1, 2], "padding": [5, -1, 6, 4], "gain": 1.5}),
    ]


def _bias_act_trials() -> Sequence[Trial]:
    x, b = _random(3, 4, 5, 2), _random(4)
    calls: list[Trial] = [((x, b), {"act": act}) for act in ("linear", "relu", "lrelu", "swish")]
    return [
        *calls,
        ((x, b), {"act": "lrelu", "alpha": 0.1, "gain": 3.0, "clamp": 0.7}),
        ((x.flatten(1), None), {"act": "tanh"}),
    ]


def _conv2d_resample_trials() -> Sequence[Trial]:
    x, w, one, f = _random(2, 4, 8, 6), _random(6, 4, 3, 3), _random(6, 4, 1, 1), setup_filter([1, 3, 3, 1])
    return [
        ((x, w), {"padding": 1}),
        ((x, w, f), {"up": 2, "padding": 1, "flip_weight": False}),
        ((x, w, f), {"down": 2, "padding": 1}),
        ((x, one, f), {"down": 2}),
        ((x, one, f), {"up": 2}),
        ((x, _random(6, 2, 3, 3), f), {"up": 2, "groups": 2, "padding": [1, 0, 2, 1]}),
    ]


def _modulated_trials() -> Sequence[Trial]:
    x, w, s, f = _random(2, 4, 8, 6), _random(6, 4, 3, 3), _random(2, 4), setup_filter([1, 3, 3, 1])
    calls: list[Trial] = []
    for fused in (True, False):
        calls += [
            ((x, w, s), {"noise": _random(2, 1, 8, 6), "padding": 1, "fused_modconv": fused}),
            ((x, w, s), {"up": 2, "padding": 1, "resample_filter": f, "flip_weight": False, "fused_modconv": fused}),
            ((x, _random(3, 4, 1, 1), s), {"demodulate": False, "fused_modconv": fused}),
        ]
    return calls


def _stylegan3_trials() -> Sequence[Trial]:
    x, w, s = _random(2, 4, 5, 6), _random(6, 4, 3, 3), _random(2, 4)
    gain = torch.tensor(1.7, dtype=torch.float64)
    return [
        ((x, w, s), {"padding": 2, "input_gain": gain}),
        ((x, w, s), {"padding": 1}),
        ((x, _random(3, 4, 1, 1), s), {"demodulate": False, "input_gain": gain}),
    ]


OPS = (
    Op(
        "upfirdn2d", ("x", "f", "up", "down", "padding", "flip_filter", "gain"), "ganfuse.kernels.upfirdn2d",
        _make_upfirdn2d, _upfirdn2d_trials,
    ),
    Op(
        "bias_act", ("x", "b", "dim", "act", "alpha", "gain", "clamp"), "ganfuse.kernels.bias_act",
        _make_bias_act, _bias_act_trials,
    ),
    Op(
        "conv2d_resample", ("x", "w", "f", "up", "down", "padding", "groups", "flip_weight", "flip_filter"),
        "PyTorch's convolutions and upfirdn2d", _make_conv2d_resample, _conv2d_resample_trials,
    ),
    Op(
        "modulated_conv2d",
        ("x", "weight", "styles", "noise", "up", "down", "padding", "resample_filter", "demodulate", "flip_weight"),
        "ganfuse.kernels.modulated_conv2d", _make_modulated_conv2d, _modulated_trials,
    ),
    Op(
        "modulated_conv2d", ("x", "w", "s", "demodulate", "padding", "input_gain"),
        "one convolution for all samples, scaled before and behind", _make_modulated_conv2d_of_stylegan3,
        _stylegan3_trials,
    ),
    Op(
        "no_weight_gradients", ("disable",), "the same, and ganfuse.no_weight_gradients", _make_no_weight_gradients,
        tuple,
    ),
)  # fmt: skip
