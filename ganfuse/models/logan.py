"""LOGAN: Latent Optimisation for Generative Adversarial Networks (Wu et al. 2019, arXiv 1912.00953).

Before each player moves, the latents take a step that raises the discriminator's score f(z) = D(G(z)):

    gradient:           Δz = α g                         g = ∂f/∂z
    natural gradient:   Δz = α g / (β + ‖g‖²)            (F + β I)⁻¹ g with the empirical Fisher matrix F = g gᵀ

(section 4; the second is the first by Sherman & Morrison's formula). Both losses are computed at z′ = clip(z + Δz), get
w ‖Δz‖² on top, and their gradients go through Δz into the parameters, which takes second derivatives of both networks.

On BigGAN-deep the authors take α = 0.9, β = 5 and w = 300, and let half of the elements of z take the step (section
5.2). They add that their small SN-GAN (section 5.1) has the same α, but much less damping and a much smaller w: the
small base has PyTorch-StudioGAN's settings for CIFAR-10 (``configs/CIFAR10/LOGAN.yaml``), β = 0.1, w = 0.1 and 80 %.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.game import Batch, Turn, evaluation_mode
from ganfuse.engine.layers import hold_spectral_norms
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import penalty_scale
from ganfuse.engine.regularizers import input_gradient
from ganfuse.models import biggan_deep, sn_cnn
from ganfuse.models.biggan import RESOLUTIONS, layers_of
from ganfuse.models.biggan_game import STANDING_BATCH_SIZE, STANDING_BATCHES, BigGANGame
from ganfuse.models.checks import (
    check_attention,
    check_choice,
    check_classes,
    check_positive,
    check_range,
    check_resolution,
    check_unused,
)
from ganfuse.models.layer_factory import LayerFactory
from ganfuse.models.registry import register_model
from ganfuse.models.residual_networks import FIRST, doublings

BASES = ("biggan-deep", "sn-cnn")
UPDATES = ("natural-gradient", "gradient")
THROUGH = ("both", "d_only", "none")
# β, w and the share of the elements of z.
STEP_OF_BASE = {"biggan-deep": (5.0, 300.0, 0.5), "sn-cnn": (0.1, 0.1, 0.8)}


class LOGANGame(BigGANGame):
    """A generator and a discriminator that play with optimised latents.

    Where the generator has batch normalisation, an image's score depends on the latents of the whole batch; g is the
    gradient of the sum of the scores, so it contains what a latent does to the others. All forwards of a turn see the
    same spectral norms: each power method steps in the first of them.

    Args:
        generator, discriminator, loss: as in `AdversarialGame`.
        latent_update: "natural-gradient" or "gradient".
        latent_step_size: α.
        latent_damping: β of the natural gradient.
        latent_cost: w. The cost is the mean over the batch of the squared length of the steps.
        latent_fraction: share of the elements of z that take the step: each with this probability, drawn anew every
            time. g is the gradient by those, the others stay where they are.
        latent_steps: steps in a row, each from where the last one ended.
        through: in whose loss gradients go through the step: "both", "d_only" or "none".
        **options: see `BigGANGame`, but for `augment` and `replay`. `latent` is "uniform" unless it is given:
            z ~ U(-1, 1), and z′ is clipped to [-1, 1]; latents from a normal distribution are not clipped.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: str = "hinge",
        *,
        latent_update: str = "natural-gradient",
        latent_step_size: float = 0.9,
        latent_damping: float = 5.0,
        latent_cost: float = 300.0,
        latent_fraction: float = 0.5,
        latent_steps: int = 1,
        through: str = "both",
        **options: Any,
    ) -> None:
        check_unused("LOGAN", options, "augment", "replay")
        check_choice("latent_update", latent_update, UPDATES)
        check_choice("through", through, THROUGH)
        check_range(0.0, float("inf"), latent_step_size=latent_step_size, latent_cost=latent_cost)
        check_range(1e-12, float("inf"), latent_damping=latent_damping)
        check_range(0.0, 1.0, latent_fraction=latent_fraction)
        check_positive(latent_steps=latent_steps)
        super().__init__(generator, discriminator, loss, **{"latent": "uniform", **options})
        self.latent_update = latent_update
        self.latent_step_size = latent_step_size
        self.latent_damping = latent_damping
        self.latent_cost = latent_cost
        self.latent_fraction = latent_fraction
        self.latent_steps = latent_steps
        self.through = through
        self._optimises_samples = False

    def turns(self) -> Sequence[Turn]:
        return [replace(turn, second_order=True) for turn in super().turns()]

    def optimise(
        self, z: Tensor, labels: Tensor | None, chosen: Tensor | None = None, *, through: bool = True
    ) -> tuple[Tensor, Tensor]:
        """z′ (B, D), and the cost: the mean over the batch of ‖Δz‖², Δz the sum of the steps before they are clipped.

        Under float16's loss scaling g may overflow. Such latents stay where they are, since running statistics would
        not recover from others; the cost is then not a number, by which `_with_cost` makes the optimiser skip the step.

        Args:
            z: latents (B, D).
            labels: (B,), if the game has classes.
            chosen: bool (B, D), which elements take the step; None: all.
            through: let gradients go through the step into the parameters.
        """
        moved = z.detach().requires_grad_()
        total = torch.zeros_like(z)
        scaled = penalty_scale() != 1.0
        overflow = torch.zeros((), dtype=torch.bool, device=z.device)
        for _ in range(self.latent_steps):
            scores = super().discriminate(super().generate(moved, labels), labels)
            (gradient,) = input_gradient(scores, [moved])
            if not through:
                gradient = gradient.detach()
            if scaled:
                finite = gradient.isfinite().all(1, keepdim=True)
                gradient = torch.where(finite, gradient, 0.0)
                overflow = overflow | ~finite.all()
            if chosen is not None:
                gradient = torch.where(chosen, gradient, 0.0)
            step = self.latent_step_size * gradient
            if self.latent_update == "natural-gradient":
                step = step / (self.latent_damping + gradient.square().sum(1, keepdim=True))
            total = total + step.to(z.dtype)
            moved = moved + step.to(z.dtype)
            if self.latent == "uniform":
                moved = moved.clamp(-1.0, 1.0)
        cost = total.square().sum(1).mean()
        return moved, torch.where(overflow, torch.nan, cost) if scaled else cost

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        through = self.through != "none"
        labels = self.draw_labels(len(batch), noise)
        real_labels = None if labels is None else self._real_labels(batch)
        with hold_spectral_norms(self):
            z, cost = self._optimised_latents(len(batch), labels, noise, through=through)
            with nullcontext() if through else torch.no_grad():
                fakes = self.generate(z, labels).to(batch.images.dtype)
            both = None if labels is None or real_labels is None else torch.cat([real_labels, labels])
            real_logits, fake_logits = self.discriminate(torch.cat([batch.images, fakes]), both).chunk(2)
            values = {
                "loss": self._with_cost(self.loss.discriminator(real_logits, fake_logits), cost),
                "real_logits": real_logits.detach().float().mean(),
                "fake_logits": fake_logits.detach().float().mean(),
                "step_length": cost.detach().sqrt(),
            }
            return self.with_penalties(values, batch, fakes.detach(), labels, noise)

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        labels = self.draw_labels(len(batch), noise)
        with hold_spectral_norms(self):
            z, cost = self._optimised_latents(len(batch), labels, noise, through=self.through == "both")
            fake_logits = self.discriminate(self.generate(z, labels), labels)
            loss = self.generators_loss(fake_logits, batch, labels, noise)
        return {"loss": self._with_cost(loss, cost), "step_length": cost.detach().sqrt()}

    def _with_cost(self, loss: Tensor, cost: Tensor) -> Tensor:
        loss = loss + self.latent_cost * cost
        # A factor of 1, or one that makes all gradients NaN: see `optimise`.
        return loss if penalty_scale() == 1.0 else loss * (0.0 * cost.detach() + 1.0)

    def _optimised_latents(
        self, n: int, labels: Tensor | None, noise: Noise, *, through: bool
    ) -> tuple[Tensor, Tensor]:
        z = self.draw_latents(n, noise)
        chosen = (noise.uniform(n, z.shape[1]) < self.latent_fraction).to(z.device)
        z, cost = self.optimise(z, labels, chosen, through=through)
        return (z, cost) if through else (z.detach(), cost.detach())

    def generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        if self._optimises_samples:
            with torch.enable_grad():
                z = self.optimise(z, labels, through=False)[0].detach()
        return super().generate(z, labels)

    @contextmanager
    def standing_statistics(
        self, num_batches: int = STANDING_BATCHES, batch_size: int = STANDING_BATCH_SIZE
    ) -> Iterator[None]:
        """See `BigGANGame.standing_statistics`; the batches are of latents as they are drawn."""
        optimises, self._optimises_samples = self._optimises_samples, False
        with super().standing_statistics(num_batches, batch_size):
            self._optimises_samples = optimises
            yield

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | Sequence[int] | int | None = None,
        rng: torch.Generator | None = None,
        batch_size: int | None = None,
        truncation: float | None = None,
        standing_statistics: int = 0,
        optimised: bool = False,
    ) -> Tensor:
        """See `BigGANGame.sample`.

        Args:
            optimised: draw images of optimised latents, all of whose elements take the step; not what the paper scores.
        """
        self._optimises_samples = optimised
        try:
            # The discriminator, too, would otherwise move its spectral norms.
            with evaluation_mode(self):
                return super().sample(
                    n,
                    labels=labels,
                    rng=rng,
                    batch_size=batch_size,
                    truncation=truncation,
                    standing_statistics=standing_statistics,
                )
        finally:
            self._optimises_samples = False


