"""UNIT: Unsupervised Image-to-Image Translation Networks (Liu, Breuel & Kautz 2017, arXiv 1703.00848).

A variational autoencoder for each domain, with a latent space in common: an image is translated by one's encoder and
the other's decoder. Discriminators of three scales with least squares. Networks, discriminators and the scale of the
weights are those of the authors' second code; the weights have the paper's proportions (GAN 10 : KL 0.1 : L1 100).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.game import Batch, Turn
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.precision import at_least_float32
from ganfuse.engine.schedules import StepDecay
from ganfuse.engine.translation import TranslationGame, l1
from ganfuse.models.checks import check_positive, check_range
from ganfuse.models.registry import register_model
from ganfuse.models.resnet_generator import ResidualBlock
from ganfuse.models.unit_networks import Decoder, Encoder, MultiScaleDiscriminator, Translator, least_judged
from ganfuse.models.vgg_features import VGGFeatures, perceptual_loss

__all__ = ["UNITGame", "unit"]

_LAMBDA_VGG = 1.0
# The authors'.
_SCALES = 3


class UNITGame(TranslationGame):
    """The networks and losses of UNIT; the arguments are those of `unit`.

    `generator_ab` is A's encoder and B's decoder, `generator_ba` B's encoder and A's decoder, so that A's autoencoder
    is ``generator_ba.decoder(generator_ab.encoder(a))``.
    """

    name = "unit"
    size_multiple = Translator.size_multiple
    least_size = Translator.least_size
    generator_ab: Translator
    generator_ba: Translator

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        width: int,
        blocks: int,
        share_blocks: int,
        discriminator_scales: int | None,
        lambda_gan: float,
        lambda_kl: float,
        lambda_reconstruction: float,
        lambda_cycle: float,
        lambda_cycle_kl: float,
        lambda_vgg: float,
        vgg_weights: str | None,
        crop: int | None,
        generator_lr: float,
        discriminator_lr: float,
        betas: Sequence[float],
        weight_decay: float,
        decay_every: int,
        ema_decay: float | None,
    ) -> None:
        check_positive(resolution=resolution, channels=channels, width=width, blocks=blocks, decay_every=decay_every)
        if discriminator_scales is not None:
            check_positive(discriminator_scales=discriminator_scales)
        if isinstance(share_blocks, bool) or not isinstance(share_blocks, int) or not 0 <= share_blocks <= blocks:
            raise ValueError(f"share_blocks: expected a whole number in [0, {blocks}], got {share_blocks!r}")
        weights = {
            "lambda_gan": lambda_gan,
            "lambda_kl": lambda_kl,
            "lambda_reconstruction": lambda_reconstruction,
            "lambda_cycle": lambda_cycle,
            "lambda_cycle_kl": lambda_cycle_kl,
            "lambda_vgg": lambda_vgg,
        }
        check_range(0, float("inf"), **weights, weight_decay=weight_decay)
        check_range(0, float("inf"), generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        if vgg_weights is not None and not isinstance(vgg_weights, str):
            raise ValueError(f"vgg_weights: expected the path of a file or None, got {vgg_weights!r}")
        super().__init__(
            resolution=resolution,
            channels=channels,
            generator_optimizer=Adam(generator_lr, betas, weight_decay=weight_decay),
            discriminator_optimizer=Adam(discriminator_lr, betas, weight_decay=weight_decay),
            schedule=StepDecay(decay_every),
            crop=crop,
            ema_decay=ema_decay,
        )
        size = self.training_size
        if discriminator_scales is None:
            discriminator_scales = _SCALES
            while discriminator_scales > 1 and size < least_judged(discriminator_scales):
                discriminator_scales -= 1
        if size < least_judged(discriminator_scales):
            raise ValueError(
                f"discriminator_scales: {discriminator_scales} of them need images of at least "
                f"{least_judged(discriminator_scales)} px, got {size}"
            )
        self.weights = weights
        self.vgg_weights = vgg_weights
        # Not a submodule: its weights belong to nobody's checkpoint. Read when it is first needed, since translating
        # does not need it.
        self._vgg: list[VGGFeatures] = []
        own = blocks - share_blocks
        encoded, decoded = (nn.ModuleList(ResidualBlock(4 * width) for _ in range(share_blocks)) for _ in "ed")
        options: dict[str, Any] = {"width": width, "blocks": own}
        self.generator_ab, self.generator_ba = (
            Translator(Encoder(channels, shared=encoded, **options), Decoder(channels, shared=decoded, **options))
            for _ in ("ab", "ba")
        )
        self.discriminator_a, self.discriminator_b = (
            MultiScaleDiscriminator(channels, resolution=size, width=width, scales=discriminator_scales) for _ in "ab"
        )

    def turns(self) -> Sequence[Turn]:
        return [Turn("discriminators", self.discriminator_loss), Turn("generators", self.generator_loss)]

    def check_data(self, data: Any) -> None:
        super().check_data(data)
        weight = self.weights["lambda_vgg"]
        if self.vgg_weights is not None and weight:
            self._vgg_features()
        elif weight not in (0, _LAMBDA_VGG):
            # Not where the game is made: a run must load that was trained when this was passed over.
            raise ValueError(
                "lambda_vgg: the perceptual loss needs a file with torchvision's weights of VGG-16, vgg_weights; "
                f"got {weight!r} without"
            )

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """E (D(real) − 1)² + E D(fake)², summed over scales and domains."""
        a, b = self.domains(batch, noise)
        with torch.no_grad():
            fake_b = self.generator_ab.decoder(_noisy(self.generator_ab.encoder(a), noise))
            fake_a = self.generator_ba.decoder(_noisy(self.generator_ba.encoder(b), noise))
        terms = {
            "a": _judgement(self.discriminator_a, a, fake_a),
            "b": _judgement(self.discriminator_b, b, fake_b),
        }
        loss = self.weights["lambda_gan"] * (terms["a"] + terms["b"])
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The autoencoders' losses, the adversarial ones, and those of the cycle; eq. 2 of the paper."""
        a, b = self.domains(batch, noise)
        encode_a, decode_b = self.generator_ab.encoder, self.generator_ab.decoder
        encode_b, decode_a = self.generator_ba.encoder, self.generator_ba.decoder
        mean_a, mean_b = encode_a(a), encode_b(b)
        code_a, code_b = _noisy(mean_a, noise), _noisy(mean_b, noise)
        # Each decoder makes its reconstruction and its translation in one batch.
        own_a, fake_a = decode_a(torch.cat([code_a, code_b])).chunk(2)
        own_b, fake_b = decode_b(torch.cat([code_b, code_a])).chunk(2)
        mean_ab, mean_ba = encode_b(fake_b), encode_a(fake_a)
        cycle_a, cycle_b = decode_a(_noisy(mean_ab, noise)), decode_b(_noisy(mean_ba, noise))
        terms = {
            "gan": _persuasion(self.discriminator_a, fake_a) + _persuasion(self.discriminator_b, fake_b),
            "kl": _kl(mean_a) + _kl(mean_b),
            "reconstruction": l1(own_a, a) + l1(own_b, b),
            "cycle": l1(cycle_a, a) + l1(cycle_b, b),
            "cycle_kl": _kl(mean_ab) + _kl(mean_ba),
        }
        if self.vgg_weights is not None and self.weights["lambda_vgg"]:
            features = self._vgg_features().to(a.device, a.dtype)
            terms["vgg"] = perceptual_loss(features, fake_b, a) + perceptual_loss(features, fake_a, b)
        loss = torch.stack([self.weights[f"lambda_{name}"] * term for name, term in terms.items()]).sum()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def _vgg_features(self) -> VGGFeatures:
        if not self._vgg:
            assert self.vgg_weights is not None
            self._vgg.append(VGGFeatures(Path(self.vgg_weights)))
        return self._vgg[0]


