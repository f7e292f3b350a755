"""StyleGAN: A Style-Based Generator Architecture for Generative Adversarial Networks (Karras et al. 2019, 1812.04948).

A mapping network turns z into w; w steers each layer of a synthesis network, which begins with a learnt constant, by
adaptive instance normalisation, and noise adds what is random. Growth is ProGAN's, from 8×8 on; the loss is the
non-saturating one with R1 in every step (config F of table 1).

At 1024 px the networks have 26,219,627 and 23,087,249 parameters.
"""

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from ganfuse.models.checks import check_choice, check_classes, check_positive, check_range, check_resolution
from ganfuse.models.growing_game import GrowingGame
from ganfuse.models.growth import Growth, batch_sizes_of
from ganfuse.models.progressive_discriminator import Discriminator
from ganfuse.models.registry import register_model
from ganfuse.models.style_game import StyleGame
from ganfuse.models.stylegan_networks import VARIANTS, Generator

RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512, 1024)
#: Of the authors' code for 8 GPUs.
BATCH_SIZES = {4: 512, 8: 256, 16: 128, 32: 64, 64: 32}
LR_BY_RESOLUTION = {128: 1.5e-3, 256: 2e-3, 512: 3e-3}


class StyleGANGame(StyleGame, GrowingGame):
    """`StyleGame` that grows. Styles are mixed among the layers that are there."""

    @property
    def layers(self) -> int:
        return 2 * (self.growth.level + 1)

    def synthesize(self, ws: Tensor) -> Tensor:
        """Images of the present resolution; see `StyleGame.synthesize`."""
        synthesis = self.generator.get_submodule("synthesis")
        images: Tensor = synthesis(ws, self.growth.level, self.growth.alpha, "const")
        return images


@register_model(
    summary="mapping network, AdaIN synthesis with noise, style mixing, progressive growth, R1",
    paper="A Style-Based Generator Architecture for Generative Adversarial Networks",
    arxiv="1812.04948",
    resolutions=RESOLUTIONS,
)
def stylegan(
    *,
    resolution: int = 1024,
    num_classes: int | None = None,
    channels: int = 3,
    width: int | Sequence[int] | None = None,
    channel_max: int = 512,
    latent_dim: int = 512,
    style_features: int = 512,
    mapping_layers: int = 8,
    mapping_lr_multiplier: float = 0.01,
    group_size: int | None = 4,
    variant: str = "paper",
    fromrgb_activation: bool = True,
    start: int = 8,
    stable_kimg: float = 600.0,
    fade_kimg: float = 600.0,
    batch_sizes: Mapping[int, int] | str | None = "paper",
    style_mixing: float = 0.9,
    lr: float = 1e-3,
    lr_by_resolution: Mapping[int, float] | None = None,
    betas: Sequence[float] = (0.0, 0.99),
    r1_gamma: float = 10.0,
    ema_kimg: float | None = 10.0,
) -> StyleGANGame:
    """StyleGAN with the recipe of config F (section 2, appendix C).

    Non-saturating loss, Adam β = (0, 0.99) with rate 1e-3 below 128 px, R1 with γ = 10 in every step, style mixing 0.9.

    Args:
        resolution: a power of two from 8 to 1024.
        num_classes: None (or 0 or 1): unconditional, as in the paper. Classes are otherwise embedded for the mapping
            network, and the discriminator has a logit for each.
        channels: of the images.
        width: channels at full resolution, doubled with every halving up to `channel_max`; or of all maps from 4×4 on;
            16384 / resolution if None.
        channel_max: see above.
        latent_dim, style_features: sizes of z and w.
        mapping_layers, mapping_lr_multiplier: see `MappingNetwork`.
        group_size: of the minibatch standard deviation; None: the whole batch.
        variant: "rosinality": details of style-based-gan-pytorch, see `Synthesis` and `Discriminator`.
        fromrgb_activation: see `Discriminator`.
        start: resolution that is trained first.
        stable_kimg, fade_kimg: see `Growth`.
        batch_sizes: real images per batch from each resolution on, in place of the trainer's: "paper" is
            {4: 512, 8: 256, 16: 128, 32: 64, 64: 32}; None: the trainer's.
        style_mixing: probability, see `StyleGame`.
        lr: of both players' Adam.
        lr_by_resolution: rates from each resolution on, in place of `lr`; None: {128: 1.5e-3, 256: 2e-3, 512: 3e-3},
            the authors'.
        betas: of both players' Adam.
        r1_gamma: γ; 0: none.
        ema_kimg: half-life of the generator's average in thousands of real images; None: no average.

    Raises:
        ValueError: names the argument.
    """
    check_resolution("StyleGAN", resolution, RESOLUTIONS)
    classes = check_classes(num_classes)
    width = max(1, 16384 // resolution) if width is None else width
    check_positive(
        channels=channels,
        channel_max=channel_max,
        latent_dim=latent_dim,
        style_features=style_features,
        mapping_layers=mapping_layers,
    )
    check_choice("variant", variant, VARIANTS)
    if group_size is not None:
        check_positive(group_size=group_size)
    check_range(1e-12, math.inf, mapping_lr_multiplier=mapping_lr_multiplier, lr=lr)
    check_range(0.0, math.inf, r1_gamma=r1_gamma)
    generator = Generator(
        resolution=resolution,
        num_classes=classes,
        latent_dim=latent_dim,
        style_features=style_features,
        mapping_layers=mapping_layers,
        mapping_lr_multiplier=mapping_lr_multiplier,
        channels=channels,
        width=width,
        channel_max=channel_max,
        variant=variant,
    )
    discriminator = Discriminator(
        resolution=resolution,
        channels=channels,
        width=width,
        channel_max=channel_max,
        num_classes=classes,
        group_size=group_size,
        blur=True,
        variant=variant,
        fromrgb_activation=fromrgb_activation,
    )
    growth = Growth(
        resolution,
        start=start,
        stable_kimg=stable_kimg,
        fade_kimg=fade_kimg,
        batch_sizes=batch_sizes_of(batch_sizes, BATCH_SIZES),
    )
    schedule = growth.schedule(LR_BY_RESOLUTION if lr_by_resolution is None else lr_by_resolution, lr)
    return StyleGANGame(
        generator,
        discriminator,
        growth=growth,
        style_mixing=style_mixing,
        ema_kimg=ema_kimg,
        num_classes=classes,
        generator_lr=lr,
        discriminator_lr=lr,
        generator_schedule=schedule,
        discriminator_schedule=schedule,
        betas=betas,
        r1_gamma=r1_gamma,
    )
