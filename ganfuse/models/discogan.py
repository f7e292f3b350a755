"""DiscoGAN: Learning to Discover Cross-Domain Relations with Generative Adversarial Networks (Kim, Cha, Kim, Lee & Kim
2017, arXiv 1703.05192).

An encoder and decoder each way, a discriminator for each domain. Where the paper is silent this follows its authors'
code: images are compared in [0, 1], the generators also match the discriminators' mean features, the reconstruction's
share rises after 10,000 steps, and discriminators move at every third step, generators at the others.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.game import Batch, Turn
from ganfuse.engine.layers import BatchNormAct2d
from ganfuse.engine.losses import logistic_discriminator_loss, non_saturating_generator_loss
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.precision import at_least_float32
from ganfuse.engine.schedules import Progress
from ganfuse.engine.translation import TranslationGame
from ganfuse.models.checks import check_images, check_positive, check_range
from ganfuse.models.registry import register_model
from ganfuse.models.resnet_generator import check_sizes

__all__ = ["DiscoGANGame", "Discriminator", "Generator", "discogan"]

_HALVINGS = 4
_BOTTLENECK = 100


class Generator(nn.Module):
    """Images (B, channels, H, W) in [-1, 1] to images of the same size; H and W are multiples of 16.

    Four 4×4 convolutions of stride 2 to 8·width maps and as many transposed ones back, with batch normalisation (not on
    the first and the last), leaky ReLU of slope 0.2 on the way down and ReLU on the way up.

    Args:
        channels: of the images.
        width: of the first layer.
        bottleneck: side of the maps in the middle, if they shall go on to 100 numbers and back (five convolutions;
            then images must be of 16 times that size); None: they shall not (four).
    """

    size_multiple = 2**_HALVINGS

    def __init__(self, channels: int = 3, *, width: int = 64, bottleneck: int | None = None) -> None:
        super().__init__()
        self.channels = channels
        self.bottleneck = bottleneck
        widths = [width << index for index in range(_HALVINGS)]
        self.input_conv = nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False)
        self.encoder = nn.ModuleList(_down(i, o) for i, o in pairwise(widths))
        self.decoder = nn.ModuleList()
        if bottleneck is not None:
            down = nn.Conv2d(widths[-1], _BOTTLENECK, bottleneck, bias=False)
            up = nn.ConvTranspose2d(_BOTTLENECK, widths[-1], bottleneck, bias=False)
            self.encoder.append(_with_norm(down, _BOTTLENECK, "leaky_relu"))
            self.decoder.append(_with_norm(up, widths[-1], "relu"))
        for inputs, outputs in pairwise(widths[::-1]):
            conv = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
            self.decoder.append(_with_norm(conv, outputs, "relu"))
        self.output_conv = nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        if self.bottleneck is None:
            check_sizes(images, self.channels, self.size_multiple, self.size_multiple)
        else:
            check_images(images, self.channels, self.bottleneck << _HALVINGS)
        h = F.leaky_relu(self.input_conv(_unit(images)), 0.2)
        for stage in (*self.encoder, *self.decoder):
            h = stage(h)
        # σ in [0, 1] is 2σ(h) − 1 = tanh(h / 2) in [-1, 1].
        return torch.tanh(0.5 * self.output_conv(h))


class Discriminator(nn.Module):
    """Images (B, channels, resolution, resolution) in [-1, 1] to logits (B,) and the features that are matched.

    Four 4×4 convolutions of stride 2, batch normalisation but for the first, leaky ReLU of slope 0.2, and one
    convolution over all that is left. The features are those of the last three of them.

    Args:
        channels: of the images.
        resolution: of the images, a multiple of 16.
        width: of the first layer.
    """

    def __init__(self, channels: int = 3, *, resolution: int = 64, width: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.resolution = resolution
        widths = [width << index for index in range(_HALVINGS)]
        self.input_conv = nn.Conv2d(channels, width, 4, stride=2, padding=1, bias=False)
        self.blocks = nn.ModuleList(_down(i, o) for i, o in pairwise(widths))
        self.output_conv = nn.Conv2d(widths[-1], 1, resolution >> _HALVINGS, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        check_images(images, self.channels, self.resolution)
        h = F.leaky_relu(self.input_conv(_unit(images)), 0.2)
        features = []
        for block in self.blocks:
            h = block(h)
            features.append(h)
        return self.output_conv(h).flatten(), features


class DiscoGANGame(TranslationGame):
    """The networks and losses of DiscoGAN; the arguments are those of `discogan`.

    Attributes:
        rate: r of the step.
    """

    name = "discogan"
    size_multiple = Generator.size_multiple
    least_size = 2 * Generator.size_multiple
    rate: Tensor

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        width: int,
        extra_layers: bool,
        starting_rate: float,
        default_rate: float,
        curriculum_steps: int,
        feature_matching: float,
        discriminator_interval: int,
        crop: int | None,
        generator_lr: float,
        discriminator_lr: float,
        betas: Sequence[float],
        weight_decay: float,
        ema_decay: float | None,
    ) -> None:
        check_positive(
            resolution=resolution, channels=channels, width=width, discriminator_interval=discriminator_interval
        )
        check_range(0, 1, starting_rate=starting_rate, default_rate=default_rate, feature_matching=feature_matching)
        check_range(0, float("inf"), curriculum_steps=curriculum_steps, weight_decay=weight_decay)
        check_range(0, float("inf"), generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        if discriminator_interval < 2:
            raise ValueError("discriminator_interval: the generators move at the other steps, so expected at least 2")
        super().__init__(
            resolution=resolution,
            channels=channels,
            generator_optimizer=Adam(generator_lr, betas, weight_decay=weight_decay),
            discriminator_optimizer=Adam(discriminator_lr, betas, weight_decay=weight_decay),
            crop=crop,
            ema_decay=ema_decay,
        )
        self.starting_rate, self.default_rate = starting_rate, default_rate
        self.curriculum_steps = curriculum_steps
        self.feature_matching = feature_matching
        self.discriminator_interval = discriminator_interval
        size = self.training_size
        bottleneck = size >> _HALVINGS if extra_layers else None
        if bottleneck is not None:
            self.least_size, self.one_size = size, True
        self.generator_ab = Generator(channels, width=width, bottleneck=bottleneck)
        self.generator_ba = Generator(channels, width=width, bottleneck=bottleneck)
        self.discriminator_a = Discriminator(channels, resolution=size, width=width)
        self.discriminator_b = Discriminator(channels, resolution=size, width=width)
        # Follows from the step alone, so it need not be stored; a tensor, so that graphs of the turn can read it.
        self.register_buffer("rate", torch.tensor(starting_rate), persistent=False)

    def turns(self) -> Sequence[Turn]:
        def is_judged(step: int) -> bool:
            return (step - 1) % self.discriminator_interval == 0

        return [
            Turn("discriminators", self.discriminator_loss, when=is_judged),
            Turn("generators", self.generator_loss, when=lambda step: not is_judged(step)),
        ]

    def before_step(self, progress: Progress) -> None:
        self.rate.fill_(self.starting_rate if progress.step <= self.curriculum_steps else self.default_rate)

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """½ BCE on real and ½ BCE on generated images, of both domains."""
        a, b = self.domains(batch, noise)
        with torch.no_grad():
            fake_a, fake_b = self.generator_ba(b), self.generator_ab(a)
        terms = {}
        for name, judge, real, fake in (
            ("a", self.discriminator_a, a, fake_a),
            ("b", self.discriminator_b, b, fake_b),
        ):
            # Not in one batch, whose statistics would be of both.
            (real_logits, _), (fake_logits, _) = judge(real), judge(fake)
            terms[name] = 0.5 * logistic_discriminator_loss(real_logits, fake_logits)
        return {"loss": terms["a"] + terms["b"], **{name: term.detach() for name, term in terms.items()}}

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """(1 − r) ((1 − f)·GAN + f·FM) + r·MSE, of both directions; f is `feature_matching`."""
        a, b = self.domains(batch, noise)
        fake_b, fake_a = self.generator_ab(a), self.generator_ba(b)
        terms: dict[str, Tensor] = {}
        loss: Tensor | float = 0.0
        for direction, judge, real, fake, source, back in (
            ("ab", self.discriminator_b, b, fake_b, a, self.generator_ba(fake_b)),
            ("ba", self.discriminator_a, a, fake_a, b, self.generator_ab(fake_a)),
        ):
            (_, real_features), (logits, features) = judge(real), judge(fake)
            gan = non_saturating_generator_loss(logits)
            matching = feature_matching_loss(real_features, features)
            # Of images in [0, 1].
            reconstruction = 0.25 * F.mse_loss(at_least_float32(back), at_least_float32(source))
            adversarial = (1.0 - self.feature_matching) * gan + self.feature_matching * matching
            loss = loss + (1.0 - self.rate) * adversarial + self.rate * reconstruction
            terms |= {
                f"gan_{direction}": gan,
                f"features_{direction}": matching,
                f"cycle_{direction[0]}": reconstruction,
            }
        return {"loss": cast(Tensor, loss), **{name: term.detach() for name, term in terms.items()}}


def feature_matching_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Σ over layers of the mean over features of (E real − E fake)², E over the batch.

    Salimans et al. 2016 (arXiv 1606.03498), section 3.1, with means in place of sums.

    Args:
        real, fake: features of the same layers, (B, C, H, W) each.
    """
    return torch.stack([_mean_difference(r, f).square().mean() for r, f in zip(real, fake, strict=True)]).sum()


