"""StyleGAN2: Analyzing and Improving the Image Quality of StyleGAN (Karras et al. 2020, arXiv 1912.04958).

Weights that are modulated by w and demodulated again take the place of StyleGAN's instance normalisation; a generator
with skip connections and a residual discriminator that of progressive growth; paths from w to images are held to equal
lengths, and regularisers are computed at some steps only. StyleGAN2-ADA (Karras et al. 2020, arXiv 2006.06676) adds
classes, adaptive augmentation and half precision for the largest maps, which are here too.

Config F at 1024 px has 30,370,060 and 29,012,513 parameters.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ganfuse.engine.augment import AdaptiveAugment
from ganfuse.engine.augment.pipeline import PIPELINES
from ganfuse.engine.game import Batch, Player, Turn
from ganfuse.engine.moving_average import MovingAverage
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.regularizers import path_length
from ganfuse.models.checks import (
    check_choice,
    check_classes,
    check_count,
    check_positive,
    check_range,
    check_resolution,
)
from ganfuse.models.registry import register_model
from ganfuse.models.style_game import StyleGame
from ganfuse.models.stylegan2_block import ARCHITECTURES
from ganfuse.models.stylegan2_discriminator import Discriminator
from ganfuse.models.stylegan2_generator import Generator
from ganfuse.models.stylegan2_presets import preset

RESOLUTIONS = (8, 16, 32, 64, 128, 256, 512, 1024)
_PATH_DECAY = 0.99


class StyleGAN2Game(StyleGame):
    """`StyleGame` with path length regularisation (section 3.2) in a turn of its own, as R1 has one (section 3.1).

    Args:
        generator, discriminator: see `ganfuse.models.stylegan2_generator` and `..._discriminator`.
        path_length_weight: 0: none.
        path_length_interval: the penalty is computed at every so many-th step, so many times as strong.
        **options: of `StyleGame`.

    Attributes:
        path_length_mean: a, the moving average of the lengths (decay 0.99 from one such turn to the next).
    """

    generator: Generator

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        path_length_weight: float = 2.0,
        path_length_interval: int = 4,
        **options: Any,
    ) -> None:
        check_range(0.0, float("inf"), path_length_weight=path_length_weight)
        check_positive(path_length_interval=path_length_interval)
        super().__init__(generator, discriminator, **options)
        self.path_length_weight = path_length_weight
        self.path_length_interval = path_length_interval
        self.path_length_mean = MovingAverage(decay=_PATH_DECAY)

    def players(self) -> Sequence[Player]:
        discriminator, generator = super().players()
        if self.path_length_weight:
            assert isinstance(generator.optimizer, Adam)
            generator = replace(generator, optimizer=generator.optimizer.lazy(self.path_length_interval))
        return discriminator, generator

    def turns(self) -> Sequence[Turn]:
        turns = list(super().turns())
        if self.path_length_weight:
            every = self.path_length_interval
            turns.append(Turn("generator", self.path_length_loss, every=every, name="path_length", second_order=True))
        return turns

    def path_length_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The penalty times `path_length_interval`, on half as many images as the batch has (appendix B).

        Lengths are compared with their average before this turn, which no share of the batch changes.
        """
        n = max(1, len(batch) // 2)
        labels = self.draw_labels(n, noise)
        z, mixed = self.draw_latents(n, noise), self.draw_mixing(n, noise)
        ws = self.generator.styles(z, labels, self.layers, mixed=mixed)
        images = self.generator.synthesis(ws)
        directions = noise.normal(*images.shape, dtype=images.dtype).to(images.device)
        mean = self.path_length_mean
        penalty, length = path_length(images, ws, directions, mean.value)
        mean.observe(length.reshape(1))
        weight = self.path_length_weight * self.path_length_interval
        return {"loss": weight * penalty, "penalty": penalty.detach(), "length": length}


@register_model(
    summary="modulated convolutions, skip generator, residual discriminator, path length and lazy R1; ADA",
    paper="Analyzing and Improving the Image Quality of StyleGAN",
    arxiv="1912.04958",
    resolutions=RESOLUTIONS,
)
def stylegan2(
    *,
    resolution: int = 1024,
    num_classes: int | None = None,
    channels: int = 3,
    config: str = "stylegan2",
    batch_size: int | None = None,
    width: int | None = None,
    channel_max: int = 512,
    latent_dim: int = 512,
    style_features: int = 512,
    mapping_layers: int | None = None,
    mapping_lr_multiplier: float = 0.01,
    generator_architecture: str = "skip",
    discriminator_architecture: str | None = None,
    group_size: int | None = None,
    num_half_resolutions: int = 4,
    conv_clamp: float | None = 256.0,
    style_mixing: float | None = None,
    augment: str | None = None,
    ada_target: float | None = None,
    ada_kimg: float | None = None,
    ada_pipeline: str | None = None,
    lr: float | None = None,
    betas: Sequence[float] = (0.0, 0.99),
    r1_gamma: float | None = None,
    r1_interval: int = 16,
    path_length_weight: float | None = None,
    path_length_interval: int = 4,
    ema_kimg: float | None = None,
    ema_ramp_up: float | None = None,
) -> StyleGAN2Game:
    """StyleGAN2 with the recipe of config F (table 1, appendix B) or another preset.

    Non-saturating logistic loss, Adam β = (0, 0.99) with rate 0.002, R1 with γ = 10 every 16 steps, path lengths with
    weight 2 every 4 steps on half the batch, style mixing 0.9, batches of 32, averages with a half-life of 10 kimg. The
    rates and moments of lazily regularised players are adapted (`Adam.lazy`).

    Args:
        resolution: a power of two from 8 to 1024.
        num_classes: None (or 0 or 1): unconditional. StyleGAN2-ADA's conditional networks otherwise.
        channels: of the images.
        config: which preset fills in what is None below, see `ganfuse.models.stylegan2_presets.preset`.
        batch_size: real images per batch, which the preset "auto" scales with; `ganfuse train` fills it in.
        width: channels at full resolution, doubled with every halving up to `channel_max`; 32768 / resolution in config
            F.
        channel_max: see above.
        latent_dim, style_features: sizes of z and w.
        mapping_layers, mapping_lr_multiplier: see `MappingNetwork`.
        generator_architecture, discriminator_architecture: "skip", "resnet" or "orig" (section 4.1).
        group_size: of the minibatch standard deviation.
        num_half_resolutions, conv_clamp: what is computed in half types with precision bf16 or fp16, see `Synthesis`.
        style_mixing: probability, see `StyleGame`.
        augment: None, "ada" or "diffaugment", see `AdversarialGame`.
        ada_target, ada_kimg, ada_pipeline: of "ada", see `AdaptiveAugment`; None: 0.6, 500 and "bgc", the paper's. Its
            authors' script takes 100 thousand images where it begins with trained weights.
        lr, betas: of both players' Adam.
        r1_gamma, r1_interval: γ, and every how many steps it is computed; 0 and any: none.
        path_length_weight, path_length_interval: likewise.
        ema_kimg, ema_ramp_up: see `StyleGame`; 0: no average, and no ramp.

    Raises:
        ValueError: names the argument.
    """
    check_resolution("StyleGAN2", resolution, RESOLUTIONS)
    classes = check_classes(num_classes)
    if batch_size is not None:
        check_positive(batch_size=batch_size)
    chosen = preset(config, resolution, batch_size)
    width = chosen.width if width is None else width
    group_size = chosen.group_size if group_size is None else group_size
    mapping_layers = chosen.mapping_layers if mapping_layers is None else mapping_layers
    discriminator_architecture = discriminator_architecture or chosen.discriminator_architecture
    check_positive(
        channels=channels,
        width=width,
        channel_max=channel_max,
        latent_dim=latent_dim,
        style_features=style_features,
        mapping_layers=mapping_layers,
        group_size=group_size,
        r1_interval=r1_interval,
    )
    check_count(num_half_resolutions=num_half_resolutions)
    check_range(1e-12, float("inf"), mapping_lr_multiplier=mapping_lr_multiplier)
    if conv_clamp is not None:
        check_range(1e-6, float("inf"), conv_clamp=conv_clamp)
    check_choice("generator_architecture", generator_architecture, ARCHITECTURES)
    check_choice("discriminator_architecture", discriminator_architecture, ARCHITECTURES)
    shared: dict[str, Any] = {
        "resolution": resolution,
        "num_classes": classes,
        "channels": channels,
        "width": width,
        "channel_max": channel_max,
        "num_half_resolutions": num_half_resolutions,
        "conv_clamp": conv_clamp,
    }
    generator = Generator(
        latent_dim=latent_dim,
        style_features=style_features,
        mapping_layers=mapping_layers,
        mapping_lr_multiplier=mapping_lr_multiplier,
        architecture=generator_architecture,
        **shared,
    )
    discriminator = Discriminator(architecture=discriminator_architecture, group_size=group_size, **shared)
    rate = chosen.lr if lr is None else lr
    r1_gamma = chosen.r1_gamma if r1_gamma is None else r1_gamma
    check_range(0.0, float("inf"), lr=rate, r1_gamma=r1_gamma)
    return StyleGAN2Game(
        generator,
        discriminator,
        path_length_weight=chosen.path_length if path_length_weight is None else path_length_weight,
        path_length_interval=path_length_interval,
        style_mixing=chosen.style_mixing if style_mixing is None else style_mixing,
        ema_kimg=(chosen.ema_kimg if ema_kimg is None else ema_kimg) or None,
        ema_ramp_up=(chosen.ema_ramp_up if ema_ramp_up is None else ema_ramp_up) or None,
        num_classes=classes,
        generator_lr=rate,
        discriminator_lr=rate,
        betas=betas,
        concatenate=True,
        r1_gamma=r1_gamma,
        penalty_interval=r1_interval,
        augment=_augmentation(augment, target=ada_target, kimg=ada_kimg, pipeline=ada_pipeline),
    )


def _augmentation(augment: str | None, **settings: Any) -> str | AdaptiveAugment | None:
    """The augmentation with those of its settings that are not None."""
    given = {key: value for key, value in settings.items() if value is not None}
    for key, value in given.items():
        if augment != "ada":
            raise ValueError(f"ada_{key}: has a meaning only with augment='ada', got {value!r} and {augment!r}")
    if "target" in given:
        check_range(-1.0, 1.0, ada_target=given["target"])
    if "kimg" in given:
        check_range(1e-6, float("inf"), ada_kimg=given["kimg"])
    check_choice("ada_pipeline", given.get("pipeline", PIPELINES[-1]), PIPELINES)
    return AdaptiveAugment(**given) if augment == "ada" else augment
