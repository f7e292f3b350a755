"""The networks of heykeetae's Self-Attention-GAN, which are not the paper's residual ones.

Transposed convolutions up to 64 px and convolutions down again, with two attention layers each whose values are as wide
as their input, unpooled, and enter it without a convolution. Spectral normalisation takes the first dimension of every
weight as rows, and steps in evaluation, too.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import BatchNormAct2d, spectral_norm
from ganfuse.interop.network import Network, require_part
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import indices, shape_of
from ganfuse.interop.spectral import settle
from ganfuse.kernels import feature_attention
from ganfuse.models.checks import check_images, check_labels, check_latents

__all__ = ["Attention", "Discriminator", "Generator", "read"]

_SLOPE = 0.1


class Attention(nn.Module):
    """x + γ · attention(x): 1×1 convolutions with bias, (B, C, H, W) → the same."""

    def __init__(self, channels: int, query_channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, query_channels, 1)
        self.key_conv = nn.Conv2d(channels, query_channels, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gamma * feature_attention(self.query_conv(x), self.key_conv(x), self.value_conv(x))


class Generator(nn.Module):
    """z (B, latent_dim) to images (B, 3, resolution, resolution) in [-1, 1].

    Args:
        widths: channels of the maps from 4×4 on.
        latent_dim: of z.
        channels: of the images.
        attention: query channels of the layers in front of the last two convolutions.
    """

    def __init__(self, widths: list[int], latent_dim: int, channels: int, attention: list[int]) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        convs = [nn.ConvTranspose2d(latent_dim, widths[0], 4)]
        convs += [nn.ConvTranspose2d(i, o, 4, stride=2, padding=1) for i, o in itertools.pairwise(widths)]
        self.stages = nn.ModuleList(
            nn.Sequential(spectral_norm(conv, dim=0), BatchNormAct2d(conv.out_channels, activation="relu"))
            for conv in convs
        )
        self.attn1, self.attn2 = (Attention(width, query) for width, query in zip(widths[-2:], attention))
        self.last = nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        check_latents(z, self.latent_dim)
        check_labels(labels, len(z), None)
        h = z[:, :, None, None]
        for stage in list(self.stages)[:-1]:
            h = stage(h)
        h = self.attn2(self.stages[-1](self.attn1(h)))
        return torch.tanh(self.last(h))


class Discriminator(nn.Module):
    """Images (B, channels, resolution, resolution) to logits (B,).

    Args:
        widths: channels of the maps from half the resolution on.
        channels: of the images.
        attention: query channels of the layers behind the last two convolutions that halve the map.
    """

    def __init__(self, widths: list[int], channels: int, attention: list[int]) -> None:
        super().__init__()
        self.channels = channels
        self.resolution = 4 << len(widths)
        inputs = [channels, *widths]
        self.stages = nn.ModuleList(
            nn.Sequential(spectral_norm(nn.Conv2d(i, o, 4, stride=2, padding=1)), nn.LeakyReLU(_SLOPE))
            for i, o in zip(inputs, widths)
        )
        self.attn1, self.attn2 = (Attention(width, query) for width, query in zip(widths[-2:], attention))
        self.last = nn.Conv2d(widths[-1], 1, 4)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        check_images(images, self.channels, self.resolution)
        check_labels(labels, len(images), None)
        h = images
        for stage in list(self.stages)[:-1]:
            h = stage(h)
        h = self.attn2(self.stages[-1](self.attn1(h)))
        logits: Tensor = self.last(h).flatten()
        return logits


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    generator = "l1.1.running_mean" in tensors
    found = "generator" if generator else "discriminator"
    require_part(part, found, "sagan")
    stages = len(indices(tensors, r"l(\d+)\."))
    tensors = settle(tensors, weight="weight_bar", u="weight_u")
    rules = [(rf"^l{n}\.(\d)\.", rf"stages.{n - 1}.\1.") for n in range(1, stages + 1)]
    tensors = renamed(tensors, [*rules, (r"\.module\.", "."), (r"^last\.0\.", "last.")])
    weights = [shape_of(tensors, f"stages.{n}.0.weight") for n in range(stages)]
    attention = [shape_of(tensors, f"attn{n}.query_conv.weight")[0] for n in (1, 2)]
    module: nn.Module
    if generator:
        widths = [shape[1] for shape in weights]
        module = Generator(widths, weights[0][0], shape_of(tensors, "last.weight")[1], attention)
    else:
        module = Discriminator([shape[0] for shape in weights], weights[0][1], attention)
    return Network(module, tensors, "sagan", found, None)
