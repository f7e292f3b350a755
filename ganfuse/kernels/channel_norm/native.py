"""Norms of small maps on CPUs whose statistics are of a sample, by PyTorch's own group normalisation and autograd.

A few tens of small operations and a Function of our own cost 150 to 250 µs a call. On maps of so few elements that
these are most of the time PyTorch's fused normalisation is faster. It applies its statistics as A·x + B, which loses
the digits that a mean far from zero takes: so a call is handed back, to be done in passes, if a mean turns out larger
than some standard deviations. (Batch norm has no part in this: third derivatives of PyTorch's own are wrong.)
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.channel_norm.allocation import Attributes, is_noisy
from ganfuse.kernels.channel_norm.eager_maps import is_near, per_row
from ganfuse.kernels.layout import is_channels_last
from ganfuse.kernels.weight_gradients import functorch_is_active

# Up to so many elements, NCHW and channels_last: measured, forward and backward, on a core with AVX-512.
_MOST_ELEMENTS = {
    "given": (1 << 19, 1 << 19),
    "row": (1 << 18, 1 << 14),
    "group": (1 << 22, 1 << 22),
    "mix": (1 << 16, 1 << 14),
}
# With |mean| ≤ 16σ, A·x + B has four bits less than A·(x − mean) + B.
_LARGEST_MEAN = 16.0


def takes(attributes: Attributes, inputs: tuple[Tensor | None, ...]) -> bool:
    """Whether a call is small enough, and one that PyTorch has."""
    x = inputs[0]
    assert x is not None
    plain = not attributes.process_group and not is_noisy(attributes, inputs)  # type: ignore[arg-type]
    if not plain or x.dtype not in (torch.float32, torch.float64) or x.device.type != "cpu":
        return False
    most = _MOST_ELEMENTS.get(attributes.kind)
    if most is None or not 0 < x.numel() <= most[is_channels_last(x)]:
        return False
    # Whether a mean is small is a question to numbers, which these do not have.
    return not (torch.compiler.is_compiling() or functorch_is_active())


def channel_norm(attributes: Attributes, inputs: tuple[Tensor | None, ...]) -> Tensor | None:
    """The result; None for a mean far from zero."""
    x, gain, bias, rho, mean, var = inputs[:6]
    assert x is not None
    x = x.contiguous(memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format)
    gain = None if gain is None else gain.to(x.dtype)
    bias = None if bias is None else bias.to(x.dtype)
    inside = gain is not None and bias is not None and gain.ndim == bias.ndim == 1
    weight, shift = (gain, bias) if inside and attributes.kind != "mix" else (None, None)
    if attributes.kind == "given":
        y = _given(attributes, x, weight, shift, mean, var)
    elif attributes.kind == "mix":
        y = _mix(attributes, x, rho)
    else:
        groups = x.shape[1] if attributes.kind == "row" else attributes.groups
        y = _group(attributes, x, weight, shift, groups)
    if y is None:
        return None
    if weight is None:
        y = _affine(y, gain, bias)
    return _activate(y, attributes)


def _given(
    attributes: Attributes,
    x: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
) -> Tensor | None:
    assert mean is not None
    assert var is not None
    # Copies, so that the graph does not mind if the buffers move on.
    mean, var = (t.detach().to(x.dtype, copy=True) for t in (mean, var))
    if not is_near(mean, torch.rsqrt(var + attributes.eps), _LARGEST_MEAN):
        return None
    return torch.native_batch_norm(x, weight, shift, mean, var, False, 0.0, attributes.eps)[0]


def _group(
    attributes: Attributes, x: Tensor, weight: Tensor | None, shift: Tensor | None, groups: int
) -> Tensor | None:
    batch, channels, height, width = x.shape
    # The variance of N' for that of N: v·N/N' + eps = (v + eps·N'/N)·N/N'.
    count = x.numel() // (batch * groups)
    rest = (max(count - 1, 1) if attributes.unbiased else count) / count
    if rest != 1.0:
        root = math.sqrt(rest)
        weight = x.new_full((channels,), root) if weight is None else weight * root
    y, mean, rstd = torch.native_group_norm(
        x, weight, shift, batch, channels, height * width, groups, attributes.eps * rest
    )
    return y if is_near(mean.detach(), rstd.detach(), _LARGEST_MEAN) else None


def _mix(attributes: Attributes, x: Tensor, rho: Tensor | None) -> Tensor | None:
    assert rho is not None
    of_sample = _group(attributes, x, None, None, 1)
    if of_sample is None:
        return None
    of_row = _group(attributes, x, None, None, x.shape[1])
    return None if of_row is None else torch.lerp(of_sample, of_row, per_row(rho.to(x.dtype)))


def _affine(y: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    if gain is not None and bias is not None and is_channels_last(y):
        return torch.addcmul(per_row(bias), y, per_row(gain))
    y = y if gain is None else y * per_row(gain)
    return y if bias is None else y + per_row(bias)


def _activate(z: Tensor, attributes: Attributes) -> Tensor:
    """As in the definition, but keeping z, not the result, which may be changed in place."""
    if attributes.activation == "relu":
        return F.threshold(z, 0.0, 0.0)
    if attributes.activation == "leaky_relu":
        return F.leaky_relu(z, attributes.negative_slope)
    return F.silu(z) if attributes.activation == "silu" else z
