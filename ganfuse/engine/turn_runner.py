"""Plays one turn of a game: everyone else frozen, the loss, its gradients, the optimiser's step, the post-step hook."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.checkpoint import CheckpointError
from ganfuse.engine.game import Batch, Game, Player, Turn
from ganfuse.engine.loss_record import LossRecord

__all__ = ["TurnRunner"]


class TurnRunner:
    """Holds the optimisers of a game's players and plays its turns.

    Args:
        game: on its device already.
        precision: "fp32" or "bf16" (losses are computed under autocast).
        record: told every turn's losses, before the backward pass.

    Raises:
        ValueError: the game's players and turns contradict each other.
    """

    def __init__(self, game: Game, device: torch.device, precision: str, record: LossRecord) -> None:
        self.turns = tuple(game.turns())
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._game = game
        self._device = device
        self._precision = precision
        self._record = record
        owned: dict[str, list[nn.Parameter]] = {}
        for player in game.players():
            owned[player.name] = _parameters(game, player, taken=owned)
            self.optimizers[player.name] = player.optimizer(owned[player.name])
        if not self.turns:
            raise ValueError("turns: the game has none")
        self._frozen = {turn.name: _parameters_of_others(game, turn, owned) for turn in self.turns}
        if len(self._frozen) != len(self.turns):
            raise ValueError(f"turns: names must differ, got {', '.join(turn.name for turn in self.turns)}")

    def play(self, turn: Turn, batch: Batch, rng: torch.Generator, step: int) -> None:
        """Moves the turn's players once.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite (on the CPU; elsewhere `LossRecord.flush` finds out).
            ValueError: the loss is missing, not a scalar, or does not require grad.
        """
        with self._others_frozen(turn):
            with self._autocast():
                values = turn.loss(batch, rng)
            loss = _checked_loss(turn, values)
            self._record.add(step, turn.name, values)
            loss.backward()  # type: ignore[no-untyped-call]
        for player in turn.players:
            optimizer = self.optimizers[player]
            optimizer.step()
            # At once, so that one player's gradients do not take memory during the other's turn.
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                self._game.after_step(player, step)

    def state_dict(self) -> dict[str, Any]:
        """The optimisers' states by player."""
        return {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the optimisers' states.

        Raises:
            CheckpointError: they are not those of this game's players.
        """
        if set(state) != set(self.optimizers):
            raise CheckpointError(f"optimisers: the file has {sorted(state)}, the game {sorted(self.optimizers)}")
        for name, optimizer in self.optimizers.items():
            try:
                optimizer.load_state_dict(state[name])
            except (ValueError, KeyError) as error:
                raise CheckpointError(f"optimisers: the state of player {name!r} does not fit ({error})") from error

    @contextlib.contextmanager
    def _others_frozen(self, turn: Turn) -> Iterator[None]:
        # Their weight gradients would be computed and thrown away: about half the work of the generator's turn.
        frozen = self._frozen[turn.name]
        for parameter in frozen:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(True)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._precision == "bf16":
            return torch.autocast(self._device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()


def _parameters(game: Game, player: Player, taken: Mapping[str, object]) -> list[nn.Parameter]:
    if player.name in taken:
        raise ValueError(f"players: two players are called {player.name!r}")
    try:
        parameters = player.parameters(game)
    except AttributeError as error:
        raise ValueError(f"players: {player.name!r} names a module that the game has not ({error})") from error
    if not parameters:
        raise ValueError(f"players: {player.name!r} has no trainable parameters in {', '.join(player.modules)}")
    return parameters


def _parameters_of_others(game: Game, turn: Turn, owned: Mapping[str, list[nn.Parameter]]) -> list[nn.Parameter]:
    unknown = [name for name in turn.players if name not in owned]
    if unknown:
        raise ValueError(f"turns: {turn.name!r} moves {unknown[0]!r}, but the players are {', '.join(owned)}")
    moving = {parameter for name in turn.players for parameter in owned[name]}
    return [parameter for parameter in game.parameters() if parameter.requires_grad and parameter not in moving]


def _checked_loss(turn: Turn, values: Mapping[str, Tensor]) -> Tensor:
    loss = values.get("loss")
    if loss is None:
        raise ValueError(f"loss: turn {turn.name!r} returned no entry 'loss', only {', '.join(values) or 'nothing'}")
    for key, value in values.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: turn {turn.name!r} must return scalar tensors, {key!r} is of {got}")
    if not loss.requires_grad:
        raise ValueError(
            f"loss: turn {turn.name!r} returned a loss that does not require grad: it does not depend on the "
            f"parameters of {', '.join(turn.players)}, or was computed without gradients"
        )
    return loss.reshape(())
