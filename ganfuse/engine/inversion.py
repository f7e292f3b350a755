"""Inversion: the latent whose image is a given one, by optimisation, from an encoder's guess if there is one.

Zhu et al. 2016 (arXiv 1609.03552, section 3.1) have all three ways: by optimisation, by an encoder, and the encoder's
guess optimised.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ganfuse.engine.latent_space import LatentSpace, frozen
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import at_least_float32

__all__ = ["Features", "Inversion", "OnStep", "fine_tune", "invert", "learning_rate_factor", "noise_factor"]

Features = Callable[[Tensor], Tensor | Sequence[Tensor]]
"""Images (B, C, H, W) in [-1, 1] to one or several tensors (B, ...), differentiable."""

OnStep = Callable[[int, float], None]
"""Called after each step with its number, from 1 on, and the mean loss."""


@dataclass(frozen=True)
class Inversion:
    """What was found for B images.

    Attributes:
        latents: (B, *shape of the space).
        labels: int64 (B,), the classes that they were found with; None for generators without.
        images: (B, C, H, W), what the generator makes of them.
        errors: (B,), the mean square of what is between these and the given images, whose range is [-1, 1].
        initial_errors: (B,), the least of these where the search began.
    """

    latents: Tensor
    labels: Tensor | None
    images: Tensor
    errors: Tensor
    initial_errors: Tensor


def invert(
    images: Tensor,
    space: LatentSpace,
    *,
    labels: Tensor | None = None,
    steps: int = 500,
    restarts: int = 4,
    lr: float = 0.1,
    noise_strength: float = 0.05,
    noise_share: float = 0.75,
    pixel_weight: float = 1.0,
    features: Features | None = None,
    feature_weight: float = 1.0,
    encoder: nn.Module | None = None,
    encoder_weight: float = 0.0,
    rng: torch.Generator | None = None,
    on_step: OnStep | None = None,
) -> Inversion:
    """For each image the best of several latents, each optimised from another start.

    Adam minimises ``pixel_weight · E (x − G(z))² + feature_weight · E (F(x) − F(G(z)))² + encoder_weight · E (E(G(z)) −
    z)²``, the last of which keeps z where the encoder knows its way (Zhu et al. 2020, "In-domain GAN inversion", arXiv
    2004.00049, eq. 5). The learning rate rises over the first twentieth of the steps and falls over the last quarter,
    and the generator sees z with noise that fades out (Karras et al. 2020, StyleGAN2, arXiv 1912.04958, appendix D).
    Where the prior has bounds, coordinates that leave them are drawn anew (stochastic clipping, Lipton & Tripathi 2017,
    arXiv 1702.04782). The generator is frozen and in evaluation mode meanwhile, and as before afterwards.

    Args:
        images: (B, C, H, W) in [-1, 1], on the generator's device.
        space: see `ganfuse.engine.latent_space.latent_space`.
        labels: int64 (B,); None: for a generator with classes each start has one of them, in turn from a random one on,
            and the best wins.
        steps: of the optimiser; 0: the best start.
        restarts: starts for each image, all in one batch. The encoder's guess is the first, without an encoder the
            centre of the space if it has one; the others are drawn.
        lr: highest learning rate.
        noise_strength: of the noise at the first step, as a share of the space's spread.
        noise_share: share of the steps over which it fades out.
        pixel_weight, feature_weight, encoder_weight: see above; not all 0.
        features: F, such as a classifier without its head. A module is frozen meanwhile, too.
        encoder: E, images to latents; see `ganfuse.engine.latent_encoder`.
        rng: of the starts, the noise and the clipping.
        on_step: for progress.

    Raises:
        ValueError: names the argument.
    """
    _check_images(images, space)
    _check_search(steps, restarts, lr, noise_strength, noise_share)
    weights = {"pixel_weight": pixel_weight, "feature_weight": feature_weight, "encoder_weight": encoder_weight}
    for name, value in weights.items():
        if not value >= 0.0:
            raise ValueError(f"{name}: expected a weight of at least 0, got {value!r}")
    if encoder_weight and encoder is None:
        raise ValueError(f"encoder_weight: {encoder_weight!r} needs an encoder")
    if not (pixel_weight or encoder_weight or (feature_weight and features is not None)):
        raise ValueError("pixel_weight: at least one of the losses needs a weight")
    noise = Noise(rng)
    starts_labels = _labels_of_starts(labels, images, space, restarts, noise)
    others = [module for module in (encoder, features) if isinstance(module, nn.Module)]
    with frozen(space.generator, *others):
        target = images.repeat_interleave(restarts, 0)
        with torch.no_grad():
            latents = _starts(images, space, starts_labels, encoder, restarts, noise)
            wanted = None if features is None or not feature_weight else _features(features, images, restarts)
            first, first_errors = latents.clone(), _errors(space.render(latents, starts_labels), target)
        latents.requires_grad_()
        optimizer = torch.optim.Adam([latents], lr=lr)
        for step in range(steps):
            # The middle of the step: the factor is 0 at both ends.
            share = (step + 0.5) / steps
            for group in optimizer.param_groups:
                group["lr"] = lr * learning_rate_factor(share)
            strength = noise_strength * space.spread * noise_factor(share, noise_share)
            explored = latents
            if strength:
                explored = latents + strength * noise.normal(*latents.shape, dtype=latents.dtype).to(latents.device)
            made = space.render(explored, starts_labels)
            losses = pixel_weight * _errors(made, target)
            if features is not None and wanted is not None:
                losses = losses + feature_weight * _distance(_as_list(features(made)), wanted)
            if encoder is not None and encoder_weight:
                losses = losses + encoder_weight * _errors(encoder(made), latents)
            # The sum: no candidate's gradient depends on how many there are.
            (gradient,) = torch.autograd.grad(losses.sum(), latents)
            latents.grad = gradient
            optimizer.step()
            _clip(latents, space.bound, noise)
            if on_step is not None:
                on_step(step + 1, float(losses.detach().mean()))
        with torch.no_grad():
            latents = latents.detach()
            errors = _errors(space.render(latents, starts_labels), target)
            # A start from which the search went astray stays what it was.
            astray = ~(errors <= first_errors)
            latents[astray] = first[astray]
            errors = torch.where(astray, first_errors, errors)
            best = errors.view(-1, restarts).argmin(1) + restarts * torch.arange(len(images), device=errors.device)
            chosen = None if starts_labels is None else starts_labels[best]
            return Inversion(
                latents[best],
                chosen,
                space.render(latents[best], chosen),
                errors[best],
                first_errors.view(-1, restarts).amin(1),
            )


def fine_tune(
    images: Tensor,
    space: LatentSpace,
    found: Inversion,
    *,
    steps: int = 100,
    lr: float = 3e-4,
    features: Features | None = None,
    feature_weight: float = 1.0,
    on_step: OnStep | None = None,
) -> Inversion:
    """Changes the generator until its images of the latents found are the given ones; for those far from all it makes.

    Roich et al. 2021, "Pivotal tuning" (arXiv 2106.05744). In evaluation mode: running statistics stay as they are.

    Args:
        images, features, feature_weight, on_step: as in `invert`.
        space: its generator is changed in place.
        found: by `invert`, for the same images.
        steps, lr: of Adam.

    Raises:
        ValueError: names the argument.
    """
    _check_images(images, space)
    if len(found.latents) != len(images):
        raise ValueError(f"found: expected latents of {len(images)} images, got {len(found.latents)}")
    for name, value in (("steps", steps), ("lr", lr)):
        if not value > 0:
            raise ValueError(f"{name}: expected a positive number, got {value!r}")
    parameters = [parameter for parameter in space.generator.parameters() if parameter.requires_grad]
    others = [features] if isinstance(features, nn.Module) else []
    modes = [(part, part.training) for part in space.generator.modules()]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    try:
        space.generator.eval()
        with frozen(*others):
            with torch.no_grad():
                wanted = None if features is None or not feature_weight else _features(features, images, 1)
            for step in range(steps):
                made = space.render(found.latents, found.labels)
                losses = _errors(made, images)
                if features is not None and wanted is not None:
                    losses = losses + feature_weight * _distance(_as_list(features(made)), wanted)
                for parameter, gradient in zip(
                    parameters, torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
                ):
                    parameter.grad = gradient
                optimizer.step()
                if on_step is not None:
                    on_step(step + 1, float(losses.detach().mean()))
            with torch.no_grad():
                made = space.render(found.latents, found.labels)
    finally:
        optimizer.zero_grad(set_to_none=True)
        for part, training in modes:
            part.training = training
    return Inversion(found.latents, found.labels, made, _errors(made, images), found.initial_errors)


def learning_rate_factor(share: float, *, rise: float = 0.05, fall: float = 0.25) -> float:
    """Of the learning rate when a share of the steps is done: up linearly, level, down along half a cosine."""
    falling = min(1.0, (1.0 - share) / fall)
    return min(1.0, share / rise) * (0.5 - 0.5 * math.cos(math.pi * falling))


def noise_factor(share: float, noise_share: float) -> float:
    """Of the noise when a share of the steps is done: max(0, 1 − share / noise_share)²."""
    return max(0.0, 1.0 - share / noise_share) ** 2 if noise_share > 0 else 0.0


def _check_images(images: Tensor, space: LatentSpace) -> None:
    if images.dim() != 4 or not len(images) or not images.is_floating_point():
        raise ValueError(f"images: expected float (B, C, H, W) in [-1, 1], got {images.dtype} {tuple(images.shape)}")


def _check_search(steps: int, restarts: int, lr: float, noise_strength: float, noise_share: float) -> None:
    if steps < 0:
        raise ValueError(f"steps: expected a number of at least 0, got {steps!r}")
    if restarts < 1:
        raise ValueError(f"restarts: expected a positive number, got {restarts!r}")
    if not lr > 0:
        raise ValueError(f"lr: expected a positive learning rate, got {lr!r}")
    if not noise_strength >= 0:
        raise ValueError(f"noise_strength: expected a number of at least 0, got {noise_strength!r}")
    if not 0 <= noise_share <= 1:
        raise ValueError(f"noise_share: expected a share from 0 to 1, got {noise_share!r}")


def _labels_of_starts(
    labels: Tensor | None, images: Tensor, space: LatentSpace, restarts: int, noise: Noise
) -> Tensor | None:
    """(B · restarts,), those of an image beside each other."""
    classes = space.num_classes
    if classes is None:
        if labels is not None:
            raise ValueError("labels: this generator has no classes; leave labels out")
        return None
    if labels is None:
        learnt = space.learnt_classes
        first = noise.integers(len(learnt), len(images)).to(learnt.device)
        turns = torch.arange(restarts, device=learnt.device)
        return learnt[((first[:, None] + turns) % len(learnt)).flatten()]
    if labels.shape != (len(images),) or labels.dtype != torch.int64:
        raise ValueError(f"labels: expected int64 ({len(images)},), got {labels.dtype} {tuple(labels.shape)}")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"labels: expected values from 0 to {classes - 1}, got {labels.tolist()}")
    return labels.to(images.device).repeat_interleave(restarts)


def _starts(
    images: Tensor, space: LatentSpace, labels: Tensor | None, encoder: nn.Module | None, restarts: int, noise: Noise
) -> Tensor:
    drawn = space.draw(len(images) * restarts, noise, labels).detach().clone()
    by_image = drawn.view(len(images), restarts, *drawn.shape[1:])
    if encoder is not None:
        guess: Tensor = encoder(images)
        if guess.shape != by_image[:, 0].shape:
            raise ValueError(f"encoder: expected latents {tuple(by_image[:, 0].shape)}, got {tuple(guess.shape)}")
        by_image[:, 0] = guess if space.bound is None else guess.clamp(-space.bound, space.bound)
    elif space.centre is not None:
        by_image[:, 0] = space.centre
    made = space.render(drawn[:1], None if labels is None else labels[:1])
    if made.shape[1:] != images.shape[1:]:
        raise ValueError(f"images: the generator makes {tuple(made.shape[1:])}, got {tuple(images.shape[1:])}")
    return drawn


@torch.no_grad()
def _clip(latents: Tensor, bound: float | None, noise: Noise) -> None:
    if bound is None:
        return
    drawn = noise.uniform(*latents.shape, dtype=latents.dtype).to(latents.device).mul_(2 * bound).sub_(bound)
    latents.copy_(torch.where(latents.abs() > bound, drawn, latents))


def _errors(made: Tensor, target: Tensor) -> Tensor:
    """(N,), the mean square of the difference of each sample."""
    return (at_least_float32(made) - at_least_float32(target)).square().flatten(1).mean(1)


def _as_list(found: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [found] if isinstance(found, Tensor) else list(found)


def _features(features: Features, images: Tensor, restarts: int) -> list[Tensor]:
    return [entry.repeat_interleave(restarts, 0) for entry in _as_list(features(images))]


def _distance(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    return torch.stack([_errors(ours, theirs) for ours, theirs in zip(made, wanted)]).sum(0)
