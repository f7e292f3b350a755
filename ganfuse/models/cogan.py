"""CoGAN: Coupled Generative Adversarial Networks (Liu & Tuzel 2016, arXiv 1606.07536).

Two GANs, one for each domain, that share the first layers of their generators and the last of their discriminators:
what decides the meaning of an image is common, what renders it is each domain's own. From unpaired images they learn
pairs. At 28 px, with 1 channel, the players have 7,842,694 and 427,593 parameters.

With the number of classes of domain A it is the paper's unsupervised domain adaptation (section 5): a classifier on the
shared features learns from A's labels and is used on B.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.game import Batch, evaluation_mode
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import at_least_float32
from ganfuse.models.checks import check_choice, check_classes, check_positive, check_range, check_resolution
from ganfuse.models.cogan_networks import DOMAINS, Discriminator, Generator
from ganfuse.models.registry import register_model

RESOLUTIONS = (28, 32, 64)
LATENTS = ("uniform", "normal")


class CoGANGame(AdversarialGame):
    """Coupled generators against coupled discriminators.

    Args:
        generator, discriminator: see `ganfuse.models.cogan_networks`.
        feature_weight: of the distance between both domains' features of generated pairs, in the discriminator's loss.
        classification_weight: of the classification of A, where there is a classifier.
        **options: see `AdversarialGame`.
    """

    data_kind = "unpaired"
    generator: Generator
    discriminator: Discriminator

    def __init__(
        self,
        generator: Generator,
        discriminator: Discriminator,
        *,
        feature_weight: float,
        classification_weight: float,
        **options: Any,
    ) -> None:
        super().__init__(generator, discriminator, "non-saturating", **options)
        self.feature_weight = feature_weight
        self.classification_weight = classification_weight

    @property
    def judges_images(self) -> bool:
        return False

    def check_data(self, data: Any) -> None:
        domains = getattr(data, "domains", None)
        if domains is None or len(domains) != 2:
            raise ValueError("data: CoGAN needs two domains of images, such as digits-thick")
        classifier, labels = self.discriminator.classifier, getattr(domains[0], "labels", None)
        if classifier is None:
            return
        if labels is None:
            raise ValueError("num_classes: a classifier needs labels of domain A, which has none")
        if getattr(domains[0], "num_classes", 2) < 2:
            raise ValueError(
                f"num_classes: the images of domain A are all of one class, the game was made for "
                f"{classifier.out_channels} classes"
            )
        if int(labels.max()) >= classifier.out_channels:
            raise ValueError(
                f"num_classes: domain A has labels up to {int(labels.max())}, the game was made for "
                f"{classifier.out_channels} classes"
            )

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Equation 4 of both domains, the mean over all images; with a classifier, section 5 as in the authors' code.

        That is: `classification_weight` times the cross-entropy of A's labels, and `feature_weight` times the squared
        distance between the features of a generated pair, so that the classifier holds for B.
        """
        images_b = self._images_b(batch)
        with torch.no_grad():
            fake_a, fake_b = self.generator(self.draw_latents(len(batch), noise))
        real = at_least_float32(self.discriminator.features({"a": batch.images, "b": images_b}))
        fake = at_least_float32(self.discriminator.features({"a": fake_a, "b": fake_b}))
        real_logits, fake_logits = self.discriminator.judge(real), self.discriminator.judge(fake)
        values = {
            "loss": self.loss.discriminator(real_logits, fake_logits),
            "real_logits": real_logits.detach().mean(),
            "fake_logits": fake_logits.detach().mean(),
        }
        if self.discriminator.classifier is None:
            return values
        first, second = fake.chunk(2)
        apart = (first - second).square().flatten(1).sum(1).mean()
        return self._with_classification(values, batch, real, apart)

    def _with_classification(
        self, values: dict[str, Tensor], batch: Batch, real: Tensor, apart: Tensor
    ) -> dict[str, Tensor]:
        if batch.labels is None:
            raise ValueError("num_classes: a classifier needs labels of domain A, and the batch has none")
        classes_a, classes_b = self.discriminator.classify(real).chunk(2)
        of_class = F.cross_entropy(classes_a, batch.labels)
        loss = values["loss"] + self.feature_weight * apart + self.classification_weight * of_class
        logged = {"features_apart": apart.detach(), "classification": of_class.detach()}
        if batch.labels_b is not None:
            # What the adaptation is judged by. Nothing learns from these labels.
            logged["accuracy_b"] = (classes_b.detach().argmax(1) == batch.labels_b).to(loss.dtype).mean()
        return {**values, **logged, "loss": loss}

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """−E log D over the generated images of both domains."""
        logits = self.discriminator(self.generator(self.draw_latents(len(batch), noise)))
        return {"loss": self.loss.generator(logits)}

    @property
    def classifies(self) -> bool:
        """Whether there is a classifier to adapt."""
        return self.discriminator.classifier is not None

    def classify(self, images: Tensor, *, domain: str = "b") -> Tensor:
        """Logits (B, num_classes) of a domain's images, in evaluation mode and without gradients.

        Raises:
            ValueError: there is no such domain, or no classifier.
        """
        check_choice("domain", domain, DOMAINS)
        with evaluation_mode(self.discriminator):
            return self.discriminator.classify(self.discriminator.features({domain: images}))

    def sample_pairs(
        self, n: int, *, rng: torch.Generator | None = None, batch_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """n pairs of images, (n, C, H, W) in [-1, 1] of A and of B, each pair of the same z.

        Raises:
            ValueError: n or batch_size is not positive.
        """
        if n < 1:
            raise ValueError(f"n: expected a positive number of images, got {n}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number or None, got {batch_size}")
        latents = self.draw_latents(n, Noise(rng))
        with evaluation_mode(self.generator):
            parts = [self.generator(part) for part in torch.split(latents, batch_size or n)]
        return torch.cat([a for a, _ in parts]), torch.cat([b for _, b in parts])

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | Sequence[int] | int | None = None,
        rng: torch.Generator | None = None,
        batch_size: int | None = None,
        domain: str = "a",
    ) -> Tensor:
        """See `Game.sample`: images of one domain. The same generator gives the partners in the other.

        Raises:
            ValueError: names the argument.
        """
        if labels is not None:
            raise ValueError("labels: this game has no classes to draw; leave labels out")
        check_choice("domain", domain, DOMAINS)
        return self.sample_pairs(n, rng=rng, batch_size=batch_size)[DOMAINS.index(domain)]

    def preview(self, n: int, *, rng: torch.Generator) -> tuple[Tensor, int | None]:
        """A row of A above the row of its partners in B, and so on."""
        pairs = max(1, n // 2)
        columns = min(8, pairs)
        first, second = self.sample_pairs(pairs - pairs % columns, rng=rng)
        rows = [row for both in zip(torch.split(first, columns), torch.split(second, columns)) for row in both]
        return torch.cat(rows), columns

    def _images_b(self, batch: Batch) -> Tensor:
        if batch.images_b is None:
            raise ValueError("data: CoGAN needs images of two domains, the batch has one")
        return batch.images_b


@register_model(
    summary="coupled GANs that share layers: joint samples of two domains, domain adaptation",
    paper="Coupled Generative Adversarial Networks",
    arxiv="1606.07536",
    resolutions=RESOLUTIONS,
    data_kind="unpaired",
)
def cogan(
    *,
    resolution: int = 28,
    channels: int = 1,
    width: int = 128,
    discriminator_width: int = 10,
    latent_dim: int = 100,
    latent: str = "uniform",
    num_classes: int | None = None,
    feature_weight: float = 0.01,
    classification_weight: float = 10.0,
    generator_lr: float = 2e-4,
    discriminator_lr: float = 2e-4,
    betas: Sequence[float] = (0.5, 0.999),
    weight_decay: float = 5e-4,
    ema_decay: float | None = None,
) -> CoGANGame:
    """CoGAN with the recipe of its authors' code: Adam 2e-4, β₁ = 0.5, weight decay 5e-4.

    Args:
        resolution: 28 (digits, as in the paper's sections 4 and 5), 32 or 64.
        channels: of the images.
        width: channels of the generator's last shared map.
        discriminator_width: of `Discriminator`, whose layers have 2, 5 and 50 times as many channels.
        latent_dim: size of z.
        latent: "uniform", U(-1, 1), the paper's, or "normal", N(0, 1), the code's.
        num_classes: of domain A, at least 2: adapt a classifier to domain B; None: no classifier.
        feature_weight, classification_weight: of the adaptation, see `CoGANGame.discriminator_loss`.
        generator_lr, discriminator_lr, betas, weight_decay: of Adam.
        ema_decay: of a moving average of the generator, which the paper does not have; None: none.

    Raises:
        ValueError: names the argument.
    """
    check_resolution("CoGAN", resolution, RESOLUTIONS)
    check_choice("latent", latent, LATENTS)
    check_positive(channels=channels, width=width, discriminator_width=discriminator_width, latent_dim=latent_dim)
    check_range(
        0.0, float("inf"), feature_weight=feature_weight, classification_weight=classification_weight,
        weight_decay=weight_decay,
    )  # fmt: skip
    if num_classes is not None and check_classes(num_classes) is None:
        raise ValueError(f"num_classes: expected a whole number of at least 2, or None, got {num_classes!r}")
    shape = {"resolution": resolution, "channels": channels}
    return CoGANGame(
        Generator(width=width, latent_dim=latent_dim, **shape),
        Discriminator(width=discriminator_width, num_classes=num_classes, **shape),
        feature_weight=feature_weight,
        classification_weight=classification_weight,
        latent_dim=latent_dim,
        latent=latent,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        weight_decay=weight_decay,
        ema_decay=ema_decay,
    )
