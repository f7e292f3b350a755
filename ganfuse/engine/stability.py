"""The stability tools of a run, chosen by options: singular values on record and held down, orthogonal regularisation.

Brock et al. 2018, "Large Scale GAN Training", arXiv:1809.11096, sections 3.1 and 4.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from ganfuse.engine.game import Game, Player
from ganfuse.engine.orthogonal import FORMS, OrthogonalGradient
from ganfuse.engine.singular_values import LogSingularValues, clamp_singular_values

if TYPE_CHECKING:
    from ganfuse.engine.trainer import Trainer

__all__ = ["StabilityOptions", "install_stability_tools"]


@dataclass(frozen=True)
class StabilityOptions:
    """Which tools a run uses; by default none.

    Attributes:
        singular_values_every: steps between records of the top three singular values of each weight; 0: never.
        convolution_singular_values: record those of convolutions as operators on their maps too.
        clamp_singular_values: σ_clamp, above which no first singular value stays; None: not so.
        clamp_singular_values_ratio: the same as a multiple of the second singular value. One of the two at most.
        clamp_players: names of the players whose weights are clamped; None: all. (BigGAN's study: the generator.)
        orthogonal_beta: factor of orthogonal regularisation; 0: none. (BigGAN: 1e-4, for the generator.)
        orthogonal_form: ``"off_diagonal"`` (BigGAN's) or ``"original"``.
        orthogonal_players: as `clamp_players`.

    Raises:
        ValueError: names the option, what came and what was expected.
    """

    singular_values_every: int = 0
    convolution_singular_values: bool = False
    clamp_singular_values: float | None = None
    clamp_singular_values_ratio: float | None = None
    clamp_players: Sequence[str] | None = None
    orthogonal_beta: float = 0.0
    orthogonal_form: str = FORMS[0]
    orthogonal_players: Sequence[str] | None = None

    def __post_init__(self) -> None:
        every = self.singular_values_every
        if isinstance(every, bool) or not isinstance(every, int) or every < 0:
            raise ValueError(f"singular_values_every: expected a whole number of at least 0, got {every!r}")
        if not isinstance(self.convolution_singular_values, bool):
            raise ValueError(
                f"convolution_singular_values: expected True or False, got {self.convolution_singular_values!r}"
            )
        if self.convolution_singular_values and not self.singular_values_every:
            raise ValueError("convolution_singular_values: needs singular_values_every, the steps between records")
        for name in ("clamp_singular_values", "clamp_singular_values_ratio"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and value > 0):
                raise ValueError(f"{name}: expected a positive number or None, got {value!r}")
        if self.clamp_singular_values is not None and self.clamp_singular_values_ratio is not None:
            raise ValueError(
                "clamp_singular_values_ratio: cannot be combined with clamp_singular_values; give one of the two"
            )
        if not (_is_number(self.orthogonal_beta) and self.orthogonal_beta >= 0):
            raise ValueError(f"orthogonal_beta: expected a number >= 0, got {self.orthogonal_beta!r}")
        if self.orthogonal_form not in FORMS:
            expected = ", ".join(map(repr, FORMS))
            raise ValueError(f"orthogonal_form: expected one of {expected}, got {self.orthogonal_form!r}")
        for name in ("clamp_players", "orthogonal_players"):
            object.__setattr__(self, name, _names(name, getattr(self, name)))


def install_stability_tools(
    game: Game, optimizers: Mapping[str, Optimizer], options: StabilityOptions
) -> tuple[Callable[["Trainer"], None], ...]:
    """Hang what `options` ask for on the players' optimisers.

    Orthogonal regularisation adds its gradient before each step of an optimiser, clamping follows each. Both act on
    weights as they are before any spectral normalisation.

    Args:
        optimizers: by the player's name, as in `TurnRunner.optimizers`.

    Returns:
        Hooks for the trainer, to be called after every step of the run.

    Raises:
        ValueError: options that name a player the game has not.
    """
    players = {player.name: player for player in game.players()}
    clamp = options.clamp_singular_values is not None or options.clamp_singular_values_ratio is not None
    for name in _chosen("orthogonal_players", options.orthogonal_players, players) if options.orthogonal_beta else ():
        for network in _networks(game, players[name]):
            hook = OrthogonalGradient(network, options.orthogonal_beta, form=options.orthogonal_form)
            optimizers[name].register_step_pre_hook(hook)
    for name in _chosen("clamp_players", options.clamp_players, players) if clamp else ():
        optimizers[name].register_step_post_hook(_Clamp(_networks(game, players[name]), options))
    if not options.singular_values_every:
        return ()
    modules = tuple(module for player in players.values() for module in player.modules)
    return (
        LogSingularValues(
            options.singular_values_every, modules=modules, as_convolutions=options.convolution_singular_values
        ),
    )


class _Clamp:
    """A hook that follows an optimiser's steps."""

    def __init__(self, networks: Sequence[nn.Module], options: StabilityOptions) -> None:
        self.networks = networks
        self.value, self.ratio = options.clamp_singular_values, options.clamp_singular_values_ratio

    def __call__(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for network in self.networks:
            clamp_singular_values(network, value=self.value, ratio=self.ratio)


def _networks(game: Game, player: Player) -> list[nn.Module]:
    return [game.get_submodule(name) for name in player.modules]


def _chosen(option: str, names: Sequence[str] | None, players: Mapping[str, Player]) -> list[str]:
    unknown = [name for name in names or () if name not in players]
    if unknown:
        raise ValueError(f"{option}: the game's players are {', '.join(players)}, got {unknown[0]!r}")
    return list(players) if names is None else list(names)


def _names(option: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{option}: expected the name of a player, a list of names or None, got {value!r}")
    return tuple(dict.fromkeys(names))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
