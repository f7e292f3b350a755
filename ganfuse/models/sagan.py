"""SAGAN: Self-Attention Generative Adversarial Networks (Zhang, Goodfellow, Metaxas & Odena 2018, arXiv 1805.08318).

Residual networks with spectral normalisation in both players, conditional batch normalisation in the generator, a
projection discriminator (Miyato & Koyama 2018, arXiv 1802.05637), one self-attention layer in each, hinge loss, and two
learning rates. Where the paper is silent, this follows its authors' code: the keys and values of the attention are
max-pooled, the attention stands at 32×32, and all weights start from Xavier's distribution.

At 128 px with 1000 classes the players have 42,078,852 and 39,463,618 parameters; BigGAN-PyTorch's SAGAN, whose
attention stands at 64×64 (``attention_resolution=64``), 42.0 and 39.4 million.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.layers import BatchNormAct2d, SelfAttention2d
from ganfuse.models import blocks
from ganfuse.models.registry import register_model

RESOLUTIONS = (32, 64, 128)
_BASE = 4  # the generator begins and the discriminator ends with maps of 4×4


class Generator(nn.Module):
    """z (B, latent_dim) and labels (B,) to images (B, channels, resolution, resolution) in [-1, 1].

    The width at resolution r is ``width · min(16, resolution / r)``. Feature maps are channels_last from the first on.

    Args:
        resolution: 32, 64 or 128.
        num_classes: None makes an unconditional generator, with plain batch normalisation.
        channels: of the images.
        width: channels at full resolution.
        latent_dim: size of z.
        attention_resolution: which map the attention works on, a power of two in 8..resolution/2; 0: no attention.
        pool_keys: max-pool the attention's keys and values 2×2.
    """

    def __init__(
        self,
        *,
        resolution: int = 128,
        num_classes: int | None = 1000,
        channels: int = 3,
        width: int = 64,
        latent_dim: int = 128,
        attention_resolution: int = 32,
        pool_keys: bool = True,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.num_classes = num_classes
        self.latent_dim = latent_dim
        sizes = _doublings(_BASE, resolution)
        widths = [width * min(16, resolution // size) for size in sizes]
        self.linear = blocks.linear(latent_dim, widths[0] * _BASE * _BASE)
        self.blocks = nn.ModuleList(
            blocks.UpBlock(inputs, outputs, num_classes=num_classes) for inputs, outputs in pairwise(widths)
        )
        self.attention_after, self.attention = _attention(sizes[1:], widths[1:], attention_resolution, pool_keys)
        self.output_bn = BatchNormAct2d(widths[-1], activation="relu")
        self.output_conv = blocks.conv2d(widths[-1], channels, 3)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z: expected (B, {self.latent_dim}), got {tuple(z.shape)}")
        _check_labels(labels, z.shape[0], self.num_classes)
        # Channels fastest, as in the authors' code: so a view is all it takes to be channels_last.
        h = self.linear(z).view(z.shape[0], _BASE, _BASE, -1).permute(0, 3, 1, 2)
        for index, block in enumerate(self.blocks):
            h = block(h, labels)
            if self.attention is not None and index == self.attention_after:
                h = self.attention(h)
        return torch.tanh(self.output_conv(self.output_bn(h)))


class Discriminator(nn.Module):
    """Images (B, channels, resolution, resolution) and labels (B,) to logits (B,).

    The width at resolution r is ``width · min(16, resolution / 2r)``. The arguments are those of `Generator`.
    """

    def __init__(
        self,
        *,
        resolution: int = 128,
        num_classes: int | None = 1000,
        channels: int = 3,
        width: int = 64,
        attention_resolution: int = 32,
        pool_keys: bool = True,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.num_classes = num_classes
        self.channels = channels
        sizes = _doublings(_BASE, resolution // 2)[::-1]
        widths = [width * min(16, resolution // (2 * size)) for size in sizes]
        self.blocks = nn.ModuleList([blocks.DownBlock(channels, widths[0], preactivation=False)])
        self.blocks.extend(blocks.DownBlock(inputs, outputs) for inputs, outputs in pairwise(widths))
        self.blocks.append(blocks.DownBlock(widths[-1], widths[-1], downsample=False))
        self.attention_after, self.attention = _attention(sizes, widths, attention_resolution, pool_keys)
        self.linear = blocks.linear(widths[-1], 1)
        self.embedding = None if num_classes is None else blocks.embedding(num_classes, widths[-1])

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        expected = (self.channels, self.resolution, self.resolution)
        if images.dim() != 4 or images.shape[1:] != expected:
            raise ValueError(f"images: expected (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}")
        _check_labels(labels, images.shape[0], self.num_classes)
        h = images.contiguous(memory_format=torch.channels_last)
        for index, block in enumerate(self.blocks):
            h = block(h)
            if self.attention is not None and index == self.attention_after:
                h = self.attention(h)
        features = F.relu(h).sum((2, 3))
        logits: Tensor = self.linear(features).squeeze(1)
        if self.embedding is not None:
            logits = logits + (self.embedding(labels) * features).sum(1)
        return logits


@register_model(
    summary="residual, spectrally normalised, one self-attention layer, projection discriminator",
    paper="Self-Attention Generative Adversarial Networks",
    arxiv="1805.08318",
    resolutions=RESOLUTIONS,
)
def sagan(
    *,
    resolution: int = 128,
    num_classes: int | None = 1000,
    channels: int = 3,
    width: int = 64,
    latent_dim: int = 128,
    attention_resolution: int | None = None,
    pool_keys: bool = True,
    loss: str = "hinge",
    generator_lr: float = 1e-4,
    discriminator_lr: float = 4e-4,
    betas: Sequence[float] = (0.0, 0.9),
    discriminator_steps: int = 1,
    ema_decay: float | None = 0.999,
) -> AdversarialGame:
    """SAGAN with the recipe of the paper (section 4): hinge loss, Adam β = (0, 0.9), rates 1e-4 and 4e-4, 1:1 steps.

    Args:
        resolution: 32, 64 or 128. The paper's is 128; the smaller ones leave out its widest blocks.
        num_classes: None (or 0 or 1) makes both players unconditional.
        channels: of the images, 1 or 3 usually.
        width: channels of the generator at full resolution, 64 in the paper.
        latent_dim: size of z ~ N(0, 1).
        attention_resolution: which map the attention works on; None: 32, at 32 px 16; 0: no attention.
        pool_keys: max-pool the attention's keys and values, as the authors' code does.
        loss, generator_lr, discriminator_lr, betas, discriminator_steps: see `AdversarialGame`.
        ema_decay: of the generator's moving average, which the paper does not have; None: none.

    Raises:
        ValueError: for a resolution that is not there and values out of range.
    """
    if resolution not in RESOLUTIONS:
        raise ValueError(f"resolution: SAGAN is made for {', '.join(map(str, RESOLUTIONS))} px, got {resolution!r}")
    for key, value in (("channels", channels), ("width", width), ("latent_dim", latent_dim)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{key}: expected a positive whole number, got {value!r}")
    if num_classes is not None and (not isinstance(num_classes, int) or num_classes < 0):
        raise ValueError(f"num_classes: expected a whole number or None, got {num_classes!r}")
    if attention_resolution is None:
        attention_resolution = min(32, resolution // 2)
    maps = _doublings(2 * _BASE, resolution // 2)
    if attention_resolution not in (0, *maps):
        raise ValueError(
            f"attention_resolution: both players have maps of {', '.join(map(str, maps))} at {resolution} px "
            f"(0: no attention), got {attention_resolution!r}"
        )
    classes = None if num_classes in (None, 0, 1) else num_classes
    generator = Generator(
        resolution=resolution,
        num_classes=classes,
        channels=channels,
        width=width,
        latent_dim=latent_dim,
        attention_resolution=attention_resolution,
        pool_keys=pool_keys,
    )
    discriminator = Discriminator(
        resolution=resolution,
        num_classes=classes,
        channels=channels,
        width=width,
        attention_resolution=attention_resolution,
        pool_keys=pool_keys,
    )
    return AdversarialGame(
        generator,
        discriminator,
        loss,
        latent_dim=latent_dim,
        num_classes=classes,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        discriminator_steps=discriminator_steps,
        ema_decay=ema_decay,
    )


def _doublings(first: int, last: int) -> list[int]:
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(2 * sizes[-1])
    return sizes


def _attention(
    sizes: Sequence[int], widths: Sequence[int], resolution: int, pool_keys: bool
) -> tuple[int | None, SelfAttention2d | None]:
    """The attention layer and the index of the block that it follows, given the blocks' sizes and widths."""
    if resolution == 0:
        return None, None
    index = list(sizes).index(resolution)
    layer = SelfAttention2d(widths[index], pool_keys=pool_keys, spectral=True)
    for conv in layer.children():
        nn.init.xavier_uniform_(conv.get_parameter("weight_orig"))
    return index, layer


def _check_labels(labels: Tensor | None, batch: int, num_classes: int | None) -> None:
    if num_classes is None:
        if labels is not None:
            raise ValueError("labels: this network is unconditional; leave labels out")
    elif labels is None:
        raise ValueError(f"labels: this network has {num_classes} classes and needs labels of shape ({batch},)")
    elif labels.shape != (batch,):
        raise ValueError(f"labels: expected shape ({batch},), got {tuple(labels.shape)}")
