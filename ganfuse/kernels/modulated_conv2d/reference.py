"""The definition in plain PyTorch: every sample is convolved with weights of its own."""

import functools

import torch
from torch import Tensor

from ganfuse.kernels.conv2d_resample import conv2d_resample
from ganfuse.kernels.modulated_conv2d.demodulation import EPS, prenormalize
from ganfuse.kernels.modulated_conv2d.geometry import Geometry
from ganfuse.kernels.scaled_bias_act.reference import scaled_bias_act


def modulated_conv2d(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Tensor | None,
    f: Tensor | None,
    b: Tensor | None,
    geometry: Geometry,
    demodulate: bool,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """As `ganfuse.kernels.modulated_conv2d`, in x's type and without checks."""
    if demodulate and x.dtype == torch.float16:
        weight, styles = prenormalize(weight, styles)
    batch, (outputs, inputs, kh, kw) = x.shape[0], weight.shape
    own = weight[None] * styles[:, None, :, None, None]
    if demodulate:
        own = own * torch.rsqrt(own.square().sum((2, 3, 4), keepdim=True) + EPS)
    up, down, padding, flip_weight = geometry
    convolve = functools.partial(
        conv2d_resample, f=f, up=up, down=down, padding=padding, flip_weight=flip_weight, backend="reference"
    )
    if batch == 0:
        # A convolution must have a group, and there is no sample to have one.
        y = convolve(x * styles.to(x.dtype)[:, :, None, None], weight.to(x.dtype))
    else:
        flat = x.reshape(1, batch * inputs, *x.shape[2:])
        own = own.reshape(batch * outputs, inputs, kh, kw).to(x.dtype)
        y = convolve(flat, own, groups=batch)
        y = y.reshape(batch, outputs, *y.shape[2:])
    return scaled_bias_act(y, None, noise, b, act, alpha, gain, clamp)
