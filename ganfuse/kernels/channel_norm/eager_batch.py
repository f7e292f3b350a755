"""Batch norm by the statistics of this process's batch, on CPUs: the same passes as `eager`, with less between them.

All that is not a map is one number per channel here, so that gain and bias aside nothing has to be spread over samples:
on small maps, the most frequent, that arithmetic would cost more than the maps.
"""

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.channel_norm import allocation as plane
from ganfuse.kernels.channel_norm import eager_maps, eager_narrow, eager_narrow_batch
from ganfuse.kernels.channel_norm.activations import activate_, times_slope
from ganfuse.kernels.channel_norm.algebra import reduce_to
from ganfuse.kernels.channel_norm.allocation import Attributes, is_noisy
from ganfuse.kernels.channel_norm.eager_maps import affine_map, channel_sums, is_near, per_row, row_sums
from ganfuse.kernels.layout import is_channels_last

_aten = torch.ops.aten
# Means of so many standard deviations at most leave x its digits where it is not centred first.
_NEAR = 2.0


def takes(attributes: Attributes, inputs: Tensors) -> bool:
    """Whether a call is one for this form."""
    plainly = attributes.kind == "batch" and not attributes.process_group and not is_noisy(attributes, inputs)
    return plainly and inputs[0].shape[0] > 0


def _count(x: Tensor) -> int:
    return x.numel() // x.shape[1]


def _slope(gain: Tensor | None, rstd: Tensor) -> Tensor:
    return rstd if gain is None else gain.to(rstd.dtype) * rstd


