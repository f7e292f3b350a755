"""The game: what the trainer plays. Players with parameters and optimisers, turns with losses, a way to draw samples.

The trainer knows nothing about GANs; a game knows nothing about devices, files or training loops. A system of three
networks and four losses is a subclass of `Game` that names its players, lists its turns and can draw samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Batch", "EMATarget", "Game", "OptimizerFactory", "Player", "Turn", "evaluation_mode"]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Batch:
    """Real data for one turn, on the device that the game's modules are on.

    Attributes:
        images: float (B, C, H, W) in [-1, 1].
        labels: int64 (B,), or None where the data has no labels.
    """

    images: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass(frozen=True)
class Player:
    """One side of the game: some of its modules, and the optimiser that moves their parameters.

    Attributes:
        name: how turns, logs and checkpoints call it.
        modules: names of submodules of the game, as in `nn.Module.get_submodule`.
        optimizer: makes the optimiser from the parameters.
    """

    name: str
    modules: tuple[str, ...]
    optimizer: OptimizerFactory

    def parameters(self, game: nn.Module) -> list[nn.Parameter]:
        """The player's trainable parameters, each once, in a fixed order."""
        found: dict[nn.Parameter, None] = {}
        for name in self.modules:
            found.update((p, None) for p in game.get_submodule(name).parameters() if p.requires_grad)
        return list(found)


@dataclass(frozen=True)
class Turn:
    """A move: a loss, and the player (or players) whose parameters it updates.

    All turns of a step see the same batch of real images; each repetition after the first takes a fresh one.

    Attributes:
        player: name of the player that moves, or names of the players that move on the gradients of one loss.
        loss: called with the batch and a random generator on the batch's device; returns a mapping whose entry "loss"
            is minimised (a scalar that requires grad), and whose other entries (scalars) are logged.
        every: the turn is played at steps that are multiples of this.
        repeats: how many times in a row.
        name: what logs and errors call it; by default the player's name.
    """

    player: str | tuple[str, ...]
    loss: Callable[[Batch, torch.Generator], Mapping[str, Tensor]]
    every: int = 1
    repeats: int = 1
    name: str = ""

    def __post_init__(self) -> None:
        for field in ("every", "repeats"):
            value = getattr(self, field)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{field}: a turn needs a positive whole number, got {value!r}")
        if not self.players:
            raise ValueError("player: a turn needs at least one player")
        if not self.name:
            object.__setattr__(self, "name", "+".join(self.players))

    @property
    def players(self) -> tuple[str, ...]:
        """The names of the players that move."""
        return (self.player,) if isinstance(self.player, str) else self.player


@dataclass(frozen=True)
class EMATarget:
    """A module of the game of which an exponential moving average is kept (see `ganfuse.engine.ema`)."""

    module: str
    decay: float = 0.999
    warmup: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"decay: expected 0 <= decay < 1, got {self.decay!r}")


class Game(nn.Module, ABC):
    """What the trainer plays: subclass it, or use `AdversarialGame` for a generator and a discriminator.

    Attributes:
        name: the name under which `ganfuse.engine.registry` can build it, or any other name.
        config: the keyword arguments that build it again under that name (plain numbers, strings, lists and dicts), or
            None if it cannot be built by name (because it was made from somebody's own networks).
    """

    name: str = "game"
    config: Mapping[str, Any] | None = None

    @abstractmethod
    def players(self) -> Sequence[Player]:
        """The players. Called once, when training starts."""

    @abstractmethod
    def turns(self) -> Sequence[Turn]:
        """The turns of a step, in the order in which they are played. Called once, when training starts."""

    @abstractmethod
    def sample(
        self,
        n: int,
        *,
        labels: Tensor | Sequence[int] | int | None = None,
        rng: torch.Generator | None = None,
    ) -> Tensor:
        """Draws n images, float (n, C, H, W) in [-1, 1], with the modules in evaluation mode and without gradients.

        Args:
            labels: the class of each image, one class for all, or None for classes drawn at random.
            rng: where the randomness comes from; None means PyTorch's global generator.
        """

    def preview(self, n: int, *, rng: torch.Generator) -> tuple[Tensor, int | None]:
        """About n images for the grid that is written while training, and the number of columns (None: any).

        The generator is seeded alike every time, so that the grids of a run show the same samples.
        """
        return self.sample(n, rng=rng), None

    def ema_targets(self) -> Sequence[EMATarget]:
        """The modules of which an exponential moving average is kept. None by default."""
        return ()

    def after_step(self, player: str, step: int) -> None:
        """Called without gradients each time after a player's optimiser has moved. Does nothing by default.

        The place for clipping weights, clamping a parameter to its range, and the like.
        """

    def check_data(self, data: Any) -> None:
        """Raises ValueError if the game cannot be trained on this data set. Accepts all by default."""


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; afterwards every submodule is in the mode that it was in before."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training
