"""DCGAN's networks: convolutions alone, batch normalisation, ReLU against leaky ReLU (Radford et al. 2016, 1511.06434).

Two sizes: those of section 3, halving and doubling between 4×4 and 32, 64 or 128 pixels, and a small one for 28 pixels.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import BatchNormAct2d
from ganfuse.models.checks import check_images, check_latents
from ganfuse.models.feature_discriminator import Features
from ganfuse.models.initialization import normal_weights

__all__ = ["ConvFeatures", "ConvGenerator", "SmallConvFeatures", "SmallConvGenerator", "downsample", "upsample"]

_BASE = 4
_SLOPE = 0.2
_DROPOUT = 0.4


def upsample(inputs: int, outputs: int, kernel_size: int = 4, *, bias: bool = False) -> nn.ConvTranspose2d:
    """The transposed convolution, with a kernel of 4×4 or 5×5, that doubles the size."""
    padding = (kernel_size - 1) // 2
    return nn.ConvTranspose2d(inputs, outputs, kernel_size, 2, padding, output_padding=kernel_size % 2, bias=bias)


def downsample(inputs: int, outputs: int, kernel_size: int = 4, *, bias: bool = False) -> nn.Conv2d:
    """The convolution, with a kernel of 4×4 or 5×5, that halves the size."""
    return nn.Conv2d(inputs, outputs, kernel_size, 2, (kernel_size - 1) // 2, bias=bias)


class ConvGenerator(nn.Module):
    """z (B, latent_dim) to images (B, channels, resolution, resolution) in [-1, 1].

    A 4×4 map of ``width · resolution / 8`` channels is projected from z; each further layer doubles the size, halves
    the channels, and is followed by batch normalisation and ReLU; the last one, of `width` channels, makes the image.

    Args:
        resolution: a power of two from 16 on.
        channels: of the images.
        width: channels at half the resolution.
        latent_dim: size of z.
        kernel_size: of the layers that double, 4 or 5.
    """

    def __init__(self, *, resolution: int, channels: int, width: int, latent_dim: int, kernel_size: int = 4) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        widths = [width << step for step in range((resolution // 8).bit_length() - 1, -1, -1)]
        self.project = nn.ConvTranspose2d(latent_dim, widths[0], _BASE, bias=False)
        self.norms = nn.ModuleList(BatchNormAct2d(count, activation="relu") for count in widths)
        self.convs = nn.ModuleList(upsample(a, b, kernel_size) for a, b in pairwise([*widths, channels]))
        normal_weights(self)

    def forward(self, z: Tensor) -> Tensor:
        check_latents(z, self.latent_dim)
        h: Tensor = self.project(z[:, :, None, None])
        for norm, conv in zip(self.norms, self.convs):
            h = conv(norm(h))
        return torch.tanh(h)


class ConvFeatures(Features):
    """Images, and a condition as constant planes beside their channels, to the discriminator's last 4×4 map, flat.

    The mirror of `ConvGenerator`, with leaky ReLU, and no normalisation of the first layer.

    Args:
        resolution, channels, width, kernel_size: as there.
        condition_features: length of the condition.
    """

    def __init__(
        self, *, resolution: int, channels: int, width: int, kernel_size: int = 4, condition_features: int = 0
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        self.condition_features = condition_features
        widths = [width << step for step in range((resolution // 8).bit_length())]
        self.out_features = widths[-1] * _BASE * _BASE
        self.convs = nn.ModuleList(
            downsample(a, b, kernel_size) for a, b in pairwise([channels + condition_features, *widths])
        )
        self.norms = nn.ModuleList(BatchNormAct2d(count, activation="leaky_relu") for count in widths[1:])

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        h = F.leaky_relu(self.convs[0](_with_planes(self, images, condition)), _SLOPE)
        for conv, norm in zip(self.convs[1:], self.norms):
            h = norm(conv(h))
        return h.flatten(1)


class SmallConvGenerator(nn.Module):
    """z (B, latent_dim) to images (B, channels, 28, 28) in [-1, 1], through 7×7 and 14×14.

    Batch normalisation follows the activation here.

    Args:
        channels: of the images.
        width: channels of the 14×14 map; the 7×7 map has twice as many.
        latent_dim: size of z.
    """

    def __init__(self, *, channels: int, width: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.linear = nn.Linear(latent_dim, 2 * width * 7 * 7)
        self.norm1 = BatchNormAct2d(2 * width)
        self.conv1 = upsample(2 * width, width, 5, bias=True)
        self.norm2 = BatchNormAct2d(width)
        self.conv2 = upsample(width, channels, 5, bias=True)
        normal_weights(self)

    def forward(self, z: Tensor) -> Tensor:
        check_latents(z, self.latent_dim)
        h = self.norm1(self.linear(z).view(z.shape[0], -1, 7, 7))
        h = self.norm2(F.relu(self.conv1(h)))
        return torch.tanh(self.conv2(h))


class SmallConvFeatures(Features):
    """Images of 28 pixels, and a condition as constant planes, to a flat 7×7 map; dropout, no normalisation.

    Args:
        channels: of the images.
        width: channels of the 14×14 map; the 7×7 map has twice as many.
        condition_features: length of the condition.
    """

    resolution = 28

    def __init__(self, *, channels: int, width: int, condition_features: int = 0) -> None:
        super().__init__()
        self.channels = channels
        self.condition_features = condition_features
        self.out_features = 2 * width * 7 * 7
        self.conv1 = downsample(channels + condition_features, width, 5, bias=True)
        self.conv2 = downsample(width, 2 * width, 5, bias=True)

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        h = _with_planes(self, images, condition)
        for conv in (self.conv1, self.conv2):
            h = F.dropout(F.leaky_relu(conv(h), _SLOPE), _DROPOUT, self.training)
        return h.flatten(1)


def _with_planes(network: Features, images: Tensor, condition: Tensor | None) -> Tensor:
    check_images(images, network.channels, network.resolution)
    network.check_condition(condition, len(images))
    if condition is None:
        return images
    planes = condition[:, :, None, None].expand(-1, -1, *images.shape[2:])
    return torch.cat([images, planes.to(images.dtype)], dim=1)