def _statistics(x: Tensor, channels_last: bool, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(d, shift, mean, variance, rstd) of the channels; d is x less a constant per channel, and shift d's mean."""
    if channels_last:
        # PyTorch's own are as good as ours near zero, and faster where channels are innermost.
        mean, var = _aten.batch_norm_update_stats(x, None, None, 0.0)
        rstd = (var + eps).rsqrt_()
        if is_near(mean, rstd, _NEAR):
            return x, mean, mean, var, rstd
    count = _count(x)
    mean = x.mean((0, 2, 3))
    d = x - per_row(mean)
    # What rounding left in the mean of values far from 0 shows in the mean of the centred ones.
    rest, squares = channel_sums(d, d)
    rest = rest.div_(count)
    var = squares.addcmul_(rest, rest, value=-count).clamp_(min=0).div_(count)
    return d, rest, mean + rest, var, (var + eps).rsqrt_()


def _is_narrow(inputs: Tensors) -> bool:
    return eager_narrow.takes(inputs[0], per_sample=any(p is not None and p.ndim == 2 for p in inputs[1:3]))


def _coefficients(
    slope: Tensor, ones: Tensor, against: Tensor, mean: Tensor | None, rstd: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The gradient of x, less slope·act′·grad, as linear·x + constant; of the centred x where `mean` is None."""
    linear = (slope * against).sum(0).mul_(rstd).mul_(rstd).div_(-count)
    constant = (slope * ones).sum(0).div_(-count)
    return linear, constant if mean is None else constant.addcmul_(linear, mean, value=-1)


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    """The output, (mean, rstd) of the channels, and `moments`."""
    x, gain, bias = inputs[:3]
    channels_last, count = is_channels_last(x), _count(x)
    found = eager_narrow_batch.forward(attributes, x, gain, bias) if _is_narrow(inputs) else None
    if found is not None:
        y, mean, var, rstd = found
    else:
        wide = eager_maps.wide(x, channels_last)
        d, shift, mean, var, rstd = _statistics(wide, channels_last, attributes.eps)
        slope = _slope(gain, rstd)
        offset = torch.addcmul(shift.new_zeros(()) if bias is None else bias.to(shift.dtype), slope, shift, value=-1)
        z = affine_map(d, slope, offset, channels_last, inplace=d is not wide or wide is not x)
        y = activate_(z, attributes.activation, attributes.negative_slope).to(x.dtype)
    moments = torch.stack([mean, var * (count / max(count - 1, 1)), torch.full_like(var, count)])
    return y, torch.stack([mean, rstd]), moments


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    """Gradients of x, gain and bias."""
    x, gain, bias = inputs[:3]
    channels_last, count = is_channels_last(x), _count(x)
    mean, rstd = state[0].unbind(0)
    if _is_narrow(inputs) and eager_narrow.is_near(mean, rstd):
        on_x, on_gain, on_bias = (
            g if needed else None
            for g, needed in zip(eager_narrow_batch.backward(attributes, needs, grad_output, inputs, mean, rstd), needs)
        )
        return (on_x, _to(gain, on_gain), _to(bias, on_bias), *(None,) * 6), ()
    slope = _slope(gain, rstd)
    wide = eager_maps.wide(x, channels_last)
    g = eager_maps.wide(grad_output, channels_last)
    per_sample = any(p is not None and p.ndim == 2 for p in (gain, bias))
    # As in the forward, d may be x itself. Without an activation PyTorch's own backward centres x.
    near = channels_last and is_near(mean, rstd, _NEAR)
    as_it_is = near or not (per_sample or attributes.activation != "none")
    d = wide if as_it_is else eager_maps.centred(x, mean, channels_last)
    if attributes.activation != "none":
        offset = rstd.new_zeros(()) if bias is None else bias.to(rstd.dtype)
        offset = torch.addcmul(offset, slope, mean, value=-1) if near else offset.expand_as(slope)
        z = affine_map(d, slope, offset, channels_last, inplace=d is not wide and not per_sample)
        g = times_slope(z, attributes.activation, attributes.negative_slope, g, overwrite=True)
    if not per_sample:
        weight = None if gain is None else gain.to(rstd.dtype)
        on_x, on_gain, on_bias = _aten.native_batch_norm_backward(
            g, wide, weight, None, None, mean, rstd, True, attributes.eps, needs[:3]
        )
        gradients = (None if t is None else t.to(like.dtype) for t, like in zip((on_x, on_gain, on_bias), inputs))
        return (*gradients, *(None,) * 6), ()
    ones, against = row_sums(g, d, channels_last)
    if near:
        against = against.addcmul_(ones, mean, value=-1)
    on_x = None
    if needs[0]:
        linear, constant = _coefficients(slope, ones, against, mean if near else None, rstd, count)
        on_x = affine_map(d, linear, constant, channels_last, inplace=d is not wide)
        on_x = on_x.addcmul_(g, per_row(slope)).to(x.dtype)
    on_gain = _to(gain, against * rstd) if needs[1] else None
    on_bias = _to(bias, ones) if needs[2] else None
    return (on_x, on_gain, on_bias, *(None,) * 6), ()


def _to(parameter: Tensor | None, gradient: Tensor | None) -> Tensor | None:
    if parameter is None or gradient is None:
        return None
    return gradient.to(parameter.dtype) if gradient.ndim == parameter.ndim else reduce_to(gradient, parameter)


def with_batch(norm: Implementation) -> Implementation:
    """`norm`, but for the calls that this form takes; their second backward is norm's."""

    def run_forward(attributes: Attributes, inputs: Tensors) -> Tensors:
        return (forward if takes(attributes, inputs) else norm.forward)(attributes, inputs)

    def run_backward(
        attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
    ) -> tuple[Gradients, Tensors]:
        run = backward if takes(attributes, inputs) else norm.backward
        return run(attributes, needs, grad_output, inputs, output, state)

    def run_double_backward(
        attributes: Attributes,
        needs: Needs,
        cotangents: Tensors,
        grad_output: Tensor,
        inputs: Tensors,
        output: Tensor,
        state: Tensors,
        notes: Tensors,
    ) -> Gradients:
        if takes(attributes, inputs):
            state = (_planes(inputs, state[0]), state[1])
        return norm.double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)

    def fake_forward(attributes: Attributes, inputs: Tensors) -> Tensors:
        y, coefficients, moments = norm.fake_forward(attributes, inputs)
        return y, coefficients.new_empty((2, moments.shape[1])) if takes(attributes, inputs) else coefficients, moments

    return Implementation(
        run_forward, run_backward, run_double_backward, fake_forward, norm.fake_backward, norm.fake_double_backward
    )


def _planes(inputs: Tensors, statistics: Tensor) -> Tensor:
    """The coefficients that other forms keep."""
    x, gain, bias = inputs[:3]
    planes = statistics.new_zeros((4, *x.shape[:2]))
    mean, rstd = statistics.unbind(0)
    planes[plane.SLOPE], planes[plane.CENTRE], planes[plane.RSTD] = _slope(gain, rstd), mean, rstd
    if bias is not None:
        planes[plane.OFFSET] = bias
    return planes
