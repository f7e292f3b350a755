"""ProGAN: Progressive Growing of GANs for Improved Quality, Stability, and Variation (Karras et al. 2018, 1710.10196).

Both networks begin with images of 4×4 and grow, layer by layer, to full resolution; weights are scaled when they are
used, features normalised per pixel, and the discriminator sees how much the images of a batch differ. Trained with
the Wasserstein loss and a gradient penalty.

At 1024 px the networks have 23,079,115 and 23,087,249 parameters.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import EqualizedConv2d, EqualizedLinear, PixelNorm
from ganfuse.engine.losses import AdversarialLoss, wasserstein_discriminator_loss, wasserstein_generator_loss
from ganfuse.engine.regularizers import drift
from ganfuse.kernels import bias_act, pixel_norm
from ganfuse.models.checks import check_choice, check_latents, check_positive, check_range, check_resolution
from ganfuse.models.growing_game import GrowingGame
from ganfuse.models.growth import BASE, Growth, batch_sizes_of, doubled, fade_in
from ganfuse.models.progressive_discriminator import Discriminator
from ganfuse.models.progressive_layers import HE_GAIN, activated_conv, widths_of
from ganfuse.models.registry import register_model

RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512, 1024)
#: Appendix A.1.
BATCH_SIZES = {4: 16, 256: 14, 512: 6, 1024: 3}
#: Whose details: the paper's authors', or those of pytorch_GAN_zoo.
VARIANTS = ("paper", "gan-zoo")


class GeneratorBlock(nn.Module):
    """(B, inputs, H, W) → (B, outputs, 2H, 2W): twice conv 3×3, leaky ReLU, pixel norm, behind nearest ×2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv0 = activated_conv(inputs, outputs, up=2)
        self.conv1 = activated_conv(outputs, outputs)
        self.norm = PixelNorm()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.conv1(self.norm(self.conv0(x))))
        return found


class GeneratorBase(nn.Module):
    """Latents (B, latent_dim) to the map (B, outputs, 4, 4).

    In the variant "gan-zoo" each of the map's pixels has biases of its own, and the product the scale of all others.
    """

    def __init__(self, latent_dim: int, outputs: int, *, variant: str = "paper") -> None:
        super().__init__()
        self.outputs = outputs
        zoo = variant == "gan-zoo"
        # A quarter, since the map's 16 pixels are outputs of one product (the authors' code).
        self.fc = EqualizedLinear(latent_dim, outputs * BASE**2, bias=zoo, gain=HE_GAIN if zoo else HE_GAIN / 4)
        self.bias = None if zoo else nn.Parameter(torch.zeros(outputs))
        self.conv = activated_conv(outputs, outputs)

    def forward(self, z: Tensor) -> Tensor:
        h = self.fc(pixel_norm(z)).view(-1, self.outputs, BASE, BASE)
        bias = None if self.bias is None else self.bias.to(h.dtype)
        h = pixel_norm(bias_act(h, bias, act="lrelu", gain=1.0))
        return pixel_norm(self.conv(h))


