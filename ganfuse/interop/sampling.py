"""Games to sample or translate with, made of imported networks, whether a registered model has them or not."""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from ganfuse.engine.game import Game
from ganfuse.interop.games import Checkpoint, game_of, read_networks, split_config
from ganfuse.interop.network import Network, fill
from ganfuse.models.biggan_game import BigGANGame

__all__ = ["sampling_game"]


def sampling_game(
    source: str,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any],
    part: str | None = None,
    *,
    place: str | None = None,
    also: Mapping[str, Checkpoint] | None = None,
    **config: Any,
) -> tuple[Game, tuple[str, ...]]:
    """A game that draws or translates with a checkpoint's generators, in eval mode, and which of its parts those are.

    As `ganfuse.interop.load_game` gives it; and for a generator that no registered model has, a game of it alone,
    which samples, also truncated and with standing statistics, but does not train.

    Args:
        source, checkpoint, part, also, config: as in `ganfuse.interop.load_game`.
        place: likewise; for a generator from noise it has no meaning.

    Raises:
        FileNotFoundError, ValueError: as `load_game`; and where there is no generator in the checkpoint.
    """
    own, of_model = split_config(source, config)
    networks = read_networks(source, checkpoint, part, place=place, also=also, **own)
    if place in networks and networks[place].part == "generator":
        # Of noise: it has no direction.
        networks["generator"] = networks.pop(place)
    generators = tuple(name for name, network in networks.items() if network.part.startswith("generator"))
    if not generators:
        found = ", ".join(network.part for network in networks.values())
        raise ValueError(f"checkpoint: it holds {found}, and no generator to draw with")
    first = networks[generators[0]]
    if first.config is None and not of_model:
        return _alone(source, first), generators
    if first.config is not None:
        # What is no generator is not needed, and might not fit.
        networks = {name: networks[name] for name in generators}
    return game_of(source, networks, **of_model), generators


def _alone(source: str, network: Network) -> Game:
    module = fill(network, source)
    game = BigGANGame(
        module, nn.Identity(), latent_dim=module.latent_dim, num_classes=getattr(module, "num_classes", None)
    )
    game.name = f"{network.model} of {source}"
    return game.eval()
