"""What the networks of SAGAN, BigGAN and their kin have in common: a stack of residual blocks with one attention layer.

A generator is a linear layer to a map of 4×4, blocks, then batch normalisation, activation, a 3×3 convolution and tanh.
A discriminator is blocks, then activation, the sum over all positions, and a projection (Miyato & Koyama 2018, arXiv
1802.05637, eq. 3): ψ(φ(x)) + ⟨embedding(y), φ(x)⟩.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import SelfAttention2d
from ganfuse.models.checks import check_images, check_labels, check_latents
from ganfuse.models.layer_factory import LayerFactory

__all__ = ["FIRST", "ProjectionDiscriminator", "ResidualGenerator", "attention_after", "doublings"]

FIRST = 4
"""The generator begins and the discriminator ends with maps of 4×4."""


def doublings(first: int, last: int) -> list[int]:
    """first, 2·first, … up to last."""
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(2 * sizes[-1])
    return sizes


def attention_after(
    sizes: Sequence[int],
    widths: Sequence[int],
    resolution: int,
    layers: LayerFactory,
    *,
    pool_keys: bool = True,
    last: bool = False,
) -> tuple[int | None, SelfAttention2d | None]:
    """The attention layer, and the index of the block that it follows: the first one whose map has that resolution.

    Args:
        sizes, widths: of the map that each block gives.
        resolution: 0 means no attention.
        layers: makes the layer.
        pool_keys: max-pool its keys and values 2×2.
        last: the last such block.
    """
    if resolution == 0:
        return None, None
    places = [index for index, size in enumerate(sizes) if size == resolution]
    index = places[-1 if last else 0]
    return index, layers.attention(widths[index], pool_keys=pool_keys)


class ResidualGenerator(nn.Module):
    """The frame of a generator. A subclass says how latents and labels become the first map and the conditions.

    Args:
        resolution, channels: of the images.
        latent_dim: size of z.
        num_classes: None makes an unconditional generator.
        linear: to the first map, channels fastest.
        blocks: each is called with a map and a condition (a tensor or None).
        attention: see `attention_after`.
        features: channels that the last block gives.
        layers: makes the last layers.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        latent_dim: int,
        num_classes: int | None,
        linear: nn.Linear,
        blocks: Sequence[nn.Module],
        attention: tuple[int | None, SelfAttention2d | None],
        features: int,
        layers: LayerFactory,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.linear = linear
        self.blocks = nn.ModuleList(blocks)
        self.attention_after, self.attention = attention
        self.output_bn = layers.batch_norm(features)
        self.output_conv = layers.conv2d(features, channels, 3)

    def check_inputs(self, z: Tensor, labels: Tensor | None) -> None:
        """Raises ValueError for latents and labels of other shapes."""
        check_latents(z, self.latent_dim)
        check_labels(labels, z.shape[0], self.num_classes)

    def synthesize(self, source: Tensor, conditions: Sequence[Tensor | None]) -> Tensor:
        """From the linear layer's input (B, ·) and a condition for each block to images in [-1, 1]."""
        # Channels fastest, as in SAGAN's code: so a view is all it takes to be channels_last.
        h = self.linear(source).view(source.shape[0], FIRST, FIRST, -1).permute(0, 3, 1, 2)
        for index, (block, condition) in enumerate(zip(self.blocks, conditions, strict=True)):
            h = block(h, condition)
            if self.attention is not None and index == self.attention_after:
                h = self.attention(h)
        return torch.tanh(self.output_conv(self.output_bn(h)))


class ProjectionDiscriminator(nn.Module):
    """Images (B, channels, resolution, resolution) and labels (B,) to logits (B,). Feature maps are channels_last.

    Args:
        resolution, channels: of the images.
        num_classes: None makes an unconditional discriminator, without the projection.
        blocks: each is called with a map.
        attention: see `attention_after`.
        features: channels that the last block gives.
        layers: makes the last layers.
        input_conv: before the first block; None: nothing.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        num_classes: int | None,
        blocks: Sequence[nn.Module],
        attention: tuple[int | None, SelfAttention2d | None],
        features: int,
        layers: LayerFactory,
        input_conv: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        self.num_classes = num_classes
        self.layers = layers
        self.input_conv = input_conv
        self.blocks = nn.ModuleList(blocks)
        self.attention_after, self.attention = attention
        self.linear = layers.linear(features, 1)
        self.embedding = None if num_classes is None else layers.embedding(num_classes, features)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        check_images(images, self.channels, self.resolution)
        check_labels(labels, images.shape[0], self.num_classes)
        h = images.contiguous(memory_format=torch.channels_last)
        if self.input_conv is not None:
            h = self.input_conv(h)
        for index, block in enumerate(self.blocks):
            h = block(h)
            if self.attention is not None and index == self.attention_after:
                h = self.attention(h)
        features = self.layers.activate(h).sum((2, 3))
        logits: Tensor = self.linear(features).squeeze(1)
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features).sum(1)
        return logits
