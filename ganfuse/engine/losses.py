"""Adversarial losses, as functions of the discriminator's logits. Both players minimise.

Notation: r = D(x) on real images, f = D(G(z)) on generated ones, σ the logistic function, E the mean over all elements.
Logits may have any shape, commonly (B,); the losses are scalars, in float32 at least.
"""

import difflib
from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ganfuse.engine.precision import at_least_float32

__all__ = [
    "LOSSES",
    "AdversarialLoss",
    "adversarial_loss",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "least_squares_discriminator_loss",
    "least_squares_generator_loss",
    "logistic_discriminator_loss",
    "minimax_generator_loss",
    "non_saturating_generator_loss",
    "relativistic_discriminator_loss",
    "relativistic_generator_loss",
    "wasserstein_discriminator_loss",
    "wasserstein_generator_loss",
]


class AdversarialLoss(NamedTuple):
    """The two losses of an adversarial game."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """(real_logits, fake_logits) to a scalar"""
    generator: Callable[..., Tensor]
    """fake_logits to a scalar; (fake_logits, real_logits) to a scalar if `relativistic`"""
    relativistic: bool = False
    """whether the generator's loss asks for the logits of real images, too"""


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E max(0, 1 − r) + E max(0, 1 + f). Lim & Ye 2017 (arXiv 1705.02894); Miyato et al. 2018 (1802.05957), eq. 16."""
    real_logits, fake_logits = at_least_float32(real_logits), at_least_float32(fake_logits)
    return F.relu(1.0 - real_logits).mean() + F.relu(1.0 + fake_logits).mean()


def hinge_generator_loss(fake_logits: Tensor) -> Tensor:
    """−E f. Lim & Ye 2017 (arXiv 1705.02894); Miyato et al. 2018 (1802.05957), eq. 17."""
    return -at_least_float32(fake_logits).mean()


def logistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor, *, real_target: float = 1.0) -> Tensor:
    """−E log σ(r) − E log(1 − σ(f)). Goodfellow et al. 2014 (arXiv 1406.2661), eq. 1, with D's output σ(logit).

    Args:
        real_logits, fake_logits: r and f.
        real_target: t in −t log σ(r) − (1 − t) log(1 − σ(r)). 0.9 is the one-sided label smoothing of Salimans et al.
            2016 (arXiv 1606.03498), section 3.4.
    """
    real_logits, fake_logits = at_least_float32(real_logits), at_least_float32(fake_logits)
    real = F.softplus(-real_logits).mean()
    if real_target != 1.0:
        real = real_target * real + (1.0 - real_target) * F.softplus(real_logits).mean()
    return real + F.softplus(fake_logits).mean()


def non_saturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """−E log σ(f). Goodfellow et al. 2014 (arXiv 1406.2661), section 3: the form recommended for training."""
    return F.softplus(-at_least_float32(fake_logits)).mean()


def minimax_generator_loss(fake_logits: Tensor) -> Tensor:
    """E log(1 − σ(f)). Goodfellow et al. 2014 (arXiv 1406.2661), eq. 1: saturates when D rejects confidently."""
    return -F.softplus(at_least_float32(fake_logits)).mean()


def least_squares_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """½ E (r − 1)² + ½ E f². Mao et al. 2017 (LSGAN, arXiv 1611.04076), eq. 9."""
    real_logits, fake_logits = at_least_float32(real_logits), at_least_float32(fake_logits)
    return 0.5 * (real_logits - 1.0).square().mean() + 0.5 * fake_logits.square().mean()


def least_squares_generator_loss(fake_logits: Tensor) -> Tensor:
    """½ E (f − 1)². Mao et al. 2017 (LSGAN, arXiv 1611.04076), eq. 9."""
    return 0.5 * (at_least_float32(fake_logits) - 1.0).square().mean()


def wasserstein_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E f − E r. Arjovsky et al. 2017 (WGAN, arXiv 1701.07875), eq. 2.

    Means something only if the critic is held to a Lipschitz constant: spectral normalisation, a penalty or clipping.
    """
    return at_least_float32(fake_logits).mean() - at_least_float32(real_logits).mean()


def wasserstein_generator_loss(fake_logits: Tensor) -> Tensor:
    """−E f. Arjovsky et al. 2017 (WGAN, arXiv 1701.07875), theorem 3."""
    return -at_least_float32(fake_logits).mean()


def relativistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """−E log σ(r − f), real images paired with generated ones. Jolicoeur-Martineau 2018 (arXiv 1807.00734), eq. 11.

    With R1 and R2 penalties it is R3GAN's loss (Huang et al. 2024, arXiv 2501.05441).

    Raises:
        ValueError: the logits do not pair.
    """
    return F.softplus(_difference(fake_logits, real_logits)).mean()


def relativistic_generator_loss(fake_logits: Tensor, real_logits: Tensor) -> Tensor:
    """−E log σ(f − r). Jolicoeur-Martineau 2018 (arXiv 1807.00734), eq. 12.

    Raises:
        ValueError: the logits do not pair.
    """
    return F.softplus(_difference(real_logits, fake_logits)).mean()


LOSSES: dict[str, AdversarialLoss] = {
    "hinge": AdversarialLoss(hinge_discriminator_loss, hinge_generator_loss),
    "non-saturating": AdversarialLoss(logistic_discriminator_loss, non_saturating_generator_loss),
    "minimax": AdversarialLoss(logistic_discriminator_loss, minimax_generator_loss),
    "least-squares": AdversarialLoss(least_squares_discriminator_loss, least_squares_generator_loss),
    "wasserstein": AdversarialLoss(wasserstein_discriminator_loss, wasserstein_generator_loss),
    "relativistic": AdversarialLoss(relativistic_discriminator_loss, relativistic_generator_loss, relativistic=True),
}


def adversarial_loss(name: str) -> AdversarialLoss:
    """The pair of losses with that name: a key of `LOSSES`.

    Raises:
        ValueError: there is none; the message lists the names.
    """
    if name not in LOSSES:
        near = difflib.get_close_matches(str(name), LOSSES, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"loss: expected one of {', '.join(map(repr, LOSSES))}, got {name!r}{hint}")
    return LOSSES[name]


def _difference(minuend: Tensor, subtrahend: Tensor) -> Tensor:
    if minuend.shape != subtrahend.shape:
        raise ValueError(
            "logits: real and generated images are compared in pairs, so there must be as many; "
            f"got {tuple(minuend.shape)} and {tuple(subtrahend.shape)}"
        )
    return at_least_float32(minuend) - at_least_float32(subtrahend)
