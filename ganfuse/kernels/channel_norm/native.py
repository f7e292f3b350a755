"""Norms of small maps on CPUs by PyTorch's own normalisation and autograd.

A few tens of small operations and a Function of our own cost 150 to 400 µs a call. On maps of so few elements that
these are most of the time PyTorch's fused normalisation is faster. It applies its statistics as A·x + B, which loses
the digits that a mean far from zero takes: so a call is handed back, to be done in passes, if a mean turns out larger
than some standard deviations. Where PyTorch's derivatives are slow or wrong, `mended` has others.

Calls are as `small.taken` wants them; None stands for one that is handed back. Each is one or two functions deep, for
frames count here.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.channel_norm import mended
from ganfuse.kernels.channel_norm.allocation import accumulator
from ganfuse.kernels.channel_norm.eager_maps import per_row
from ganfuse.kernels.channel_norm.running import RunningStatistics

_Optional = Tensor | None
# With |mean| ≤ 16σ, A·x + B has four bits less than A·(x − mean) + B.
_LARGEST_MEAN = 16.0
# Single channels of channels_last maps of more elements, and of bfloat16, are faster copied than read across.
_READ_ACROSS = 1 << 14


def batch_norm(
    x: Tensor,
    gain: _Optional,
    bias: _Optional,
    running: RunningStatistics | None,
    eps: float,
    activation: str,
    negative_slope: float,
    *,
    checked: bool = False,
) -> Tensor | None:
    """In training. `running` may have been moved even if None comes back, and knows it.

    Args:
        checked: whether running statistics are known to be right, and that there is more than one value per channel.
    """
    dtype, channels = x.dtype, x.shape[1]
    usual = running is not None and running.is_usual(accumulator(dtype), channels)
    if not (checked or ((usual or running is None) and x.numel() > channels)):
        return None
    x, weight, shift, gain, bias = _divided(x, gain, bias, activation)
    if running is None:
        y, mean, rstd = torch.native_batch_norm(x, weight, shift, None, None, True, 0.0, eps)
    elif usual:
        # The graph keeps the buffers, and never reads them: as `data` it does not mind that later calls move them.
        y, mean, rstd = torch.native_batch_norm(
            x, weight, shift, running.mean.data, running.var.data, True, running.momentum, eps
        )
        running.was_written()
    else:
        # All of the way from anywhere is the batch's own mean, and its unbiased variance.
        moments = x.new_zeros((2, channels), dtype=accumulator(dtype))
        y, mean, rstd = torch.native_batch_norm(x, weight, shift, moments[0], moments[1], True, 1.0, eps)
        running.update(moments)
    if not _is_near(mean, rstd):
        return None
    if y.requires_grad:
        mended.mend_batch_norm(y, x)
    if gain is None and activation == "none":
        return y
    return _finished(y, gain, bias, activation, negative_slope, dtype)


def evaluated_batch_norm(
    x: Tensor,
    gain: _Optional,
    bias: _Optional,
    mean: Tensor,
    var: Tensor,
    eps: float,
    activation: str,
    negative_slope: float,
) -> Tensor | None:
    """By running statistics."""
    dtype = x.dtype
    wide = accumulator(dtype)
    # Copies, so that the graph does not mind if the buffers move on.
    mean, var = (t.detach().to(wide, copy=True) for t in (mean, var))
    if not _is_near(mean, torch.rsqrt(var + eps)):
        return None
    x, weight, shift, gain, bias = _divided(x, gain, bias, activation)
    y = torch.native_batch_norm(x, weight, shift, mean, var, False, 0.0, eps)[0]
    if x.dtype == torch.bfloat16 and y.requires_grad:
        mended.mend_batch_norm(y, x)
    return _finished(y, gain, bias, activation, negative_slope, dtype)


def group_norm(
    x: Tensor,
    groups: int,
    gain: _Optional,
    bias: _Optional,
    eps: float,
    unbiased: bool,
    activation: str,
    negative_slope: float,
) -> Tensor | None:
    """Statistics of groups of channels of a sample: as many as channels for instance norm."""
    dtype = x.dtype
    x, weight, shift, gain, bias = _divided(x, gain, bias, activation)
    copied = groups == x.shape[1] and not x.is_contiguous() and (x.numel() > _READ_ACROSS or x.dtype == torch.bfloat16)
    if copied:
        x = x.contiguous()
        if x.requires_grad:
            x.register_hook(_to_channels_last)  # type: ignore[no-untyped-call]
    y = _standardised(x, groups, weight, shift, eps, unbiased)
    if y is None:
        return None
    if gain is not None or activation != "none":
        y = _finished(y, gain, bias, activation, negative_slope, dtype)
    return _to_channels_last(y) if copied else y


def _to_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def layer_instance_norm(
    x: Tensor,
    rho: Tensor,
    gain: _Optional,
    bias: _Optional,
    eps: float,
    unbiased: bool,
    activation: str,
    negative_slope: float,
) -> Tensor | None:
    """AdaLIN and ILN."""
    dtype = x.dtype
    x = x.to(accumulator(dtype))
    of_sample = _standardised(x, 1, None, None, eps, unbiased)
    if of_sample is None:
        return None
    of_row = _standardised(x, x.shape[1], None, None, eps, unbiased)
    if of_row is None:
        return None
    y = torch.lerp(of_sample, of_row, per_row(rho.to(x.dtype)))
    return _finished(y, gain, bias, activation, negative_slope, dtype)


def _divided(
    x: Tensor, gain: _Optional, bias: _Optional, activation: str
) -> tuple[Tensor, _Optional, _Optional, _Optional, _Optional]:
    """(x, weight, shift, gain, bias): what goes into PyTorch's norm, and the gain and bias that follow it.

    Those of a channel go in, those of a sample follow. A bfloat16 x is float32 where something follows.
    """
    weight = shift = None
    if gain is None or gain.ndim == 1:
        weight, shift, gain, bias = gain, bias, None, None
    if x.dtype == torch.bfloat16:
        if gain is not None or activation == "silu":
            # Rounded where a gain or a curve follows, values would not be the definition's, or change sides.
            x = x.float()
        elif weight is None:
            # With a weight in float32 statistics are in float32, too.
            weight = x.new_ones(x.shape[1], dtype=torch.float32)
            shift = torch.zeros_like(weight)
    return x, weight, shift, gain, bias


def _standardised(
    x: Tensor, groups: int, weight: _Optional, shift: _Optional, eps: float, unbiased: bool
) -> Tensor | None:
    batch, channels, height, width = x.shape
    if unbiased:
        # The variance of N' for that of N: v·N/N' + eps = (v + eps·N'/N)·N/N'.
        count = x.numel() // (batch * groups)
        rest = max(count - 1, 1) / count
        eps *= rest
        root = math.sqrt(rest)
        weight = root * (x.new_ones(channels, dtype=accumulator(x.dtype)) if weight is None else weight)
    y, mean, rstd = torch.native_group_norm(x, weight, shift, batch, channels, height * width, groups, eps)
    if not _is_near(mean.data, rstd.data):
        return None
    if y.requires_grad:
        mended.mend_group_norm(y, x)
    return y


def _is_near(mean: Tensor, rstd: Tensor) -> bool:
    """Whether every mean is at most `_LARGEST_MEAN` standard deviations from zero."""
    ratio = (mean * rstd).view(-1)
    # The sum of squares costs less than the largest, and most often says enough.
    return ratio.dot(ratio).item() <= _LARGEST_MEAN**2 or ratio.abs().max().item() <= _LARGEST_MEAN


def _finished(
    y: Tensor, gain: _Optional, bias: _Optional, activation: str, negative_slope: float, dtype: torch.dtype
) -> Tensor:
    """act(gain·y + bias). The graph keeps what the activation gets, not the result, which may be changed in place."""
    if gain is not None and bias is not None:
        if y.is_contiguous():
            y = y * gain[..., None, None] + bias[..., None, None]
        else:
            y = torch.addcmul(per_row(bias), y, per_row(gain))
    if activation == "relu":
        y = torch.threshold(y, 0.0, 0.0)
    elif activation == "leaky_relu":
        y = F.leaky_relu(y, negative_slope)
    elif activation == "silu":
        y = F.silu(y)
    return y if y.dtype == dtype else y.to(dtype)
