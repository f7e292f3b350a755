"""BiGAN: Adversarial Feature Learning (Donahue, Krähenbühl & Darrell 2017, arXiv 1605.09782).

A generator from latents to images and an encoder back play against a discriminator of pairs (image, latent). At the
optimum they are each other's inverse. Beside it the paper's baseline, the latent regressor: a plain GAN, and an encoder
that learns to recover the latents of generated images.

``architecture="mlp"`` is the permutation-invariant one for MNIST (appendix C): at 28 px with 50 latents, generator,
encoder and discriminator have 1,954,576, 1,903,666 and 1,904,641 parameters. ``architecture="convolutional"`` has 5×5
kernels and halves between the resolution and 4×4, as the generator for ImageNet at 64 px has; the paper's encoder
there, an AlexNet, is the generator's mirror here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.game import Batch, Player, Turn, evaluation_mode
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.precision import at_least_float32
from ganfuse.engine.schedules import Exponential
from ganfuse.models.bigan_networks import Discriminator, Encoder, Generator
from ganfuse.models.checks import (
    check_choice,
    check_images,
    check_length,
    check_positive,
    check_range,
    check_resolution,
)
from ganfuse.models.registry import register_model

ARCHITECTURES = ("mlp", "convolutional")
CONV_RESOLUTIONS = (32, 64, 128)
INFERENCES = ("adversarial", "latent-regressor")
#: Images of the data that are encoded and generated again in the grids of a run.
KNOWN_IMAGES = 8


class BiGANGame(AdversarialGame):
    """Generator and encoder against the discriminator of pairs; all move on one forward pass.

    Args:
        generator, encoder, discriminator: see `ganfuse.models.bigan_networks`.
        regression: weight of the latent regressor's loss beside the adversarial one.
        lr, betas, weight_decay: of Adam, for both players.
        constant_epochs, decay_epochs: how long the learning rate stays, and how long it takes to fall to a hundredth.
        **options: see `AdversarialGame`.

    Attributes:
        known_images: images of the data for `preview`, (KNOWN_IMAGES, C, H, W); `num_known` are there.
    """

    known_images: Tensor
    num_known: Tensor
    generator: Generator
    discriminator: Discriminator

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder,
        discriminator: Discriminator,
        *,
        regression: float,
        lr: float,
        betas: Sequence[float],
        weight_decay: float,
        constant_epochs: float,
        decay_epochs: float,
        **options: Any,
    ) -> None:
        super().__init__(generator, discriminator, "non-saturating", betas=betas, ema_decay=None, **options)
        self.encoder = encoder
        self.regression = regression
        self.adam = Adam(lr, (betas[0], betas[1]), weight_decay=weight_decay)
        self.schedule = Exponential(constant_epochs, decay_epochs, final=0.01)
        size = generator.resolution
        self.register_buffer("known_images", torch.zeros(KNOWN_IMAGES, generator.channels, size, size))
        self.register_buffer("num_known", torch.zeros((), dtype=torch.int64))

    @property
    def judges_images(self) -> bool:
        return not self.discriminator.joint

    def players(self) -> Sequence[Player]:
        return (
            Player("discriminator", ("discriminator",), self.adam, self.schedule),
            Player("generator_encoder", ("generator", "encoder"), self.adam, self.schedule),
        )

    def turns(self) -> Sequence[Turn]:
        return (Turn(("discriminator", "generator_encoder"), self.joint_loss),)

    def joint_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Both players' losses of the same logits r = D(x, E(x)) and f = D(G(z), z).

        The discriminator's is −½ E log σ(r) − ½ E log(1 − σ(f)) (equation 3, averaged); the others' the same with
        inverted labels (section 3.4: the non-saturating form). Each is a batch of its own to batch normalisation.
        """
        z = self.draw_latents(len(batch), noise)
        fakes = self.generator(z)
        if self.discriminator.joint:
            codes = self.encoder(batch.images)
            real = at_least_float32(self.discriminator(batch.images, codes))
            fake = at_least_float32(self.discriminator(fakes, z))
            deceived = 0.5 * (F.softplus(real).mean() + F.softplus(-fake).mean())
        else:
            real = at_least_float32(self.discriminator(batch.images))
            fake = at_least_float32(self.discriminator(fakes))
            deceived = F.softplus(-fake).mean()
        values = {
            "loss/discriminator": 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean()),
            "real_logits": real.detach().mean(),
            "fake_logits": fake.detach().mean(),
        }
        if self.regression:
            # The baseline's encoder looks on; in the joint objective the generator, too, makes its latents recoverable.
            seen = fakes if self.discriminator.joint else fakes.detach()
            recovered = latent_regression(self.encoder(seen), z)
            deceived = deceived + self.regression * recovered
            values["latent_regression"] = recovered.detach()
        return {**values, "loss/generator_encoder": deceived}

    def encode(self, images: Tensor) -> Tensor:
        """E(x), (B, latent_dim), in evaluation mode and without gradients."""
        with evaluation_mode(self.encoder):
            latents: Tensor = self.encoder(images)
        return latents

    def reconstruct(self, images: Tensor) -> Tensor:
        """G(E(x)), of the images' shape, in evaluation mode and without gradients."""
        latents = self.encode(images)
        with evaluation_mode(self.generator):
            return self.generator(latents)  # type: ignore[no-any-return]

    def check_data(self, data: Any) -> None:
        """Keeps some images of the data, evenly spread, to show how well they are reconstructed."""
        super().check_data(data)
        count = min(KNOWN_IMAGES, len(data))
        items = [data[index * len(data) // count] for index in range(count)]
        images = torch.stack([item["image"] if isinstance(item, Mapping) else item[0] for item in items])
        check_images(images, self.generator.channels, self.generator.resolution)
        self.known_images[:count] = (images / 127.5 - 1.0).to(self.known_images)
        self.num_known.fill_(count)

    def preview(self, n: int, *, rng: torch.Generator) -> tuple[Tensor, int | None]:
        """Rows of samples, then a row of images of the data and one of what is made of their codes."""
        known = int(self.num_known)
        if known == 0 or n < 3 * known:
            return super().preview(n, rng=rng)
        images = self.known_images[:known]
        samples = self.sample(n - n % known - 2 * known, rng=rng)
        return torch.cat([samples, images.to(samples), self.reconstruct(images).to(samples)]), known


def latent_regression(recovered: Tensor, latents: Tensor) -> Tensor:
    """½ E (E(G(z)) − z)², over all coordinates: the latent regressor's loss, scaled as in the authors' code."""
    return 0.5 * F.mse_loss(at_least_float32(recovered), at_least_float32(latents))


@register_model(
    summary="generator and encoder against a discriminator of pairs; latent regressor",
    paper="Adversarial Feature Learning",
    arxiv="1605.09782",
)
def bigan(
    *,
    resolution: int = 28,
    channels: int = 1,
    architecture: str = "mlp",
    width: int | None = None,
    latent_dim: int | None = None,
    inference: str = "adversarial",
    latent_regressor: float | None = None,
    lr: float = 2e-4,
    betas: Sequence[float] = (0.5, 0.999),
    weight_decay: float = 2.5e-5,
    constant_epochs: float = 200.0,
    decay_epochs: float = 200.0,
) -> BiGANGame:
    """BiGAN with the recipe of appendix C: Adam 2e-4, β₁ = 0.5, weight decay 2.5e-5; 200 epochs, 200 to a hundredth.

    Args:
        resolution: of the images: any for "mlp"; 32, 64 (the paper's) or 128 for "convolutional".
        channels: of the images.
        architecture: "mlp" or "convolutional", see this module.
        width: of the hidden layers, or channels at half the resolution; None: 1024 or 64.
        latent_dim: size of z ~ U(-1, 1); None: 50 or 200.
        inference: "adversarial", BiGAN; or "latent-regressor", the baseline.
        latent_regressor: weight of the regression of latents; None: 0 for BiGAN, 1 for the baseline. BiGAN's joint
            objective with it takes 0.25, as the authors' code (with 1 they saw it degenerate).
        lr, betas, weight_decay: of Adam, for both players.
        constant_epochs, decay_epochs: how long the learning rate stays, and how long it takes to fall to a hundredth.

    Raises:
        ValueError: names the argument.
    """
    check_choice("architecture", architecture, ARCHITECTURES)
    check_choice("inference", inference, INFERENCES)
    convolutional, joint = architecture == "convolutional", inference == "adversarial"
    if convolutional:
        check_resolution("a convolutional BiGAN", resolution, CONV_RESOLUTIONS)
    width = (64 if convolutional else 1024) if width is None else width
    latent_dim = (200 if convolutional else 50) if latent_dim is None else latent_dim
    regression = (0.0 if joint else 1.0) if latent_regressor is None else latent_regressor
    check_positive(resolution=resolution, channels=channels, width=width, latent_dim=latent_dim)
    check_range(0.0, float("inf"), latent_regressor=regression, weight_decay=weight_decay)
    check_range(0.0, float("inf"), constant_epochs=constant_epochs)
    check_length(decay_epochs=decay_epochs)
    if not joint and regression == 0:
        raise ValueError("latent_regressor: without its loss the latent regressor's encoder would learn nothing, got 0")
    doublings = (resolution // 8).bit_length()
    widths = [width << step for step in range(doublings)] if convolutional else [width, width]

    def build(network: Any, widths: Sequence[int], **more: Any) -> Any:
        return network(
            resolution=resolution,
            channels=channels,
            latent_dim=latent_dim,
            widths=widths,
            convolutional=convolutional,
            norm_eps=1e-8,
            **more,
        )

    return BiGANGame(
        build(Generator, widths[::-1]),
        build(Encoder, widths),
        build(Discriminator, widths, joint=joint),
        regression=regression,
        lr=lr,
        betas=betas,
        weight_decay=weight_decay,
        constant_epochs=constant_epochs,
        decay_epochs=decay_epochs,
        latent_dim=latent_dim,
        latent="uniform",
    )
