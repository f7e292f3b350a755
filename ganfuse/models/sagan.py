"""SAGAN: Self-Attention Generative Adversarial Networks (Zhang, Goodfellow, Metaxas & Odena 2018, arXiv 1805.08318).

Residual networks with spectral normalisation in both players, conditional batch normalisation in the generator, a
projection discriminator (Miyato & Koyama 2018, arXiv 1802.05637), one self-attention layer in each, hinge loss, and two
learning rates. Where the paper is silent, this follows its authors' code: the keys and values of the attention are
max-pooled, and all weights start from Xavier's distribution. The attention stands at 32×32, as in that code; of the
four places that section 5.2 compares, 8×8 to 64×64, it has the lowest FID.

At 128 px with 1000 classes the players have 42,078,852 and 39,463,618 parameters; BigGAN-PyTorch's SAGAN, whose
attention stands at 64×64 (``attention_resolution=64``), 42.0 and 39.4 million.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.models.blocks import DownBlock, UpBlock
from ganfuse.models.checks import check_attention, check_classes, check_positive, check_resolution
from ganfuse.models.layer_factory import LayerFactory
from ganfuse.models.registry import register_model
from ganfuse.models.residual_networks import (
    FIRST,
    ProjectionDiscriminator,
    ResidualGenerator,
    attention_after,
    doublings,
)

RESOLUTIONS = (32, 64, 128)
_LAYERS = LayerFactory()


class Generator(ResidualGenerator):
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
        sizes = doublings(FIRST, resolution)
        widths = [width * min(16, resolution // size) for size in sizes]
        norm = partial(_LAYERS.batch_norm, num_classes=num_classes)
        super().__init__(
            resolution=resolution,
            channels=channels,
            latent_dim=latent_dim,
            num_classes=num_classes,
            linear=_LAYERS.linear(latent_dim, widths[0] * FIRST * FIRST),
            blocks=[UpBlock(inputs, outputs, norm=norm, layers=_LAYERS) for inputs, outputs in pairwise(widths)],
            attention=attention_after(sizes[1:], widths[1:], attention_resolution, _LAYERS, pool_keys=pool_keys),
            features=widths[-1],
            layers=_LAYERS,
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_inputs(z, labels)
        return self.synthesize(z, [labels] * len(self.blocks))


class Discriminator(ProjectionDiscriminator):
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
        sizes = doublings(FIRST, resolution // 2)[::-1]
        widths = [width * min(16, resolution // (2 * size)) for size in sizes]
        blocks = [DownBlock(channels, widths[0], preactivation=False, layers=_LAYERS)]
        blocks += [DownBlock(inputs, outputs, layers=_LAYERS) for inputs, outputs in pairwise(widths)]
        blocks += [DownBlock(widths[-1], widths[-1], downsample=False, layers=_LAYERS)]
        super().__init__(
            resolution=resolution,
            channels=channels,
            num_classes=num_classes,
            blocks=blocks,
            attention=attention_after(sizes, widths, attention_resolution, _LAYERS, pool_keys=pool_keys),
            features=widths[-1],
            layers=_LAYERS,
        )


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
    check_resolution("SAGAN", resolution, RESOLUTIONS)
    check_positive(channels=channels, width=width, latent_dim=latent_dim)
    classes = check_classes(num_classes)
    if attention_resolution is None:
        attention_resolution = min(32, resolution // 2)
    check_attention(attention_resolution, doublings(2 * FIRST, resolution // 2), resolution)
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
