"""A run folder back to a game."""

import os

import torch

from ganfuse.engine import registry
from ganfuse.engine.checkpoint import load_tensors
from ganfuse.engine.game import Game
from ganfuse.engine.options import resolve_device
from ganfuse.engine.run_folder import RunFolder
from ganfuse.engine.run_state import split_weights

__all__ = ["load_run"]


def load_run(
    path: str | os.PathLike[str],
    game: Game | None = None,
    *,
    weights: str = "ema",
    checkpoint: str | int = "latest",
    device: str | torch.device = "cpu",
) -> Game:
    """The game of a run, with its weights, in evaluation mode.

    Args:
        path: the run's folder.
        game: a game to load the weights into. Needed where the run's networks were one's own; otherwise the game is
            built by the name and the configuration in config.yaml.
        weights: "ema", moving averages for the parts of which the run keeps one, or "raw", the trained weights.
        checkpoint: "latest", "best" (of a run that was scored while training), or the step of a checkpoint.
        device: where the game goes.

    Raises:
        FileNotFoundError: no such folder, or it holds no run.
        ValueError: an argument is out of range, config.yaml is damaged, or the game's name is unknown.
        CheckpointError: there is no such checkpoint, it is damaged, or it does not fit the game.
    """
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights: expected 'ema' or 'raw', got {weights!r}")
    target = resolve_device(device)
    run = RunFolder(path)
    described = run.read_config()["game"]
    found = run.checkpoint(checkpoint)
    if game is None:
        if described.get("config") is None:
            raise ValueError(
                f"game: the game of {run} was made from its owner's networks; make it again and pass it: "
                "load_run(path, game)"
            )
        game = registry.create(described["name"], **described["config"])
    elif game.name != described["name"]:
        raise ValueError(f"game: the run is of the game {described['name']!r}, got {game.name!r}")
    tensors, averaged = split_weights(found)
    if weights == "ema":
        tensors.update(averaged)
    load_tensors(game, tensors, what=str(found.path))
    return game.to(target).eval()
