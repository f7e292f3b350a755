"""U-Net GAN: A U-Net Based Discriminator for Generative Adversarial Networks (Schönfeld et al. 2020, arXiv 2002.12655).

The discriminator judges the image and each of its pixels, and learns to be consistent: between a real and a generated
image that CutMix puts together, its map of logits is to be put together from the maps of the two (sections 3.1, 3.2).
For the networks see `ganfuse.models.unet_gan_networks`. The discriminator has 31.5 million parameters at 128 px and
44.1 million at 256.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.game import Batch, Turn
from ganfuse.engine.noise import Noise
from ganfuse.engine.regularizers import consistency, cutmix_mask
from ganfuse.engine.schedules import Progress
from ganfuse.models.biggan_game import BigGANGame
from ganfuse.models.checks import (
    check_attention,
    check_choice,
    check_classes,
    check_positive,
    check_range,
    check_resolution,
    check_unused,
)
from ganfuse.models.registry import register_model
from ganfuse.models.residual_networks import FIRST, doublings
from ganfuse.models.unet_gan_networks import RESOLUTIONS, Generator, UNetDiscriminator

CUTMIX = ("batches", "always", "none")
LOSSES = ("non-saturating", "hinge")
MIXED_AT_MOST = 0.5
"""Probability of a mixed batch after the warm-up (section 4.1)."""


class UNetGANGame(BigGANGame):
    """The game of a generator and a U-Net discriminator.

    The discriminator minimises the sum of its losses on images and on pixels (equations 3 to 6); means over pixels
    stand for the paper's sums. Mixed images M·x + (1 − M)·G(z) are generated for a whole image, and for pixels what M
    says; the consistency (equation 8) compares logits, and its gradient goes to both sides. All images of a turn, up to
    three times the batch, pass through the discriminator at once.

    Args:
        generator, discriminator: the discriminator gives logits of pixels and of images.
        loss: "non-saturating" (the paper's equations: cross entropy) or "hinge".
        cutmix: "batches": a batch is shown mixed, and mixed alone, with a probability that rises to ½ (section 4.1);
            "always": mixed images are shown beside the others in every batch, the losses of whole images and of
            consistency with a weight that rises to 1 (the authors' code for CelebA); "none".
        warmup_epochs: over which the probability or the weight rises; 0: it is there from the beginning.
        consistency_weight: of the consistency; 0: the mixed images are there for the other losses alone.
        **options: see `BigGANGame`, but for `augment` and `replay`. Gradient penalties are of logits of whole images.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: str = "non-saturating",
        *,
        cutmix: str = "batches",
        warmup_epochs: float = 100.0,
        consistency_weight: float = 1.0,
        **options: Any,
    ) -> None:
        check_choice("loss", loss, LOSSES)
        check_choice("cutmix", cutmix, CUTMIX)
        check_range(0.0, float("inf"), warmup_epochs=warmup_epochs, consistency_weight=consistency_weight)
        check_unused("U-Net GAN", options, "augment", "replay")
        super().__init__(generator, discriminator, loss, **options)
        self.hinge = loss == "hinge"
        self.cutmix = cutmix
        self.warmup_epochs = warmup_epochs
        self.consistency_weight = consistency_weight
        self.warmth = 1.0 if warmup_epochs == 0 else 0.0

    def turns(self) -> Sequence[Turn]:
        # A coin decides what the discriminator sees, or a number that changes from step to step is part of its loss.
        still = self.cutmix == "none" or (self.cutmix == "always" and self.warmup_epochs == 0)
        return [replace(t, capturable=t.capturable and (still or t.name != "discriminator")) for t in super().turns()]

    def before_step(self, progress: Progress) -> None:
        """How far the warm-up is, from 0 to 1."""
        self.warmth = 1.0 if self.warmup_epochs == 0 else min(1.0, progress.epochs / self.warmup_epochs)

    def judge(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits of pixels (B, 1, H, W) and of images (B,), in float32 at least."""
        pixels, logits = self.discriminator(images, labels)
        precise = torch.promote_types(logits.dtype, torch.float32)
        return pixels.to(precise), logits.to(precise)

    def discriminate(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Logits of whole images (B,)."""
        return self.judge(images, labels)[1]

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        mixes = self._mixes(noise)
        real_labels = None if self.num_classes is None else self._real_labels(batch)
        with torch.no_grad():
            # What is mixed must be of one class.
            fake_labels = real_labels if mixes else self.draw_labels(len(batch), noise)
            fakes = self.generate(self.draw_latents(len(batch), noise), fake_labels).to(batch.images.dtype)
        if not mixes:
            pixels, logits = self.judge(torch.cat([batch.images, fakes]), _joined(real_labels, fake_labels))
            plain = self._plain_loss(*pixels.chunk(2), *logits.chunk(2))
            return self.with_penalties(plain, batch, fakes, fake_labels, noise)
        mask = self._mask(batch, noise)
        mixed = torch.lerp(fakes, batch.images, mask)
        labels = _joined(real_labels, fake_labels, real_labels)
        pixels, logits = self.judge(torch.cat([batch.images, fakes, mixed]), labels)
        real_pixels, fake_pixels, mixed_pixels = pixels.chunk(3)
        real_logits, fake_logits, mixed_logits = logits.chunk(3)
        together = torch.lerp(fake_pixels, real_pixels, mask.to(pixels.dtype))
        inconsistency = consistency(mixed_pixels, together)
        weight = self.warmth if self.cutmix == "always" else 1.0
        loss = self._loss(mixed_pixels, mask) + weight * self._loss(mixed_logits, torch.zeros_like(mixed_logits))
        values = {"loss": loss + weight * self.consistency_weight * inconsistency}
        if self.cutmix == "always":
            plain = self._plain_loss(real_pixels, fake_pixels, real_logits, fake_logits)
            values = {**plain, "loss": values["loss"] + plain["loss"]}
        values = {**values, "consistency": inconsistency.detach()}
        return self.with_penalties(values, batch, fakes, fake_labels, noise)

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        labels = self.draw_labels(len(batch), noise)
        pixels, logits = self.judge(self.generate(self.draw_latents(len(batch), noise), labels), labels)
        return {"loss": self.loss.generator(logits) + self.loss.generator(pixels)}

    def _mixes(self, noise: Noise) -> bool:
        if self.cutmix != "batches":
            return self.cutmix == "always"
        # One coin for the whole batch, whoever has its parts.
        return bool(noise.shared().uniform(1).item() < MIXED_AT_MOST * self.warmth)

    def _mask(self, batch: Batch, noise: Noise) -> Tensor:
        """One per image, (B, 1, H, W): 1 where the real image is seen."""
        n, (height, width) = len(batch), batch.images.shape[2:]
        mask = cutmix_mask(noise.beta(1.0, 1.0, n), noise.uniform(n, 2), height, width)
        swapped = noise.uniform(n, 1, 1, 1) < 0.5
        return torch.where(swapped, 1.0 - mask, mask).to(batch.images)

    def _plain_loss(
        self, real_pixels: Tensor, fake_pixels: Tensor, real_logits: Tensor, fake_logits: Tensor
    ) -> dict[str, Tensor]:
        return {
            "loss": self.loss.discriminator(real_logits, fake_logits)
            + self.loss.discriminator(real_pixels, fake_pixels),
            "real_logits": real_logits.detach().mean(),
            "fake_logits": fake_logits.detach().mean(),
        }

    def _loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The discriminator's loss where `target` says what is real (1) and what is not (0)."""
        if self.hinge:
            return F.relu(1.0 + (1.0 - 2.0 * target) * logits).mean()
        return F.softplus((1.0 - 2.0 * target) * logits).mean()


def _joined(*labels: Tensor | None) -> Tensor | None:
    present = [entry for entry in labels if entry is not None]
    return torch.cat(present) if present else None


@register_model(
    summary="U-Net discriminator that judges every pixel, CutMix consistency",
    paper="A U-Net Based Discriminator for Generative Adversarial Networks",
    arxiv="2002.12655",
    resolutions=RESOLUTIONS,
)
def unet_gan(
    *,
    resolution: int = 256,
    num_classes: int | None = None,
    channels: int = 3,
    width: int = 64,
    latent_dim: int = 128,
    attention_resolution: int = 0,
    loss: str = "non-saturating",
    generator_lr: float = 1e-4,
    discriminator_lr: float = 5e-4,
    betas: Sequence[float] = (0.0, 0.999),
    adam_eps: float = 1e-6,
    discriminator_steps: int = 1,
    cutmix: str = "batches",
    warmup_epochs: float = 100.0,
    consistency_weight: float = 1.0,
    ema_decay: float | None = 0.9999,
    ema_start: int = 21_000,
) -> UNetGANGame:
    """U-Net GAN with the recipe for FFHQ at 256 px, which is unconditional, in batches of 20 (section 4.1).

    For COCO-Animals (10 classes, 128 px, batches of 80) the authors take ``generator_lr=5e-5, discriminator_lr=2e-4,
    warmup_epochs=200``; for CelebA (128 px, batches of 50) the same rates, and by the script in their repository
    (``train_celeba.sh``, which leaves out ``--slow_mixup``) ``cutmix="always", warmup_epochs=0``.

    Args:
        resolution: 32, 64, 128 or 256; the paper's are the last two.
        num_classes: None (or 0 or 1) makes both players unconditional, the generator self-modulated.
        channels: of the images, 1 or 3 usually.
        width: unit of width, 64 in the paper.
        latent_dim: size of z ~ N(0, 1).
        attention_resolution: which map of the discriminator's encoder the attention works on; 0: none, as in the paper.
        loss: "non-saturating" or "hinge".
        generator_lr, discriminator_lr, betas, discriminator_steps: see `AdversarialGame`.
        adam_eps, ema_decay, ema_start: see `BigGANGame`.
        cutmix, warmup_epochs, consistency_weight: see `UNetGANGame`.

    Raises:
        ValueError: for a resolution that is not there and values out of range.
    """
    check_resolution("U-Net GAN", resolution, RESOLUTIONS)
    check_positive(channels=channels, width=width, latent_dim=latent_dim)
    classes = check_classes(num_classes)
    check_attention(attention_resolution, doublings(2 * FIRST, resolution // 2), resolution)
    generator = Generator(
        resolution=resolution, num_classes=classes, channels=channels, width=width, latent_dim=latent_dim
    )
    discriminator = UNetDiscriminator(
        resolution=resolution,
        num_classes=classes,
        channels=channels,
        width=width,
        attention_resolution=attention_resolution,
    )
    return UNetGANGame(
        generator,
        discriminator,
        loss,
        latent_dim=latent_dim,
        num_classes=classes,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        adam_eps=adam_eps,
        discriminator_steps=discriminator_steps,
        cutmix=cutmix,
        warmup_epochs=warmup_epochs,
        consistency_weight=consistency_weight,
        ema_decay=ema_decay,
        ema_start=ema_start,
    )
