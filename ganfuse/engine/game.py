"""The game: what the trainer plays. Players with parameters and optimisers, turns with losses, a way to draw samples.

The trainer knows nothing about GANs; a game knows nothing about devices, files or training loops. A system of three
networks and four losses is a subclass of `Game` that names its players, lists its turns and can draw samples.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.checks import is_number
from ganfuse.engine.noise import Noise
from ganfuse.engine.schedules import Progress, Schedule

__all__ = ["Batch", "EMATarget", "Game", "OptimizerFactory", "Player", "Stage", "Turn", "evaluation_mode"]

OptimizerFactory = Callable[[Any], torch.optim.Optimizer]
"""From parameters, or groups of them as `torch.optim` takes them, to an optimiser."""


@dataclass(frozen=True)
class Batch:
    """Real data for one turn, on the device that the game's modules are on. What the data set has not is None.

    Attributes:
        images: float (B, C, H, W) in [-1, 1]; in translation, images of domain A.
        labels: int64 (B,), the class of each image.
        images_b: float (B, C, H, W) in [-1, 1], images of domain B: of the same scenes if the data are paired.
        labels_b: int64 (B,), their classes.
        embeddings: float (B, K, E), what describes each image: the embeddings of its K captions.
    """

    images: Tensor
    labels: Tensor | None = None
    images_b: Tensor | None = None
    labels_b: Tensor | None = None
    embeddings: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]

    def split(self, parts: int) -> "list[Batch]":
        """Equal micro-batches, in order.

        Raises:
            ValueError: the batch cannot be divided into that many.
        """
        if len(self) % parts:
            raise ValueError(f"parts: {len(self)} images cannot be divided into {parts} equal parts")
        if parts == 1:
            return [self]
        present = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        chunks = {name: value.chunk(parts) for name, value in present.items() if value is not None}
        return [replace(self, **{name: chunk[part] for name, chunk in chunks.items()}) for part in range(parts)]


@dataclass(frozen=True)
class Player:
    """One side of the game: some of its modules, and the optimiser that moves their parameters.

    Attributes:
        name: how turns, logs and checkpoints call it.
        modules: names of submodules of the game, as in `nn.Module.get_submodule`.
        optimizer: makes the optimiser from groups of parameters.
        schedule: the factor of the learning rate as a function of the progress; None: always 1.
        lr_multipliers: further factors, by names of submodules of the game: "generator.mapping": 0.01.
    """

    name: str
    modules: tuple[str, ...]
    optimizer: OptimizerFactory
    schedule: Schedule | None = None
    lr_multipliers: Mapping[str, float] = field(default_factory=dict)

    def parameters(self, game: nn.Module) -> list[nn.Parameter]:
        """The player's trainable parameters, each once, in a fixed order."""
        return [parameter for group in self.parameter_groups(game) for parameter in group["params"]]

    def parameter_groups(self, game: nn.Module) -> list[dict[str, Any]]:
        """The same, as one group for each learning-rate multiplier, the first one for 1.

        Raises:
            AttributeError: a module that the game has not.
        """
        special: dict[nn.Parameter, float] = {}
        for name, factor in self.lr_multipliers.items():
            special.update((p, factor) for p in game.get_submodule(name).parameters())
        groups: dict[float, dict[nn.Parameter, None]] = {1.0: {}}
        for name in self.modules:
            for parameter in game.get_submodule(name).parameters():
                if parameter.requires_grad:
                    groups.setdefault(special.get(parameter, 1.0), {})[parameter] = None
        return [{"params": list(found), "lr_multiplier": factor} for factor, found in groups.items() if found]


