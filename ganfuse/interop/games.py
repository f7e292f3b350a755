"""Imported networks as a game of ganfuse's, which samples, trains on, and is written as a run."""

import os
import platform
from collections.abc import Mapping
from typing import Any

import torch

from ganfuse.engine.checkpoint import CheckpointError, load_tensors, save_checkpoint
from ganfuse.engine.game import Game
from ganfuse.engine.run_config import FORMAT
from ganfuse.engine.run_folder import RunFolder
from ganfuse.interop.importing import held_networks, read_network, source_info
from ganfuse.interop.network import Network, fill
from ganfuse.interop.reading import read_file
from ganfuse.models import create
from ganfuse.version import __version__

__all__ = ["common_config", "game_of", "load_game", "read_networks", "split_config", "write_run"]

Checkpoint = str | os.PathLike[str] | Mapping[str, Any]


def load_game(
    source: str,
    checkpoint: Checkpoint,
    part: str | None = None,
    *,
    place: str | None = None,
    also: Mapping[str, Checkpoint] | None = None,
    **config: Any,
) -> Game:
    """The registered model that a checkpoint's network is a part of, in eval mode.

    What is not imported has new weights: a game of a generator alone samples at once, and trains against a
    discriminator that begins.

    Args:
        source, checkpoint, part: as in `load`; but without `part` all networks are taken of a file that holds several.
        place: the game's part that the network becomes, where it could be several, such as ``"generator_ba"``.
        also: further parts of the game, and their checkpoints, of the same source.
        config: keywords of the source (see `load`), and of the model (see `ganfuse.models.create`).

    Raises:
        FileNotFoundError, ValueError: as `load`; and where the networks do not belong together, or are of no
            configuration of a registered model.
    """
    own, config = split_config(source, config)
    found = checkpoint if isinstance(checkpoint, Mapping) else read_file(checkpoint)
    held = [] if place is None or part is not None else held_networks(found, source_info(source))
    if held:
        raise ValueError(
            f"place: the file holds several networks, {', '.join(map(repr, held))}, which have their places; part= "
            "takes one of them"
        )
    networks = read_networks(source, found, part, place=place, also=also, **own)
    return game_of(source, networks, **config)


def split_config(source: str, config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The source's keywords, and the model's."""
    known = source_info(source).keywords
    own = {key: value for key, value in config.items() if key in known}
    return own, {key: value for key, value in config.items() if key not in known}


def read_networks(
    source: str,
    checkpoint: Checkpoint,
    part: str | None = None,
    *,
    place: str | None = None,
    also: Mapping[str, Checkpoint] | None = None,
    **own: Any,
) -> dict[str, Network]:
    """The networks that `load_game` would fill its model with, by the model's parts. `own`: the source's keywords."""
    info = source_info(source)
    found = checkpoint if isinstance(checkpoint, Mapping) else read_file(checkpoint)
    held = [] if part is not None else held_networks(found, info)
    if held:
        # Of two for one place the latter stays: a generator's average.
        chosen = {info.places[name]: name for name in held}
        networks = {where: read_network(source, found, name, **own) for where, name in chosen.items()}
    else:
        first = read_network(source, found, part, **own)
        networks = {first.part if place is None else place: first}
    for name, other in (also or {}).items():
        if name in networks:
            raise ValueError(f"also: {name} is what the first checkpoint becomes; place= may name another part")
        networks[name] = read_network(source, other, **own)
    return networks


def game_of(source: str, networks: Mapping[str, Network], **config: Any) -> Game:
    """The model that has these networks, filled; see `load_game`."""
    model, common = common_config(source, networks)
    game = create(model, **{**common, **config})
    for name, network in networks.items():
        filled = fill(network, source)
        modules = dict(game.named_modules())
        target = modules.get(name)
        if target is None or not isinstance(target, type(filled)):
            parts = ", ".join(repr(key) for key, child in modules.items() if isinstance(child, type(filled)))
            raise ValueError(f"place: expected one of {parts}, for a {type(filled).__name__} of {source}, got {name!r}")
        try:
            load_tensors(target, filled.state_dict(), what=f"checkpoint: {source} as {model}'s {name}")
        except CheckpointError as error:
            raise ValueError(str(error)) from error
    return game.eval()


def write_run(game: Game, out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Writes a game of a registered model as a run at step 0, which `ganfuse.engine.load_run` and the commands take.

    Raises:
        FileExistsError: there is a run in the folder already.
        CheckpointError: it could not be written.
    """
    run = RunFolder(out)
    if overwrite and run.path.exists():
        run.clear()
    run.require_vacant()
    run.create()
    run.write_config(
        {
            "format": FORMAT,
            "game": {"name": game.name, "config": game.config},
            "versions": {"ganfuse": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        }
    )
    weights = {f"game.{key}": value for key, value in game.state_dict().items()}
    save_checkpoint(run.checkpoints, 0, game=game.name, weights=weights, state={"step": 0})


def common_config(source: str, networks: Mapping[str, Network]) -> tuple[str, dict[str, Any]]:
    """The model of the networks, and the configuration that all agree on.

    Raises:
        ValueError: they do not, or are of none.
    """
    common: dict[str, Any] = {}
    model = next(iter(networks.values())).model
    for name, network in networks.items():
        if network.config is None:
            raise ValueError(
                f"checkpoint: the {name} of this {source} checkpoint is of no configuration of {network.model}; "
                "ganfuse.interop.load gives the network alone, and ganfuse sample --from draws from it"
            )
        if network.model != model:
            raise ValueError(f"also: {name} is of {network.model}, the first checkpoint of {model}")
        for key, value in network.config.items():
            if common.setdefault(key, value) != value:
                raise ValueError(f"also: {name} has {key}={value!r}, the other networks {common[key]!r}")
    return model, common
