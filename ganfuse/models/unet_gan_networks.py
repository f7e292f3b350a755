"""The networks of U-Net GAN (Schönfeld, Schiele & Khoreva 2020, arXiv 2002.12655).

The discriminator's encoder is BigGAN's without its last block, and judges the whole image; a decoder of residual blocks
without normalisation judges every pixel, and sees the encoder's maps of its resolutions (section 3.1).
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import ConditionalBatchNorm2d
from ganfuse.models.biggan import GENERATOR_WIDTHS, layers_of
from ganfuse.models.blocks import DownBlock, UpBlock
from ganfuse.models.checks import check_images, check_labels
from ganfuse.models.layer_factory import LayerFactory
from ganfuse.models.residual_networks import FIRST, ResidualGenerator, attention_after, doublings

__all__ = ["RESOLUTIONS", "Generator", "UNetDiscriminator"]

RESOLUTIONS = (32, 64, 128, 256)
# Multiples of the width after each block of the encoder, all of which halve the resolution.
ENCODER_WIDTHS = {
    32: (4, 8, 16),
    64: (2, 4, 8, 16),
    128: (1, 2, 4, 8, 16),
    256: (1, 2, 4, 8, 8, 16),
}


class Generator(ResidualGenerator):
    """z (B, latent_dim) and labels (B,) to images (B, channels, resolution, resolution) in [-1, 1].

    BigGAN's generator without shared embedding, hierarchical latents and attention. With classes, each batch
    normalisation has embeddings of its own; without, it is modulated by z (Chen et al. 2019, arXiv 1810.01365): gain
    and bias come from a perceptron with one hidden layer.

    Args:
        resolution: 32, 64, 128 or 256.
        num_classes: None makes an unconditional generator.
        channels: of the images.
        width: unit of width.
        latent_dim: size of z, and of the perceptrons' hidden layers.
        layers: makes the layers.
    """

    def __init__(
        self,
        *,
        resolution: int = 256,
        num_classes: int | None = None,
        channels: int = 3,
        width: int = 64,
        latent_dim: int = 128,
        layers: LayerFactory | None = None,
    ) -> None:
        layers = layers or layers_of()
        widths = [width * factor for factor in GENERATOR_WIDTHS[resolution]]
        if num_classes is None:
            norm: Callable[[int], nn.Module] = partial(_self_modulated, latent_dim=latent_dim, layers=layers)
        else:
            norm = partial(layers.batch_norm, num_classes=num_classes)
        super().__init__(
            resolution=resolution,
            channels=channels,
            latent_dim=latent_dim,
            num_classes=num_classes,
            linear=layers.linear(latent_dim, widths[0] * FIRST * FIRST),
            blocks=[UpBlock(inputs, outputs, norm=norm, layers=layers) for inputs, outputs in pairwise(widths)],
            attention=(None, None),
            features=widths[-1],
            layers=layers,
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_inputs(z, labels)
        return self.synthesize(z, [z if labels is None else labels] * len(self.blocks))


class UNetDiscriminator(nn.Module):
    """Images (B, channels, resolution, resolution) and labels (B,) to logits for pixels and for images.

    With classes, both kinds of logits have a projection: of the decoder's last map at every pixel, and of the encoder's
    summed features.

    Args:
        resolution, num_classes, channels, width, layers: see `Generator`.
        attention_resolution: which of the encoder's maps the attention works on; 0: no attention, as in the paper.
    """

    def __init__(
        self,
        *,
        resolution: int = 256,
        num_classes: int | None = None,
        channels: int = 3,
        width: int = 64,
        attention_resolution: int = 0,
        layers: LayerFactory | None = None,
    ) -> None:
        super().__init__()
        layers = layers or layers_of()
        self.resolution = resolution
        self.channels = channels
        self.num_classes = num_classes
        self.layers = layers
        widths = [width * factor for factor in ENCODER_WIDTHS[resolution]]
        self.encoder = nn.ModuleList(
            DownBlock(inputs, outputs, preactivation=index > 0, layers=layers)
            for index, (inputs, outputs) in enumerate(pairwise([channels, *widths]))
        )
        sizes = doublings(FIRST, resolution // 2)[::-1]
        self.attention_after, self.attention = attention_after(sizes, widths, attention_resolution, layers)
        self.linear = layers.linear(widths[-1], 1)
        self.embedding = None if num_classes is None else layers.embedding(num_classes, widths[-1])
        inputs, outputs = decoder_widths(widths)
        norm = partial(_Activation, layers)
        self.decoder = nn.ModuleList(UpBlock(i, o, norm=norm, layers=layers) for i, o in zip(inputs, outputs))
        # The one layer that is not spectrally normalised, as in the authors' code.
        self.output_conv = nn.Conv2d(outputs[-1], 1, 1)
        layers.init(self.output_conv.weight)
        self.pixel_embedding = None if num_classes is None else layers.embedding(num_classes, outputs[-1])

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of pixels, (B, 1, resolution, resolution), and of images, (B,)."""
        check_images(images, self.channels, self.resolution)
        check_labels(labels, images.shape[0], self.num_classes)
        h = images.contiguous(memory_format=torch.channels_last)
        maps = []
        for index, block in enumerate(self.encoder):
            h = block(h)
            if self.attention is not None and index == self.attention_after:
                h = self.attention(h)
            maps.append(h)
        features = self.layers.activate(h).sum((2, 3))
        logits: Tensor = self.linear(features).squeeze(1)
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features).sum(1)
        maps.pop()
        h = self.decoder[0](h)
        for block in list(self.decoder)[1:]:
            h = block(torch.cat([h, maps.pop()], dim=1))
        pixels: Tensor = self.output_conv(h)
        if self.pixel_embedding is not None:
            pixels = pixels + (self.pixel_embedding(labels)[:, :, None, None] * h).sum(1, keepdim=True)
        return pixels, logits


def decoder_widths(encoder: Sequence[int]) -> tuple[list[int], list[int]]:
    """Channels that the decoder's blocks take and give, for the widths of the encoder's maps."""
    skips = list(encoder[-2::-1])
    outputs = [*skips, encoder[0]]
    inputs = [encoder[-1], *(2 * skip for skip in skips)]
    return inputs, outputs


class _Activation(nn.Module):
    """What stands in for a normalisation with its activation where there is none."""

    def __init__(self, layers: LayerFactory, features: int) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers.activate(x)


def _self_modulated(features: int, *, latent_dim: int, layers: LayerFactory) -> ConditionalBatchNorm2d:
    layer = ConditionalBatchNorm2d(
        features, condition_features=latent_dim, eps=layers.norm_eps, activation=layers.activation
    )
    for name in ("gain", "bias"):
        perceptron = nn.Sequential(
            nn.Linear(latent_dim, latent_dim), nn.ReLU(), nn.Linear(latent_dim, features, bias=False)
        )
        for linear in (perceptron[0], perceptron[2]):
            layers.init(linear.get_parameter("weight"))
        nn.init.zeros_(perceptron[0].get_parameter("bias"))
        setattr(layer, name, perceptron)
    return layer
