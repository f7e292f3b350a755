"""The residual translator of Johnson et al. 2016 (arXiv 1603.08155) as CycleGAN has it: image to image, any size."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import InstanceNormAct2d, UpsampleConv2d
from ganfuse.models.initialization import normal_weights

__all__ = ["UPSAMPLINGS", "ResidualBlock", "ResnetGenerator", "reflect_conv2d"]

UPSAMPLINGS = ("transposed", "resize")


def reflect_conv2d(inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    """A convolution that keeps the size (or divides it by `stride`), of an image that goes on as in a mirror."""
    padding = (kernel_size - 1) // 2
    return nn.Conv2d(inputs, outputs, kernel_size, stride, padding, bias=bias, padding_mode="reflect")


class ResidualBlock(nn.Module):
    """x + IN(conv(ReLU(IN(conv(x))))), 3×3 convolutions with reflection padding, no activation after the sum.

    Args:
        features: channels of the input and the output.
        dropout: probability, after the ReLU.
        bias: learn one in the convolutions. The normalisations take it away again.
    """

    def __init__(self, features: int, *, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        self.conv1 = reflect_conv2d(features, features, 3, bias=bias)
        self.norm1 = InstanceNormAct2d(features, activation="relu")
        self.conv2 = reflect_conv2d(features, features, 3, bias=bias)
        self.norm2 = InstanceNormAct2d(features)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, features, H, W) → the same."""
        h = self.norm1(self.conv1(x))
        if self.dropout:
            h = F.dropout(h, self.dropout, self.training)
        change: Tensor = self.norm2(self.conv2(h))
        return x + change


class ResnetGenerator(nn.Module):
    """Images (B, channels, H, W) in [-1, 1] to images of the same size; H and W are multiples of 4, at least 8.

    c7s1-64, d128, d256, R256 × blocks, u128, u64, c7s1-3 of Zhu et al. 2017 (CycleGAN, appendix 7.2), each with
    instance normalisation and ReLU, and tanh at the end. 11,378,179 parameters with 9 blocks, 7,837,699 with 6.

    Args:
        channels: of the images.
        width: channels at full resolution.
        blocks: residual blocks: 9 in the paper from 256 px on, 6 below.
        dropout: in the blocks.
        upsampling: "transposed" convolutions, as in the paper, or "resize": nearest ×2 and a 3×3 convolution, which
            leaves no checkerboards (Odena et al. 2016), computed at the low resolution.
    """

    size_multiple = 4
    least_size = 8

    def __init__(
        self,
        channels: int = 3,
        *,
        width: int = 64,
        blocks: int = 9,
        dropout: float = 0.0,
        upsampling: str = "transposed",
    ) -> None:
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise ValueError(f"upsampling: expected one of {', '.join(map(repr, UPSAMPLINGS))}, got {upsampling!r}")
        self.channels = channels
        self.encoder = nn.ModuleList([_norm_relu(reflect_conv2d(channels, width, 7))])
        for inputs in (width, 2 * width):
            self.encoder.append(_norm_relu(nn.Conv2d(inputs, 2 * inputs, 3, stride=2, padding=1)))
        self.blocks = nn.ModuleList(ResidualBlock(4 * width, dropout=dropout) for _ in range(blocks))
        self.decoder = nn.ModuleList()
        for inputs in (4 * width, 2 * width):
            self.decoder.append(_norm_relu(_upsampling(upsampling, inputs, inputs // 2)))
        self.output_conv = reflect_conv2d(width, channels, 7)
        normal_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        check_sizes(images, self.channels, self.size_multiple, self.least_size)
        h = images
        for stage in (*self.encoder, *self.blocks, *self.decoder):
            h = stage(h)
        return torch.tanh(self.output_conv(h))


def check_sizes(images: Tensor, channels: int, multiple: int, least: int) -> None:
    """Raises ValueError for images that a network which halves its maps cannot give back at their size."""
    sides: Sequence[int] = images.shape[2:]
    fits = images.dim() == 4 and images.shape[1] == channels
    if not (fits and all(side % multiple == 0 and side >= least for side in sides)):
        raise ValueError(
            f"images: expected (B, {channels}, H, W) with sides that are multiples of {multiple} and at least "
            f"{least}, got {tuple(images.shape)}"
        )


def _upsampling(kind: str, inputs: int, outputs: int) -> nn.Conv2d | nn.ConvTranspose2d:
    if kind == "resize":
        return UpsampleConv2d(inputs, outputs, 3, padding_mode="reflect")
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)


def _norm_relu(conv: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(conv, InstanceNormAct2d(conv.out_channels, activation="relu"))
