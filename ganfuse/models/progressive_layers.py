"""Layers of networks that grow: equalised convolutions as in ProGAN, the blur of StyleGAN, and their widths."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import EqualizedConv2d
from ganfuse.kernels import filter2d, setup_filter
from ganfuse.models.checks import check_positive
from ganfuse.models.growth import BASE
from ganfuse.models.residual_networks import doublings

__all__ = ["HE_GAIN", "Blur", "activated_conv", "linear_conv", "widths_of"]

#: Numerator of the scale of equalised weights in front of a leaky ReLU (He et al. 2015; ProGAN, section 4.1).
HE_GAIN = math.sqrt(2.0)


def widths_of(resolution: int, width: int | Sequence[int], channel_max: int) -> list[int]:
    """Channels from level 0 on: min(width · resolution / r, channel_max) for the map of r×r; or `width` says them all.

    Raises:
        ValueError: `width` is, or has, something else than positive whole numbers, or not one for each level.
    """
    sizes = doublings(BASE, resolution)
    if isinstance(width, Sequence):
        if len(width) != len(sizes):
            raise ValueError(
                f"width: expected one number, or {len(sizes)} for the maps of {sizes[0]}×{sizes[0]} to "
                f"{resolution}×{resolution}, got {len(width)}"
            )
        for features in width:
            check_positive(width=features)
        return list(width)
    check_positive(width=width)
    return [min(width * resolution // size, channel_max) for size in sizes]


def activated_conv(inputs: int, outputs: int, kernel_size: int = 3, *, up: int = 1, down: int = 1) -> EqualizedConv2d:
    """An equalised convolution behind nearest ×2 or in front of 2×2 means, then bias and leaky ReLU."""
    return EqualizedConv2d(
        inputs,
        outputs,
        kernel_size,
        up=up,
        down=down,
        resample_filter=None if up == down else (1, 1),
        activation="leaky_relu",
        gain=HE_GAIN,
        activation_gain=1.0,
    )


def linear_conv(inputs: int, outputs: int, kernel_size: int = 3, *, up: int = 1, bias: bool = False) -> EqualizedConv2d:
    """Likewise with nothing behind it, not even a bias: StyleGAN's, whose layers go on with noise."""
    return EqualizedConv2d(
        inputs, outputs, kernel_size, bias=bias, up=up, resample_filter=None if up == 1 else (1, 1), gain=HE_GAIN
    )


class Blur(nn.Module):
    """The filter 1-2-1 along both axes (Zhang 2019, arXiv 1904.11486; StyleGAN, section 2)."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        # Filters have values to check, which the meta device has none of.
        with torch.device("cpu"):
            taps = setup_filter([1, 2, 1])
        self.register_buffer("taps", taps.to(torch.empty(0).device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        return filter2d(x, self.taps.float())
