"""Ways to compute the same thing, each in one function, and the rule that chooses.

scaled     the input is scaled by the styles, convolved with weights that all samples share, and demodulated in the
           pass that adds noise and bias and activates. Native convolutions own the weight's gradient.
grouped    each sample has weights of its own, scaled and demodulated: a convolution of one group per sample, whose
           second derivative PyTorch computes sample by sample.
pointwise  likewise for 1×1 kernels without resampling, a product of matrices per sample: the map is read once.
implicit_gemm  one kernel that scales the input and demodulates, activates, ... the result in registers
               (`triton_implicit_gemm`); its backward, and compiled graphs, are those of "scaled".
"""

import os
from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.conv2d_resample import conv2d_resample
from ganfuse.kernels.layout import is_channels_last
from ganfuse.kernels.modulated_conv2d import implicit_gemm
from ganfuse.kernels.modulated_conv2d.demodulation import demodulation, prenormalize
from ganfuse.kernels.modulated_conv2d.geometry import Geometry
from ganfuse.kernels.scaled_bias_act import scaled_bias_act
from ganfuse.kernels.scaled_bias_act.op import make_attributes

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
    """The form of a call: the one asked for, that of ``GANFUSE_MODULATED_CONV2D`` if it takes the call, or by a rule.

    On CPUs it is a matter of what is smaller, the weights of a sample or the maps that scaling writes and reads again.
    "implicit_gemm" is taken only where it is asked for. (`benchmarks/modulated_conv.py` times them all.)

    Raises:
        ValueError: there is no such form, or the one asked for does not take the call.
    """
    origin = "form"
    if requested == "auto":
        origin, requested = _VARIABLE, os.environ.get(_VARIABLE, "auto")
    if requested not in FORMS:
        raise ValueError(f"{op}: {origin} must be one of {', '.join(map(repr, FORMS))}, got {requested!r}")
    reason = _unsupported(requested, x, weight, geometry)
    if reason is None and requested != "auto":
        return requested
    if reason is not None and origin == "form":
        raise ValueError(f"{op}: form {requested!r} does not take this call: {reason}")
    outputs, _, kh, kw = weight.shape
    if outputs <= _MOST_POINTWISE_OUTPUTS and _unsupported("pointwise", x, weight, geometry) is None:
        return "pointwise"
    own_weights_are_small = 2 * outputs * kh * kw <= x.shape[2] * x.shape[3]
    return "grouped" if x.device.type == "cpu" and own_weights_are_small and x.shape[0] > 0 else "scaled"


def _unsupported(form: str, x: Tensor, weight: Tensor, geometry: Geometry) -> str | None:
    """Why a form does not take a call; None if it does."""
    if form == "grouped" and x.shape[0] == 0:
        return "a convolution has at least one group"
    if form == "pointwise" and not _is_pointwise(weight, geometry):
        return "the kernel must be 1×1, without resampling and padding"
    if form == "implicit_gemm":
        return implicit_gemm.unsupported(x, geometry)
    return None


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


def implicit(
    x: Tensor, weight: Tensor, styles: Tensor, f: Tensor | None, geometry: Geometry, demodulate: bool,
    epilogue: Epilogue, backend: str | None,
) -> Tensor:  # fmt: skip
    def composed(x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None, b: Tensor | None) -> Tensor:
        given = epilogue._replace(noise=noise, b=b)
        return scaled(x, weight, styles, f, geometry, demodulate, given, backend)

    inputs = (x, weight, styles, epilogue.noise, epilogue.b)
    if torch.compiler.is_compiling():
        return composed(*inputs)
    attributes = make_attributes("modulated_conv2d", *epilogue[2:])
    return implicit_gemm.run(attributes, geometry, demodulate, composed, inputs)