@register_model(
    summary="BigGAN-deep or a small CNN whose latents take a natural-gradient step before each move",
    paper="LOGAN: Latent Optimisation for Generative Adversarial Networks",
    arxiv="1912.00953",
    resolutions=RESOLUTIONS,
)
def logan(
    *,
    base: str = "biggan-deep",
    resolution: int = 128,
    num_classes: int | None = 1000,
    channels: int = 3,
    width: int | None = None,
    latent_dim: int = 256,
    shared_features: int = 128,
    attention_resolution: int | None = None,
    latent_update: str = "natural-gradient",
    latent_step_size: float = 0.9,
    latent_damping: float | None = None,
    latent_cost: float | None = None,
    latent_fraction: float | None = None,
    latent_steps: int = 1,
    through: str = "both",
    loss: str = "hinge",
    generator_lr: float = 5e-5,
    discriminator_lr: float = 2e-4,
    betas: Sequence[float] = (0.0, 0.999),
    adam_eps: float = 1e-6,
    discriminator_steps: int = 2,
    orthogonal: float = 1e-4,
    ema_decay: float | None = 0.9999,
    ema_start: int = 20_000,
) -> LOGANGame:
    """LOGAN with the paper's changes to BigGAN-deep (section 5.2): 256 latents from U(-1, 1), and leaky ReLUs.

    Args:
        base: "biggan-deep", or "sn-cnn" for the small networks of `ganfuse.models.sn_cnn` at 32 and 64 px.
        resolution, num_classes, channels, shared_features, attention_resolution: see `biggan_deep`; the small networks
            have no attention and no shared embedding.
        width: unit of width; None: 128, of the small networks 64.
        latent_dim: size of z ~ U(-1, 1).
        latent_update, latent_step_size, latent_steps, through: see `LOGANGame`.
        latent_damping, latent_cost, latent_fraction: likewise; None: the paper's β = 5, w = 300 and half of z's
            elements; on the small networks 0.1, 0.1 and 80 %, see `ganfuse.models.logan`.
        loss, generator_lr, discriminator_lr, betas, discriminator_steps: see `AdversarialGame`.
        adam_eps, orthogonal, ema_decay, ema_start: see `BigGANGame`.

    Raises:
        ValueError: for a resolution that is not there and values out of range.
    """
    check_choice("base", base, BASES)
    small = base == "sn-cnn"
    check_resolution(f"LOGAN on {base}", resolution, sn_cnn.RESOLUTIONS if small else RESOLUTIONS)
    width = (64 if small else 128) if width is None else width
    check_positive(channels=channels, width=width, latent_dim=latent_dim, shared_features=shared_features)
    classes = check_classes(num_classes)
    damping, cost, fraction = STEP_OF_BASE[base]
    common: dict[str, Any] = {
        "resolution": resolution,
        "num_classes": classes,
        "channels": channels,
        "width": width,
    }
    generator: nn.Module
    discriminator: nn.Module
    if small:
        if attention_resolution not in (None, 0):
            raise ValueError(
                f"attention_resolution: the small networks have no attention, got {attention_resolution!r}"
            )
        layers = layers_of("leaky_relu")
        unnormalised: LayerFactory = replace(layers, spectral=False)
        generator = sn_cnn.Generator(latent_dim=latent_dim, layers=unnormalised, **common)
        discriminator = sn_cnn.Discriminator(layers=layers, **common)
    else:
        if attention_resolution is None:
            attention_resolution = biggan_deep.ATTENTION[resolution]
        check_attention(attention_resolution, doublings(2 * FIRST, resolution // 2), resolution)
        common |= {"attention_resolution": attention_resolution, "layers": layers_of("leaky_relu")}
        generator = biggan_deep.Generator(latent_dim=latent_dim, shared_features=shared_features, **common)
        discriminator = biggan_deep.Discriminator(**common)
    return LOGANGame(
        generator,
        discriminator,
        loss,
        latent_dim=latent_dim,
        num_classes=classes,
        latent_update=latent_update,
        latent_step_size=latent_step_size,
        latent_damping=damping if latent_damping is None else latent_damping,
        latent_cost=cost if latent_cost is None else latent_cost,
        latent_fraction=fraction if latent_fraction is None else latent_fraction,
        latent_steps=latent_steps,
        through=through,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        adam_eps=adam_eps,
        discriminator_steps=discriminator_steps,
        orthogonal=orthogonal,
        ema_decay=ema_decay,
        ema_start=ema_start,
    )
