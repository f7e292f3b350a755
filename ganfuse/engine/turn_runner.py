"""Plays one turn of a game: all others frozen, the loss, its gradients, the optimisers' steps, the post-step hooks."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

from ganfuse.engine.checkpoint import CheckpointError
from ganfuse.engine.game import Batch, Game, Player, Turn
from ganfuse.engine.layers.spectral_norm import power_vectors
from ganfuse.engine.loss_record import LossRecord
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import Precision
from ganfuse.engine.processes import Processes
from ganfuse.engine.schedules import Progress, Schedule
from ganfuse.engine.sharded_optimizer import (
    complete_state,
    load_complete_state,
    sharded_optimizer,
    step_one_by_one_where_mixed,
)
from ganfuse.engine.sharded_tensors import is_sharded
from ganfuse.engine.turn_graphs import TurnGraph, Work

__all__ = ["TurnRunner"]

# Which micro-batch, and its source of randomness.
Parts = Sequence[tuple[Batch, Callable[[], Noise]]]


class TurnRunner:
    """Holds the optimisers of a game's players and plays its turns.

    Args:
        game: on its device already.
        precision: of the losses.
        record: told every turn's losses, before the backward pass, and the size of its gradients.
        processes: those that play together; by default this one alone.
        compiled: modules of the game are compiled; turns with second-order losses run them uncompiled.
        shard_optimizer: with several processes, each holds the optimiser's state of a part of the parameters.
        cuda_graphs: capture the forward and backward pass of turns that can be captured.
        skip_nonfinite: leave out a step whose loss or gradients are not finite, in place of an error.

    Raises:
        ValueError: the game's players and turns contradict each other.
    """

    def __init__(
        self,
        game: Game,
        precision: Precision,
        record: LossRecord,
        *,
        processes: Processes | None = None,
        compiled: bool = False,
        shard_optimizer: bool = False,
        cuda_graphs: bool = False,
        skip_nonfinite: bool = False,
    ) -> None:
        self.turns = tuple(game.turns())
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._game = game
        self._precision = precision
        self._record = record
        self._processes = processes or Processes()
        self._compiled = compiled
        self._skip_nonfinite = skip_nonfinite
        self._cuda_graphs = cuda_graphs
        self._turn_graphs: dict[tuple[str, torch.Size], TurnGraph] = {}
        self._shard_optimizer = shard_optimizer and self._processes.count > 1
        self._players: dict[str, Player] = {}
        self._owned: dict[str, list[nn.Parameter]] = {}
        self._frozen: dict[str, list[nn.Parameter]] = {}
        if not self.turns:
            raise ValueError("turns: the game has none")
        self.take_parameters()
        if len(self._frozen) != len(self.turns):
            raise ValueError(f"turns: names must differ, got {', '.join(turn.name for turn in self.turns)}")

    def take_parameters(self) -> None:
        """Makes the optimisers, for the parameters that the game has now: sharding has replaced them by others."""
        self._owned.clear()
        for player in self._game.players():
            self._owned[player.name] = _parameters(self._game, player, taken=self._owned)
            self._players[player.name] = player
            self.optimizers[player.name] = optimizer = _optimizer(self._game, player, sharded=self._shard_optimizer)
            step_one_by_one_where_mixed(optimizer)
        self._frozen = {turn.name: _parameters_of_others(self._game, turn, self._owned) for turn in self.turns}

    def play(self, turn: Turn, parts: Parts, step: int) -> None:
        """Moves the turn's players once, on the mean of the gradients of the micro-batches.

        Args:
            turn: one of `turns`.
            parts: each micro-batch, and what makes its source of randomness, called when its loss is computed.
            step: number of the step, for the record and the game's hook.

        Raises:
            NonFiniteError: a loss or a gradient is NaN or infinite (on the CPU; elsewhere `LossRecord.flush` finds
                out), unless such steps are left out.
            ValueError: the loss is missing, not a scalar, or does not require grad.
        """
        scaler = self._precision.scaler(turn.name)
        reported: list[Mapping[str, Tensor]] = []
        # Each micro-batch is seen with the spectral norms that the whole batch would have been seen with.
        vectors = power_vectors(self._game) if len(parts) > 1 else []
        before = [vector.clone() for vector in vectors]
        with self._others_frozen(turn):
            for batch, make_noise in parts:
                if reported and vectors:
                    torch._foreach_copy_(vectors, before)
                work = self._work(turn, batch.images.shape, len(parts), scaler)
                reported.append(work(batch, make_noise()))
        self._finish(turn, _mean(reported), scaler, step)

    def schedule(self, progress: Progress) -> None:
        """Sets the learning rates for the step that begins."""
        for name, player in self._players.items():
            factor = 1.0 if player.schedule is None else player.schedule(progress)
            for group in self.optimizers[name].param_groups:
                rate = group["initial_lr"] * factor
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    @property
    def schedules(self) -> list[Schedule | None]:
        """Those of the players' learning rates; None: constant."""
        return [player.schedule for player in self._players.values()]

    def learning_rates(self) -> dict[str, float]:
        """The present learning rate of each player (of its parameters without a multiplier, if there are any)."""
        return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in self.optimizers.items()}

    def forget_moments(self) -> None:
        """Makes every optimiser as it was before its first step, but for the learning rate."""
        for optimizer in self.optimizers.values():
            optimizer.state.clear()

    @property
    def networks(self) -> list[str]:
        """The names of the modules that the players move, each once."""
        return list(dict.fromkeys(name for player in self._players.values() for name in player.modules))

    def state_dict(self) -> dict[str, Any]:
        """The optimisers' states by player, and those of the loss scaling. Complete in the first process only."""
        states = {name: complete_state(optimizer, self._processes) for name, optimizer in self.optimizers.items()}
        return {"players": states, "scaling": self._precision.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the optimisers' states.

        Raises:
            CheckpointError: they are not those of this game's players.
        """
        players = state["players"]
        if set(players) != set(self.optimizers):
            raise CheckpointError(f"optimisers: the file has {sorted(players)}, the game {sorted(self.optimizers)}")
        for name, optimizer in self.optimizers.items():
            try:
                load_complete_state(optimizer, players[name])
            except (ValueError, KeyError) as error:
                raise CheckpointError(f"optimisers: the state of player {name!r} does not fit ({error})") from error
        self._precision.load_state_dict(state["scaling"])

    def forget_graphs(self) -> None:
        """Captures turns anew from here on: what is frozen in their graphs may have changed."""
        self._turn_graphs.clear()

    def _work(self, turn: Turn, shape: torch.Size, parts: int, scaler: Any) -> Work:
        """What computes the losses of a micro-batch and adds to the gradients."""

        def work(batch: Batch, noise: Noise) -> Mapping[str, Tensor]:
            with self._graphs_for_several_losses():
                with self._eager_if_second_order(turn), self._precision.autocast(), self._precision.penalties(scaler):
                    values = turn.loss(batch, noise)
                self._backward(_checked_losses(turn, values), parts, scaler)
            return values

        if not (self._cuda_graphs and turn.capturable):
            return work
        key = (turn.name, shape)
        if key not in self._turn_graphs:
            moving = [parameter for name in turn.players for parameter in self._owned[name]]
            self._turn_graphs[key] = TurnGraph(turn.name, work, moving)
        return self._turn_graphs[key]

    def _backward(self, losses: Mapping[str, Tensor], parts: int, scaler: Any) -> None:
        remaining = len(losses)
        for player, loss in losses.items():
            remaining -= 1
            scaled = loss if parts == 1 else loss / parts
            scaled = scaled if scaler is None else scaler.scale(scaled)
            # With losses of their own, players move along the gradient of theirs alone.
            inputs = self._owned[player] if player else None
            if inputs is not None and any(map(is_sharded, inputs)):
                raise ValueError(
                    f"shard_networks: {player!r} has a loss of its own in a turn of several players, whose gradients "
                    "sharded parameters cannot tell apart; leave its networks whole"
                )
            torch.autograd.backward(scaled, inputs=inputs, retain_graph=remaining > 0)

    def _finish(self, turn: Turn, values: Mapping[str, Tensor], scaler: Any, step: int) -> None:
        moving = [parameter for name in turn.players for parameter in self._owned[name]]
        self._processes.average_gradients(moving)
        values = self._processes.mean(values)
        if scaler is not None:
            for name in turn.players:
                scaler.unscale_(self.optimizers[name])
        finite = self._record.add(step, turn.name, values, moving, judge=scaler is None, skip=self._skip_nonfinite)
        for name in turn.players:
            optimizer = self.optimizers[name]
            if finite and scaler is not None:
                scaler.step(optimizer)
            elif finite:
                optimizer.step()
            # At once, so that one player's gradients do not take memory during the other's turn.
            optimizer.zero_grad(set_to_none=True)
            if finite:
                with torch.no_grad():
                    self._game.after_step(name, step)
        if scaler is not None:
            scaler.update()

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

    def _eager_if_second_order(self, turn: Turn) -> contextlib.AbstractContextManager[Any]:
        # Compiled modules refuse second derivatives.
        if self._compiled and turn.second_order:
            return torch.compiler.set_stance("force_eager")  # type: ignore[no-untyped-call, no-any-return]
        return contextlib.nullcontext()

    def _graphs_for_several_losses(self) -> contextlib.AbstractContextManager[Any]:
        # A compiled backward pass overwrites what the forward pass saved for it, unless it is compiled under this
        # setting; players with losses of their own go backward through one graph in turn. Turns share what is
        # compiled, so the setting is for all of them.
        if self._compiled and any(len(turn.players) > 1 for turn in self.turns):
            return torch._functorch.config.patch(donated_buffer=False)  # type: ignore[no-any-return]
        return contextlib.nullcontext()


def _optimizer(game: Game, player: Player, *, sharded: bool) -> torch.optim.Optimizer:
    groups = player.parameter_groups(game)
    factors = [group.pop("lr_multiplier") for group in groups]
    optimizer = sharded_optimizer(groups, player.optimizer) if sharded else player.optimizer(groups)
    for group, factor in zip(optimizer.param_groups, factors):
        group["initial_lr"] = group["lr"] = float(group["lr"]) * factor
    return optimizer


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


def _checked_losses(turn: Turn, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The loss of each player under its name, or the common one under an empty name."""
    own = {f"loss/{name}": name for name in turn.players}
    found = {"loss": ""} if "loss" in values else {key: name for key, name in own.items() if key in values}
    missing = [key for key in own if key not in found]
    if "loss" not in found and missing:
        got = ", ".join(values) or "nothing"
        wanted = "'loss'" if not found else repr(missing[0])
        raise ValueError(f"loss: turn {turn.name!r} returned no entry {wanted}, only {got}")
    for key, value in values.items():
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"loss: turn {turn.name!r} must return scalar tensors, {key!r} is of {got}")
    for key in found:
        if not values[key].requires_grad:
            raise ValueError(
                f"loss: turn {turn.name!r} returned a loss that does not require grad: it does not depend on the "
                f"parameters of {', '.join(turn.players)}, or was computed without gradients"
            )
    return {name: values[key].reshape(()) for key, name in found.items()}


def _mean(reported: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    if len(reported) == 1:
        return reported[0]
    return {key: torch.stack([values[key].detach().reshape(()) for values in reported]).mean() for key in reported[0]}
