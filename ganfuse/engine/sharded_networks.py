"""Networks whose parameters are spread over the processes of a run (ZeRO-3), by PyTorch's `fully_shard` (FSDP2)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ganfuse.engine.activation_checkpointing import blocks_of
from ganfuse.engine.ema import EMA
from ganfuse.engine.game import Game
from ganfuse.engine.lean_adam import LeanAdam
from ganfuse.engine.processes import Processes

__all__ = ["ShardedNetworks", "check_shardable", "whole_networks"]


def check_shardable(game: Game, names: Sequence[str]) -> None:
    """Raises ValueError unless the modules of those names can be sharded.

    A turn whose loss contains gradients must not move them: `fully_shard` gives the memory of whole parameters back
    after the backward pass, and the second one then finds nothing there; kept there (no resharding), it would not be
    told of the second one's gradients, and every gradient would stay None.
    """
    for name in names:
        try:
            module = game.get_submodule(name)
        except AttributeError as error:
            raise ValueError(f"shard_networks: the game has no module {name!r} ({error})") from error
        own = set(module.parameters())
        if not name or not own:
            raise ValueError(f"shard_networks: expected modules of the game with parameters, got {name!r}")
        others = {p for other in names if other != name for p in game.get_submodule(other).parameters()}
        if own & others:
            raise ValueError(f"shard_networks: {name!r} shares parameters with another one of {', '.join(names)}")
        inside = set(module.modules())
        outside = (part for part in game.modules() if part not in inside)
        if any(p in own for part in outside for p in part.parameters(recurse=False)):
            # Sharding puts other parameters in their place, and what is outside would keep the old ones.
            raise ValueError(f"shard_networks: {name!r} shares parameters with modules that are not part of it")
        players = {p.name: p for p in game.players() if own.intersection(p.parameters(game))}
        for turn in game.turns():
            if turn.second_order and not players.keys().isdisjoint(turn.players):
                raise ValueError(
                    f"shard_networks: {name!r} moves in turn {turn.name!r}, whose loss contains gradients (a gradient "
                    "penalty, a latent step), and sharded parameters cannot be differentiated twice; leave it whole "
                    "(shard_optimizer spreads its optimiser's state), or take the penalty out of the game"
                )
        for player in players.values():
            if isinstance(player.optimizer([nn.Parameter(torch.zeros(1))]), LeanAdam):
                raise ValueError(f"shard_networks: {name!r} is moved by LeanAdam, which needs whole parameters")


def whole_networks(game: Game, networks: Sequence[str], sharded: Sequence[str]) -> list[str]:
    """The names of those networks of which no part is sharded."""
    parts = {module for name in sharded for module in game.get_submodule(name).modules()}
    return [name for name in networks if parts.isdisjoint(game.get_submodule(name).modules())]


class ShardedNetworks:
    """The sharded modules of a game and of its averages.

    Each process keeps an equal part of every parameter, of its gradient, of its optimiser's state and of its average
    (Rajbhandari et al. 2020, arXiv 1910.02054, stage 3). Blocks (elements of an `nn.ModuleList`) and what is left of
    the network are gathered when they are about to compute, and let go afterwards. With one process nothing is done.

    Args:
        game: with the weights that all processes have alike; its networks change in place, and their parameters are
            other objects afterwards.
        names: of the game's modules, see `check_shardable`.
        averages: of the game's modules; sharded in the same way.
        processes: those that share.
        device: of the game.
    """

    def __init__(
        self, game: Game, names: Sequence[str], averages: Mapping[str, EMA], processes: Processes, device: torch.device
    ) -> None:
        self._roots: list[nn.Module] = []
        if processes.count == 1 or not names:
            return
        from torch.distributed.device_mesh import init_device_mesh

        mesh = init_device_mesh(device.type, (processes.count,))
        for name in names:
            self._shard(game.get_submodule(name), mesh)
            for module, average in averages.items():
                if name == module:
                    self._shard(average.module, mesh)
                elif name.startswith(f"{module}."):
                    self._shard(average.module.get_submodule(name.removeprefix(f"{module}.")), mesh)
                elif module.startswith(f"{name}."):
                    self._shard(average.module, mesh)

    def __bool__(self) -> bool:
        return bool(self._roots)

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Inside, every process has the whole parameters, and may use the networks alone, without gradients.

        All processes enter and leave together. Nothing that changes the parameters inside lasts.
        """
        self._hold(True)
        try:
            yield
        finally:
            self._hold(False)

    def _shard(self, network: nn.Module, mesh: Any) -> None:
        from torch.distributed.fsdp import fully_shard

        for parameter in network.parameters():
            # It takes no other memory format; convolutions of channels_last images are given theirs as they compute.
            parameter.data = parameter.data.contiguous()
        # Also after forward passes that no backward pass follows: a network is always sharded between turns.
        for module in (*blocks_of(network).values(), network):
            # Nothing to cut; they stay whole, and their gradients are averaged like those of whole networks.
            scalars = {parameter for parameter in module.parameters() if parameter.ndim == 0}
            options: dict[str, Any] = {"ignored_params": scalars} if scalars else {}
            fully_shard(module, mesh=mesh, reshard_after_forward=True, **options)
        self._roots.append(network)

    def _hold(self, whole: bool) -> None:
        if not self._roots:
            return
        from torch.distributed.fsdp import FSDPModule

        for root in self._roots:
            for module in root.modules():
                if isinstance(module, FSDPModule):
                    module.set_reshard_after_forward(not whole, recurse=False)
                    if whole:
                        module.unshard()
                    else:
                        module.reshard()
