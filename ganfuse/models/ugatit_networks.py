"""The networks of U-GAT-IT (Kim et al. 2020, arXiv 1907.10830, appendix A, tables 4 to 6)."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import AdaLIN2d, ILN2d, InstanceNormAct2d, UpsampleConv2d, spectral_norm
from ganfuse.models.class_activation import ClassActivationAttention, heat_map
from ganfuse.models.initialization import normal_weights
from ganfuse.models.resnet_generator import ResidualBlock, check_sizes, reflect_conv2d

__all__ = ["AdaLINBlock", "Discriminator", "Generator", "Judgement", "Judges", "Translated", "least_side"]


class Translated(NamedTuple):
    """What a generator makes of images."""

    images: Tensor
    """(B, channels, H, W) in [-1, 1]"""
    cam_logits: Tensor
    """(B, 2): of which domain the input is, by the auxiliary classifiers on its means and on its maxima"""
    attended: Tensor
    """(B, 4 · width, H/4, W/4): the maps after the attention, at least 0"""


class Judgement(NamedTuple):
    """What a discriminator says of images."""

    logits: Tensor
    """(B, 1, h, w): of each patch"""
    cam_logits: Tensor
    """(B, 2): of the auxiliary classifiers"""


class AdaLINBlock(nn.Module):
    """x + AdaLIN(conv(ReLU(AdaLIN(conv(x))))), 3×3 convolutions with reflection padding, one gain and bias for both."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = reflect_conv2d(features, features, 3, bias=False)
        self.norm1 = AdaLIN2d(features, activation="relu")
        self.conv2 = reflect_conv2d(features, features, 3, bias=False)
        self.norm2 = AdaLIN2d(features)

    def forward(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """(B, features, H, W), and gain and bias (B, features) → (B, features, H, W)."""
        h = self.norm1(self.conv1(x), gain, bias)
        change: Tensor = self.norm2(self.conv2(h), gain, bias)
        return x + change


class Generator(nn.Module):
    """Images (B, channels, H, W) in [-1, 1] to images of the same size.

    Two convolutions of stride 2, residual blocks with instance normalisation, attention by class activation maps, a
    small network from the attended maps to one gain and bias per channel, residual blocks with AdaLIN by these, and two
    upsampling convolutions with ILN (appendix A, table 4). With the defaults 278,959,808 parameters; 10,589,888 with
    ``style_grid=1``, which the authors call light.

    Args:
        resolution: side of the images; a multiple of 4, at least 8. Without `style_grid` the network takes no other.
        channels: of the images.
        width: channels at full resolution (64).
        blocks: residual blocks before the attention, and as many after it (4).
        style_grid: average the attended maps down to this many places a side before gain and bias are computed from
            them. None: all resolution/4 of them, whose first linear layer alone has resolution² · width² parameters.
    """

    size_multiple = 4
    least_size = 8

    def __init__(
        self,
        *,
        resolution: int = 256,
        channels: int = 3,
        width: int = 64,
        blocks: int = 4,
        style_grid: int | None = None,
    ) -> None:
        super().__init__()
        features = 4 * width
        self.channels = channels
        self.resolution = resolution
        self.style_grid = style_grid
        self.encoder = nn.ModuleList([_norm_relu(reflect_conv2d(channels, width, 7, bias=False))])
        for inputs in (width, 2 * width):
            self.encoder.append(_norm_relu(reflect_conv2d(inputs, 2 * inputs, 3, stride=2, bias=False)))
        self.blocks = nn.ModuleList(ResidualBlock(features, bias=False) for _ in range(blocks))
        self.attention = ClassActivationAttention(features)
        places = (resolution // 4 if style_grid is None else style_grid) ** 2
        self.style = nn.Sequential(
            nn.Linear(features * places, features, bias=False),
            nn.ReLU(),
            nn.Linear(features, features, bias=False),
            nn.ReLU(),
        )
        self.gain = nn.Linear(features, features, bias=False)
        self.bias = nn.Linear(features, features, bias=False)
        self.adalin_blocks = nn.ModuleList(AdaLINBlock(features) for _ in range(blocks))
        self.decoder = nn.ModuleList()
        for inputs in (features, features // 2):
            upsampling = UpsampleConv2d(inputs, inputs // 2, 3, bias=False, padding_mode="reflect")
            self.decoder.append(nn.Sequential(upsampling, ILN2d(inputs // 2, activation="relu")))
        self.output_conv = reflect_conv2d(width, channels, 7, bias=False)
        normal_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.translate(images).images

    def translate(self, images: Tensor) -> Translated:
        """The images with what the attention found: see `Translated`."""
        h, logits = self._attend(images)
        gain, bias = self._style(h)
        attended = h
        for block in self.adalin_blocks:
            h = block(h, gain, bias)
        for stage in self.decoder:
            h = stage(h)
        return Translated(torch.tanh(self.output_conv(h)), logits, attended)

    def cam_logits(self, images: Tensor) -> Tensor:
        """The auxiliary classifiers' logits (B, 2) alone."""
        return self._attend(images)[1]

    def heat_map(self, images: Tensor) -> Tensor:
        """Where the attention looks, (B, 1, H, W) in [0, 1]; see `ganfuse.models.class_activation.heat_map`."""
        return heat_map(self._attend(images)[0], (images.shape[2], images.shape[3]))

    def _attend(self, images: Tensor) -> tuple[Tensor, Tensor]:
        check_sizes(images, self.channels, self.size_multiple, self.least_size)
        if self.style_grid is None and tuple(images.shape[2:]) != (self.resolution, self.resolution):
            raise ValueError(
                f"images: without style_grid this generator takes images of {self.resolution}×{self.resolution} only, "
                f"got {tuple(images.shape)}"
            )
        h = images.contiguous(memory_format=torch.channels_last)
        for stage in (*self.encoder, *self.blocks):
            h = stage(h)
        attended: tuple[Tensor, Tensor] = self.attention(h)
        return attended

    def _style(self, attended: Tensor) -> tuple[Tensor, Tensor]:
        if self.style_grid is not None:
            attended = F.adaptive_avg_pool2d(attended, self.style_grid)
        style = self.style(attended.flatten(1))
        return self.gain(style), self.bias(style)


class Discriminator(nn.Module):
    """Images (B, channels, H, W) to a `Judgement`: logits of patches and of two auxiliary classifiers.

    4×4 convolutions with reflection padding, spectral normalisation and leaky ReLU of slope 0.2, no other
    normalisation: ``layers − 2`` with stride 2, one with stride 1, attention by class activation maps, and one to a
    single map (appendix A, tables 5 and 6: 7 layers for the global, 5 for the local one, with 53,130,176 and 3,290,560
    parameters, and 6×6 and 30×30 logits at 256 px).

    Args:
        channels: of the images.
        width: of the first layer; doubled by each further one.
        layers: at least 3.
        raw_attention: see `ClassActivationAttention`.
    """

    def __init__(self, channels: int = 3, *, width: int = 64, layers: int = 7, raw_attention: bool = False) -> None:
        super().__init__()
        if layers < 3:
            raise ValueError(f"layers: a discriminator has at least 3, got {layers!r}")
        self.channels = channels
        self.least_size = least_side(layers)
        widths = [channels, *(width * 2**index for index in range(layers - 1))]
        self.convs = nn.ModuleList(
            reflect_conv2d(inputs, outputs, 4, stride=2 if index < layers - 2 else 1)
            for index, (inputs, outputs) in enumerate(pairwise(widths))
        )
        self.attention = ClassActivationAttention(
            widths[-1], negative_slope=0.2, spectral=True, raw_attention=raw_attention
        )
        self.output_conv = reflect_conv2d(widths[-1], 1, 4, bias=False)
        normal_weights(self)
        for conv in (*self.convs, self.output_conv):
            spectral_norm(conv)

    def forward(self, images: Tensor) -> Judgement:
        if images.dim() != 4 or images.shape[1] != self.channels or min(images.shape[2:]) < self.least_size:
            raise ValueError(
                f"images: expected (B, {self.channels}, H, W) with sides of at least {self.least_size}, "
                f"got {tuple(images.shape)}"
            )
        h = images.contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            h = F.leaky_relu(conv(h), 0.2)
        h, cam_logits = self.attention(h)
        return Judgement(self.output_conv(h), cam_logits)


class Judges(nn.Module):
    """The two discriminators of a domain: one that sees most of the image at once, and one that sees patches."""

    def __init__(self, channels: int, *, width: int, layers: tuple[int, int], raw_attention: bool) -> None:
        super().__init__()
        both = [Discriminator(channels, width=width, layers=n, raw_attention=raw_attention) for n in layers]
        self.global_discriminator, self.local_discriminator = both

    def forward(self, images: Tensor) -> Sequence[Judgement]:
        return [self.global_discriminator(images), self.local_discriminator(images)]


def least_side(layers: int) -> int:
    """The smallest side of an image that a discriminator of so many layers can judge.

    The last layers take one row each, and reflection needs two.
    """
    return 3 << (layers - 2)


def _norm_relu(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, InstanceNormAct2d(conv.out_channels, activation="relu"))