def _noisy(mean: Tensor, noise: Noise) -> Tensor:
    """z ~ N(mean, 1): the encoders' variance is 1 (section 3)."""
    return mean + noise.normal(*mean.shape).to(mean.device, mean.dtype)


def _kl(mean: Tensor) -> Tensor:
    """E mean²: the KL divergence of N(mean, 1) and N(0, 1) is half of that."""
    return at_least_float32(mean).square().mean()


def _judgement(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    outputs = discriminator(torch.cat([real, fake.to(real.dtype)]))
    scales = [at_least_float32(output).chunk(2) for output in outputs]
    return torch.stack([(r - 1.0).square().mean() + f.square().mean() for r, f in scales]).sum()


def _persuasion(discriminator: nn.Module, fake: Tensor) -> Tensor:
    outputs = [at_least_float32(output) for output in discriminator(fake)]
    return torch.stack([(output - 1.0).square().mean() for output in outputs]).sum()


@register_model(
    summary="two variational autoencoders with a latent space in common, multi-scale critics; unpaired domains",
    paper="Unsupervised Image-to-Image Translation Networks",
    arxiv="1703.00848",
    data_kind="unpaired",
)
def unit(
    *,
    resolution: int = 256,
    channels: int = 3,
    width: int = 64,
    blocks: int = 4,
    share_blocks: int = 1,
    discriminator_scales: int | None = None,
    lambda_gan: float = 1.0,
    lambda_kl: float = 0.01,
    lambda_reconstruction: float = 10.0,
    lambda_cycle: float = 10.0,
    lambda_cycle_kl: float = 0.01,
    lambda_vgg: float = _LAMBDA_VGG,
    vgg_weights: str | None = None,
    crop: int | None = None,
    generator_lr: float = 1e-4,
    discriminator_lr: float = 1e-4,
    betas: Sequence[float] = (0.5, 0.999),
    weight_decay: float = 1e-4,
    decay_every: int = 100_000,
    ema_decay: float | None = None,
) -> UNITGame:
    """UNIT with the recipe of its authors, who train a million steps on batches of one image.

    Args:
        resolution: side of the data's images, a multiple of 4, at least 16.
        channels: of both domains' images.
        width: channels at full resolution (64).
        blocks: residual blocks of an encoder, and of a decoder (4).
        share_blocks: how many of them, the last of the encoders and the first of the decoders, are the same for both
            domains: 1 as in the paper, 0 as in the authors' second code.
        discriminator_scales: None: 3 as in the authors' code, fewer where the images are too small for them; 3 need
            images of 64 px, 2 of 32 px, 1 of 16 px.
        lambda_gan, lambda_kl, lambda_reconstruction, lambda_cycle, lambda_cycle_kl: weights of the losses, in the
            paper's proportions.
        lambda_vgg, vgg_weights: weight of the perceptual loss between an image and its translation, which needs a file
            with torchvision's weights of VGG-16 and is left out without (the paper has none); training
            with another weight than the default and no file is refused.
        crop: side of random crops that are trained on; None: whole images.
        generator_lr, discriminator_lr, betas, weight_decay: of Adam (1e-4, 0.5, 0.999, 1e-4).
        decay_every: steps after which both rates are halved (100,000), again and again.
        ema_decay: of a moving average of the translators, which the paper does not have; None: none.

    Raises:
        ValueError: values out of range, and sizes that the networks do not take.
    """
    return UNITGame(
        resolution=resolution,
        channels=channels,
        width=width,
        blocks=blocks,
        share_blocks=share_blocks,
        discriminator_scales=discriminator_scales,
        lambda_gan=lambda_gan,
        lambda_kl=lambda_kl,
        lambda_reconstruction=lambda_reconstruction,
        lambda_cycle=lambda_cycle,
        lambda_cycle_kl=lambda_cycle_kl,
        lambda_vgg=lambda_vgg,
        vgg_weights=vgg_weights,
        crop=crop,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        weight_decay=weight_decay,
        decay_every=decay_every,
        ema_decay=ema_decay,
    )