@dataclass(frozen=True)
class Turn:
    """A move: a loss, and the player (or players) whose parameters it updates.

    All turns of a step see the same batch of real images; each repetition after the first takes a fresh one.

    Attributes:
        player: name of the player that moves, or names of the players that move together.
        loss: called with the batch and a source of randomness; returns a mapping whose entry "loss" is minimised (a
            scalar that requires grad), and whose other entries (scalars) are logged. Several players that minimise
            different losses of one forward pass have an entry "loss/PLAYER" each instead: every player moves along the
            gradient of its own loss alone, and all move after all gradients are there.
        every: the turn is played at steps that are multiples of this.
        repeats: how many times in a row.
        name: what logs and errors call it; by default the player's name.
        when: at which steps the turn is played, as a function of the step's number, in place of `every`.
        second_order: the loss contains gradients (a gradient penalty, a latent step), so it must be computed without
            `torch.compile`.
        capturable: the loss can become a CUDA graph: it reads no number back from the device, and decides nothing in
            Python that changes from step to step within a stage.
    """

    player: str | tuple[str, ...]
    loss: Callable[[Batch, Noise], Mapping[str, Tensor]]
    every: int = 1
    repeats: int = 1
    name: str = ""
    when: Callable[[int], bool] | None = None
    second_order: bool = False
    capturable: bool = True

    def __post_init__(self) -> None:
        for entry in ("every", "repeats"):
            value = getattr(self, entry)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{entry}: a turn needs a positive whole number, got {value!r}")
        if not self.players:
            raise ValueError("player: a turn needs at least one player")
        if not self.name:
            object.__setattr__(self, "name", "+".join(self.players))

    @property
    def players(self) -> tuple[str, ...]:
        """The names of the players that move."""
        return (self.player,) if isinstance(self.player, str) else self.player

    def is_played(self, step: int) -> bool:
        """Whether the turn is played at that step, the first of which is 1."""
        return self.when(step) if self.when is not None else step % self.every == 0


@dataclass(frozen=True)
class EMATarget:
    """A module of the game of which an exponential moving average is kept (see `ganfuse.engine.ema.EMA`).

    Attributes:
        module: name of the submodule.
        decay: per step.
        warmup: begin with a smaller decay.
        half_life: in real images, in place of `decay`.
        ramp_up: with `half_life`: it is at most this fraction of the images seen so far.
        start: before this step the average is a copy of the weights.
    """

    module: str
    decay: float = 0.999
    warmup: bool = True
    half_life: float | None = None
    ramp_up: float | None = None
    start: int = 0

    def __post_init__(self) -> None:
        if not (is_number(self.decay) and 0.0 <= self.decay < 1.0):
            raise ValueError(f"decay: expected 0 <= decay < 1, got {self.decay!r}")
        for name in ("half_life", "ramp_up"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number or None, got {value!r}")
        if self.ramp_up is not None and self.half_life is None:
            raise ValueError("ramp_up: has a meaning only together with half_life")


@dataclass(frozen=True)
class Stage:
    """A part of the training with settings of its own, such as a resolution of ProGAN.

    Attributes:
        name: shown in the progress, and in the metrics.
        batch_size: real images per batch in this stage; None: the trainer's.
        phase: when this changes between steps, all optimisers forget their moments.
    """

    name: str = ""
    batch_size: int | None = None
    phase: str | int = 0


class Game(nn.Module, ABC):
    """What the trainer plays: subclass it, or use `AdversarialGame` for a generator and a discriminator.

    Attributes:
        name: the name under which `ganfuse.engine.registry` can build it, or any other name.
        config: the keyword arguments that build it again under that name (plain numbers, strings, lists and dicts), or
            None if it cannot be built by name (because it was made from somebody's own networks).
        data_kind: what it is trained on: "images", "unpaired" or "paired" domains, or "embedded" captions; see
            `ganfuse.engine.data.open_dataset`.
        image_shape: (C, H, W) of the images that it is trained on; None: `sample` shows it.
    """

    name: str = "game"
    data_kind: str = "images"
    config: Mapping[str, Any] | None = None
    image_shape: tuple[int, int, int] | None = None

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

    def stage(self, progress: Progress) -> Stage | None:
        """The stage that the step belongs to: a pure function of the progress. None (the default): there is but one."""
        return None

    def stages(self) -> Sequence[tuple[float, Stage]]:
        """All stages in their order, each behind the thousands of real images at which it begins; empty: there is one.

        With them the trainer checks, before it begins, what would come up after days.
        """
        return ()

    def before_step(self, progress: Progress) -> None:
        """Called before each step. Does nothing by default.

        The place for what follows a schedule: the share of a new block that fades in, a probability that rises. It must
        follow from the progress alone, or be kept in a buffer, or a resumed run would differ from an uninterrupted one.
        """

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
