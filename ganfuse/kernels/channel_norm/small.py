"""Which calls are small ones on CPUs, for PyTorch's own normalisation to take (`native`)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.backend import current_backend, exporting
from ganfuse.kernels.channel_norm import mended
from ganfuse.kernels.channel_norm.allocation import accumulator
from ganfuse.kernels.channel_norm.prologue import ACTIVATIONS
from ganfuse.kernels.layout import is_channels_last
from ganfuse.kernels.weight_gradients import functorch_is_active


class _Most(NamedTuple):
    """Elements of the largest map, by layout; with gain and bias per sample, which are passes of their own here."""

    nchw: int
    channels_last: int
    own_nchw: int
    own_channels_last: int


# Above, our passes are faster, forward and backward with ReLU: measured with PyTorch 2.13 on a core with AVX-512. Below
# they lose, up to ten times on maps of 2¹³ elements. 2²² is for memory where PyTorch's own are not slower anywhere: it
# keeps two maps where passes keep one.
_MOST_ELEMENTS = {
    "batch": _Most(1 << 19, 1 << 19, 1 << 17, 1 << 18),
    "given": _Most(1 << 19, 1 << 19, 1 << 18, 1 << 18),
    "row": _Most(1 << 20, 1 << 17, 1 << 18, 1 << 16),
    "group": _Most(1 << 22, 1 << 22, 1 << 19, 1 << 19),
    "mix": _Most(1 << 17, 1 << 16, 1 << 17, 1 << 16),
}
# Of bfloat16, whose passes are others (`eager_narrow`), on a core with AVX2.
_MOST_NARROW = {
    "batch": _Most(1 << 22, 1 << 22, 1 << 17, 1 << 19),
    "given": _Most(1 << 22, 1 << 22, 1 << 17, 1 << 19),
    "row": _Most(1 << 22, 1 << 17, 1 << 17, 1 << 17),
    "group": _Most(1 << 22, 1 << 22, 1 << 17, 1 << 19),
    "mix": _Most(1 << 17, 1 << 16, 1 << 17, 1 << 16),
}
_ACCUMULATORS = {torch.float32: torch.float32, torch.bfloat16: torch.float32, torch.float64: torch.float64}
_PLAIN = (Tensor, torch.nn.Parameter)


def _most_of(x: Tensor) -> dict[str, _Most]:
    return _MOST_NARROW if x.dtype == torch.bfloat16 else _MOST_ELEMENTS


def taken(
    kind: str,
    backend: str | None,
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    negative_slope: float,
) -> bool:
    """Whether x is small, and all is as it nearly always is: then no other check of these arguments is needed.

    That is: x is (B, C, H, W) in one piece, gain and bias both or neither and of one shape, in the accumulator's type;
    all are numbers on a CPU, that nobody traces. One look, for on small maps every line of Python counts: it runs
    between two maps, and finds its own memory out of the caches.
    """
    # Whether a mean is small is a question to numbers, which what traces does not have.
    if torch.compiler.is_compiling() or functorch_is_active() or type(x) not in _PLAIN or not x.is_cpu:
        return False
    shape, wide, size = x.shape, _ACCUMULATORS.get(x.dtype), x.numel()
    if wide is None or len(shape) != 4:
        return False
    layout = 0 if x.is_contiguous() else 1
    if layout and not x.is_contiguous(memory_format=torch.channels_last):
        return False
    if gain is not None and bias is not None:
        rows = gain.shape if type(gain) in _PLAIN else ()
        if rows != shape[1:2]:
            layout += 2
            if rows != shape[:2]:
                return False
        if type(bias) not in _PLAIN or bias.shape != rows or not (gain.dtype == wide == bias.dtype):
            return False
        if not (gain.is_cpu and bias.is_cpu):
            return False
    elif gain is not bias:
        return False
    if not 0 < size <= _most_of(x)[kind][layout]:
        return False
    if type(eps) is not float or not 0.0 <= eps < math.inf or activation not in ACTIVATIONS:
        return False
    if type(negative_slope) is not float or not -math.inf < negative_slope < math.inf:
        return False
    if mended.is_fused(kind, x) and not mended.can_be_fused():
        return False
    return (current_backend() if backend is None else backend) == "auto" and not exporting()


def arranged(
    kind: str, x: Tensor, gain: Tensor | None, bias: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | None] | None:
    """(B, C, H, W) x and parameters that fit it, as `taken` wants to have them; None if x is too large."""
    if torch.compiler.is_compiling() or not x.is_cpu or not 0 < x.numel() <= max(_most_of(x)[kind]):
        return None
    if functorch_is_active() or x.dtype not in _ACCUMULATORS:
        return None
    wide = accumulator(x.dtype)
    gain, bias = (None if v is None else v.to(wide) for v in (gain, bias))
    if gain is not None and bias is not None and gain.ndim != bias.ndim:
        gain, bias = (v.expand(x.shape[:2]) for v in (gain, bias))
    elif gain is None and bias is not None:
        gain = torch.ones_like(bias)
    elif bias is None and gain is not None:
        bias = torch.zeros_like(gain)
    format = torch.channels_last if is_channels_last(x) else torch.contiguous_format
    return x.contiguous(memory_format=format), gain, bias
