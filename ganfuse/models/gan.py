"""GAN: Generative Adversarial Nets (Goodfellow et al. 2014, arXiv 1406.2661), with fully connected networks.

The paper's networks are perceptrons, too, of rectifiers and maxout units with dropout, whose sizes it does not give.
Two later forms of them are here. ``architecture="gelu"``: 30 latents, 100 and 150 hidden units with GELU, a sigmoid
output, RMSprop; for Fashion-MNIST at 28 px the players have 136,634 and 132,951 parameters.
``architecture="batch-norm"``: 100 latents, four hidden layers of 128 to 1024 units, batch normalisation, tanh, Adam.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.game import OptimizerFactory, Player
from ganfuse.engine.optimizers import Adam, RMSprop
from ganfuse.engine.replay_pool import ReplayPool
from ganfuse.models.checks import check_choice, check_count, check_positive
from ganfuse.models.feature_discriminator import FeatureDiscriminator
from ganfuse.models.mlp_networks import MLPFeatures, MLPGenerator
from ganfuse.models.registry import register_model

__all__ = ["GANGame", "gan", "replay_pool"]

LOSSES = ("non-saturating", "minimax")
_BETAS = (0.5, 0.999)


@dataclass(frozen=True)
class _Architecture:
    """Widths are multiples of `width`."""

    width: int
    latent_dim: int
    lr: float
    generator: tuple[int, ...]
    discriminator: tuple[int, ...]
    activation: str
    batch_norm: bool
    output: str


ARCHITECTURES = {
    "gelu": _Architecture(50, 30, 1e-3, (2, 3), (3, 2), "gelu", False, "sigmoid"),
    "batch-norm": _Architecture(128, 100, 2e-4, (1, 2, 4, 8), (4, 2), "leaky_relu", True, "tanh"),
}


class GANGame(AdversarialGame):
    """`AdversarialGame` with an optimiser of one's choice for each player.

    Args:
        generator, discriminator, loss: as in `AdversarialGame`.
        optimizers: by player.
        **options: see `AdversarialGame`.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: str,
        *,
        optimizers: dict[str, OptimizerFactory],
        **options: Any,
    ) -> None:
        super().__init__(generator, discriminator, loss, **options)
        self.optimizers = optimizers

    def players(self) -> Sequence[Player]:
        return tuple(replace(player, optimizer=self.optimizers[player.name]) for player in super().players())


def replay_pool(capacity: int, channels: int, resolution: int, *, labelled: bool = False) -> ReplayPool | None:
    """The pool of the models' option `replay`; None for 0.

    Raises:
        ValueError: the capacity is not a whole number of at least 0.
    """
    check_count(replay=capacity)
    return ReplayPool(capacity, (channels, resolution, resolution), labelled=labelled) if capacity else None


@register_model(
    summary="the first: fully connected networks, minimax or non-saturating",
    paper="Generative Adversarial Nets",
    arxiv="1406.2661",
)
def gan(
    *,
    resolution: int = 28,
    channels: int = 1,
    architecture: str = "gelu",
    width: int | None = None,
    latent_dim: int | None = None,
    loss: str = "non-saturating",
    generator_lr: float | None = None,
    discriminator_lr: float | None = None,
    betas: Sequence[float] | None = None,
    discriminator_steps: int = 1,
    minibatch_kernels: int = 0,
    replay: int = 0,
    ema_decay: float | None = None,
) -> AdversarialGame:
    """GAN as in algorithm 1 of the paper, with k = `discriminator_steps` = 1 as in its experiments.

    Args:
        resolution: of the images, any.
        channels: of the images.
        architecture: "gelu" or "batch-norm", see this module.
        width: unit of the hidden layers' widths; None: 50 (layers of 100 and 150) or 128 (128, 256, 512, 1024).
        latent_dim: size of z ~ N(0, 1); None: 30 or 100.
        loss: "non-saturating", the form recommended for training in section 3, or "minimax", equation 1.
        generator_lr, discriminator_lr: None: 1e-3, of RMSprop, or 2e-4, of Adam.
        betas: of Adam, which "batch-norm" has; None: 0.5 and 0.999.
        discriminator_steps: discriminator updates per generator update.
        minibatch_kernels: features of minibatch discrimination (Salimans et al. 2016, whose code has 100); 0: none.
        replay: show the discriminator a history of so many generated images (experience replay); 0: the present ones.
        ema_decay: of a moving average of the generator, which the paper does not have; None: none.

    Raises:
        ValueError: names the argument.
    """
    check_choice("architecture", architecture, tuple(ARCHITECTURES))
    check_choice("loss", loss, LOSSES)
    chosen = ARCHITECTURES[architecture]
    width = chosen.width if width is None else width
    latent_dim = chosen.latent_dim if latent_dim is None else latent_dim
    check_positive(resolution=resolution, channels=channels, width=width, latent_dim=latent_dim)
    if betas is None:
        betas = _BETAS
    elif architecture == "gelu" and not (isinstance(betas, Sequence) and tuple(betas) == _BETAS):
        # Those of _BETAS were the default once, and stand in the configurations of runs.
        raise ValueError(f"betas: of Adam, and architecture='gelu' has RMSprop; got {betas!r}")
    check_count(minibatch_kernels=minibatch_kernels)
    generator = MLPGenerator(
        resolution=resolution,
        channels=channels,
        latent_dim=latent_dim,
        widths=[width * factor for factor in chosen.generator],
        activation=chosen.activation,
        batch_norm=chosen.batch_norm,
        output=chosen.output,
    )
    features = MLPFeatures(
        resolution=resolution,
        channels=channels,
        widths=[width * factor for factor in chosen.discriminator],
        activation=chosen.activation,
        unit_range=chosen.output == "sigmoid",
    )
    discriminator = FeatureDiscriminator(features, minibatch_kernels=minibatch_kernels)
    if architecture == "gelu":
        _glorot(generator)
        _glorot(discriminator)
    rates = {"generator": generator_lr, "discriminator": discriminator_lr}

    def optimizer(lr: float | None) -> OptimizerFactory:
        rate = chosen.lr if lr is None else lr
        # Keras' settings of RMSprop, which the recipe means.
        return RMSprop(rate, alpha=0.9, eps=1e-7) if architecture == "gelu" else Adam(rate, (betas[0], betas[1]))

    return GANGame(
        generator,
        discriminator,
        loss,
        optimizers={player: optimizer(lr) for player, lr in rates.items()},
        latent_dim=latent_dim,
        betas=betas,
        discriminator_steps=discriminator_steps,
        # Without comparisons within the batch both halves may be one.
        concatenate=minibatch_kernels == 0,
        replay=replay_pool(replay, channels, resolution),
        ema_decay=ema_decay,
    )


def _glorot(network: nn.Module) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