class Generator(nn.Module):
    """z (B, latent_dim) to images (B, channels, r, r) of a level's resolution, around [-1, 1] (table 2; no tanh).

    Args:
        resolution: of the last level, a power of two.
        channels: of the images.
        width: channels of the largest map; they double with every halving up to `channel_max`. Or those of all maps
            from 4×4 on.
        latent_dim: of z.
        variant: one of `VARIANTS`, see `GeneratorBase`.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int = 3,
        width: int | Sequence[int] = 16,
        channel_max: int = 512,
        latent_dim: int = 512,
        variant: str = "paper",
    ) -> None:
        super().__init__()
        check_choice("variant", variant, VARIANTS)
        widths = widths_of(resolution, width, channel_max)
        self.latent_dim = latent_dim
        self.base = GeneratorBase(latent_dim, widths[0], variant=variant)
        self.blocks = nn.ModuleList(GeneratorBlock(inputs, outputs) for inputs, outputs in pairwise(widths))
        # By level.
        self.torgb = nn.ModuleList(EqualizedConv2d(features, channels, 1, resample_filter=None) for features in widths)

    def forward(self, z: Tensor, *, level: int | None = None, alpha: Tensor | None = None) -> Tensor:
        """Images.

        Args:
            z: see the class.
            level: of the images; None: the last one.
            alpha: share of the level's own block while it fades in, a tensor of shape (); None: 1.
        """
        check_latents(z, self.latent_dim)
        level = len(self.blocks) if level is None else level
        x: Tensor = self.base(z)
        old = x
        for block in self.blocks[:level]:
            old, x = x, block(x)
        image: Tensor = self.torgb[level](x)
        return image if alpha is None else fade_in(doubled(self.torgb[level - 1](old)), image, alpha)


@register_model(
    summary="progressive growth, equalised rates, pixel norm, minibatch deviation, WGAN-GP with drift",
    paper="Progressive Growing of GANs for Improved Quality, Stability, and Variation",
    arxiv="1710.10196",
    resolutions=RESOLUTIONS,
)
def progan(
    *,
    resolution: int = 1024,
    channels: int = 3,
    width: int | Sequence[int] | None = None,
    channel_max: int = 512,
    latent_dim: int = 512,
    group_size: int | None = None,
    variant: str = "paper",
    start: int = 4,
    stable_kimg: float = 600.0,
    fade_kimg: float = 600.0,
    batch_sizes: Mapping[int, int] | str | None = "paper",
    lr: float = 1e-3,
    betas: Sequence[float] = (0.0, 0.99),
    wgan_gp: float = 10.0,
    drift_weight: float = 1e-3,
    discriminator_steps: int = 1,
    ema_decay: float | None = 0.999,
) -> GrowingGame:
    """ProGAN with the recipe of the paper (appendix A.1): Adam β = (0, 0.99), rate 1e-3, penalty 10, drift 0.001.

    Phases of 600 thousand images as in the authors' code (the paper has 800); optimisers start anew when a fade begins
    or ends.

    Args:
        resolution: a power of two from 8 to 1024.
        channels: of the images.
        width: channels at full resolution, doubled with every halving up to `channel_max`; or of all maps from 4×4 on;
            16384 / resolution if None.
        channel_max: see above.
        latent_dim: size of z ~ N(0, 1).
        group_size: of the minibatch standard deviation; None: the whole batch, as in the paper (section 3).
        variant: "gan-zoo": details of pytorch_GAN_zoo, see `GeneratorBase` and `Discriminator`.
        start: resolution that is trained first.
        stable_kimg, fade_kimg: see `Growth`.
        batch_sizes: real images per batch from each resolution on, in place of the trainer's: "paper" is
            {4: 16, 256: 14, 512: 6, 1024: 3}; None: the trainer's.
        lr, betas: of both players' Adam.
        wgan_gp: weight of the gradient penalty.
        drift_weight: of the mean square of the logits of real images.
        discriminator_steps: per step of the generator.
        ema_decay: of the generator's average, per step; None: there is none.

    Raises:
        ValueError: names the argument.
    """
    check_resolution("ProGAN", resolution, RESOLUTIONS)
    width = max(1, 16384 // resolution) if width is None else width
    check_positive(channels=channels, channel_max=channel_max, latent_dim=latent_dim)
    check_choice("variant", variant, VARIANTS)
    if group_size is not None:
        check_positive(group_size=group_size)
    check_range(0.0, math.inf, drift_weight=drift_weight)
    generator = Generator(
        resolution=resolution,
        channels=channels,
        width=width,
        channel_max=channel_max,
        latent_dim=latent_dim,
        variant=variant,
    )
    discriminator = Discriminator(
        resolution=resolution,
        channels=channels,
        width=width,
        channel_max=channel_max,
        group_size=group_size,
        variant=variant,
    )
    growth = Growth(
        resolution,
        start=start,
        stable_kimg=stable_kimg,
        fade_kimg=fade_kimg,
        batch_sizes=batch_sizes_of(batch_sizes, BATCH_SIZES),
    )

    def critic_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        loss = wasserstein_discriminator_loss(real_logits, fake_logits)
        return loss + drift_weight * drift(real_logits) if drift_weight else loss

    return GrowingGame(
        generator,
        discriminator,
        AdversarialLoss(critic_loss, wasserstein_generator_loss),
        growth=growth,
        generator_lr=lr,
        discriminator_lr=lr,
        betas=betas,
        wgan_gp=wgan_gp,
        discriminator_steps=discriminator_steps,
        ema_decay=ema_decay,
        ema_warmup=False,
    )
