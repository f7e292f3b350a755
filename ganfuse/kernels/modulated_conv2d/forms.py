"""Ways to compute the same thing, each in one function, and the rule that chooses.

scaled     the input is scaled by the styles, convolved with weights that all samples share, and demodulated in the
           pass that adds noise and bias and activates. Native convolutions own the weight's gradient.
grouped    each sample has weights of its own, scaled and demodulated: a convolution of one group per sample, whose
           second derivative PyTorch computes sample by sample.
pointwise  likewise for 1×1 kernels without resampling, a product of matrices per sample: the map is read once.
implicit_gemm  one kernel that scales the input and demodulates, activates, ... the result in registers
           (`triton_implicit_gemm`); its backward is that of "scaled".
"""

import os
from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.conv2d_resample import conv2d_resample
from ganfuse.kernels.layout import is_channels_last
from ganfuse.kernels.modulated_conv2d.demodulation import demodulation, prenormalize
from ganfuse.kernels.modulated_conv2d.geometry import Geometry
from ganfuse.kernels.scaled_bias_act import scaled_bias_act

FORMS = ("auto", "scaled", "grouped", "pointwise", "implicit_gemm")
_VARIABLE = "GANFUSE_MODULATED_CONV2D"
# So few outputs cost less to make per sample than the scaled input costs to write and read.
_MOST_POINTWISE_OUTPUTS = 16


class Epilogue(NamedTuple):
    """What happens to the convolution's result; see `ganfuse.kernels.bias_act`."""

    noise: Tensor | None
    b: Tensor | None
    act: str
    alpha: float | None
    gain: float | None
    clamp: float | None

    def __call__(self, y: Tensor, scale: Tensor | None, backend: str | None) -> Tensor:
        return scaled_bias_act(
            y, scale, self.noise, self.b, self.act, self.alpha, self.gain, self.clamp, backend=backend
        )


def choose(op: str, requested: str, x: Tensor, weight: Tensor, geometry: Geometry) -> str:
    """The form of a call: the one asked for, that of ``GANFUSE_MODULATED_CONV2D``, or the one that is fastest here.

    On CPUs it is a matter of what is smaller, the weights of a sample or the maps that scaling writes and reads again.
    "implicit_gemm" is taken only where it is asked for. (`benchmarks/modulated_conv.py` times them all.)

    Raises:
        ValueError: there is no such form, or it does not take the call.
    """
    origin = "form"
    if requested == "auto":
        origin, requested = _VARIABLE, os.environ.get(_VARIABLE, "auto")
    if requested not in FORMS:
        raise ValueError(f"{op}: {origin} must be one of {', '.join(map(repr, FORMS))}, got {requested!r}")
    outputs, _, kh, kw = weight.shape
    pointwise = _is_pointwise(weight, geometry)
    if requested == "auto" and pointwise and outputs <= _MOST_POINTWISE_OUTPUTS:
        return "pointwise"
    if requested == "auto":
        own_weights_are_small = 2 * outputs * kh * kw <= x.shape[2] * x.shape[3]
        return "grouped" if x.device.type == "cpu" and own_weights_are_small and x.shape[0] > 0 else "scaled"
    if requested == "pointwise" and not pointwise:
        raise ValueError(f"{op}: form 'pointwise' takes 1×1 kernels without resampling and padding")
    return requested


def _is_pointwise(weight: Tensor, geometry: Geometry) -> bool:
    return (
        weight.shape[2:] == (1, 1)
        and geometry.up == geometry.down == 1
        and all(p == 0 for p in geometry.padding)
    )  # fmt: skip


def scaled(
    x: Tensor, weight: Tensor, styles: Tensor, f: Tensor | None, geometry: Geometry, demodulate: bool,
    epilogue: Epilogue, backend: str | None,
) -> Tensor:  # fmt: skip
    factors = None
    if demodulate:
        if x.dtype == torch.float16:
            weight, styles = prenormalize(weight, styles)
        factors = demodulation(weight, styles)
    y = scaled_bias_act(x, styles, backend=backend)
    y = conv2d_resample(y, weight.to(x.dtype), f, *geometry[:3], flip_weight=geometry.flip_weight, backend=backend)
    return epilogue(y, factors, backend)


def _own_weights(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool) -> Tensor:
    """(B, O, I, kh, kw), scaled and demodulated, in x's type."""
    if demodulate:
        if x.dtype == torch.float16:
            weight, styles = prenormalize(weight, styles)
        own = weight * demodulation(weight, styles)[:, :, None, None, None]
    else:
        own = weight[None]
    return (own * styles[:, None, :, None, None]).to(x.dtype)


def grouped(
    x: Tensor, weight: Tensor, styles: Tensor, f: Tensor | None, geometry: Geometry, demodulate: bool,
    epilogue: Epilogue, backend: str | None,
) -> Tensor:  # fmt: skip
    batch, outputs = x.shape[0], weight.shape[0]
    own = _own_weights(x, weight, styles, demodulate).flatten(0, 1)
    y = conv2d_resample(
        x.reshape(1, -1, *x.shape[2:]), own, f, *geometry[:3], batch, geometry.flip_weight, backend=backend
    )
    y = y.reshape(batch, outputs, *y.shape[2:])
    if is_channels_last(x):
        # There is no such layout of a single sample whose channels are all the samples'.
        y = y.contiguous(memory_format=torch.channels_last)
    return epilogue(y, None, backend)


def pointwise(
    x: Tensor, weight: Tensor, styles: Tensor, f: Tensor | None, geometry: Geometry, demodulate: bool,
    epilogue: Epilogue, backend: str | None,
) -> Tensor:  # fmt: skip
    (batch, channels, height, width), outputs = x.shape, weight.shape[0]
    own = _own_weights(x, weight, styles, demodulate)[..., 0, 0]
    if is_channels_last(x):
        tokens = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        y = torch.bmm(tokens, own.transpose(1, 2)).view(batch, height, width, outputs).permute(0, 3, 1, 2)
    else:
        y = torch.bmm(own, x.reshape(batch, channels, height * width)).view(batch, outputs, height, width)
    return epilogue(y, None, backend)