def _mean_difference(real: Tensor, fake: Tensor) -> Tensor:
    return at_least_float32(real).mean(0) - at_least_float32(fake).mean(0)


def _unit(images: Tensor) -> Tensor:
    return images.add(1.0).mul(0.5)


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return _with_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False), outputs, "leaky_relu")


def _with_norm(conv: nn.Module, features: int, activation: str) -> nn.Sequential:
    return nn.Sequential(conv, BatchNormAct2d(features, activation=activation, negative_slope=0.2))


@register_model(
    summary="two encoder-decoders, feature matching, a reconstruction whose share rises; unpaired domains",
    paper="Learning to Discover Cross-Domain Relations with Generative Adversarial Networks",
    arxiv="1703.05192",
    data_kind="unpaired",
)
def discogan(
    *,
    resolution: int = 64,
    channels: int = 3,
    width: int = 64,
    extra_layers: bool = False,
    starting_rate: float = 0.01,
    default_rate: float = 0.5,
    curriculum_steps: int = 10_000,
    feature_matching: float = 0.9,
    discriminator_interval: int = 3,
    crop: int | None = None,
    generator_lr: float = 2e-4,
    discriminator_lr: float = 2e-4,
    betas: Sequence[float] = (0.5, 0.999),
    weight_decay: float = 1e-5,
    ema_decay: float | None = None,
) -> DiscoGANGame:
    """DiscoGAN at 64 px with batches of 64 as in the paper (section 3), and the weights of its authors' code.

    Translations of trained runs use the running statistics of the batch normalisations, so that they do not depend on
    what else is in the batch. (The authors' code never leaves training mode.)

    Args:
        resolution: side of the data's images, a multiple of 16, at least 32.
        channels: of both domains' images.
        width: of the first layers (64).
        extra_layers: a fifth convolution, to 100 numbers, and back ("four to five", section 3.1); then images of the
            training's size alone can be translated.
        starting_rate, default_rate, curriculum_steps: r, the share of the reconstruction, is the first for so many
            steps and then the second.
        feature_matching: share of the matched features in the adversarial part.
        discriminator_interval: the discriminators move at every so many-th step, from the first on; the generators at
            the others.
        crop: side of random crops that are trained on; None: whole images.
        generator_lr, discriminator_lr, betas, weight_decay: of Adam (2e-4, 0.5, 0.999, 1e-5; section 3.1).
        ema_decay: of a moving average of the translators, which the paper does not have; None: none.

    Raises:
        ValueError: values out of range, and sizes that the networks do not take.
    """
    return DiscoGANGame(
        resolution=resolution,
        channels=channels,
        width=width,
        extra_layers=extra_layers,
        starting_rate=starting_rate,
        default_rate=default_rate,
        curriculum_steps=curriculum_steps,
        feature_matching=feature_matching,
        discriminator_interval=discriminator_interval,
        crop=crop,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        weight_decay=weight_decay,
        ema_decay=ema_decay,
    )
