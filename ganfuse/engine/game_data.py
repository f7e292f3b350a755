"""The data that a game is trained on, opened as the game wants them."""

import os
from typing import TYPE_CHECKING, Any, cast

import torch

from ganfuse.engine.game import Game
from ganfuse.engine.seeding import make_generator

if TYPE_CHECKING:
    from ganfuse.engine.data.sources import AnyDataset, DataKind

__all__ = ["image_dtype", "open_for"]


def open_for(
    game: Game, source: str | os.PathLike[str], *, kind: str | None = None, split: str | None = None
) -> "AnyDataset":
    """The data of a source that `open_dataset` knows, at the size and with the channels of the game's own images.

    Args:
        game, source: see above.
        kind: as of `open_dataset`; None: what the game is trained on.
        split: of the source; None: its usual one.

    Raises:
        ValueError: the game's images are not square, or the source has no such split.
    """
    from ganfuse.engine.data import open_dataset

    # Its own images say what size it takes, whatever the game is.
    shape = game.image_shape or game.sample(1, rng=make_generator(torch.device("cpu"), 0, "size")).shape[1:]
    channels, height, width = shape
    if height != width:
        raise ValueError(f"data: {source} can be opened for square images; open it yourself for {height}×{width}")
    options: dict[str, Any] = {} if split is None else {"split": split}
    wanted = cast("DataKind", kind or game.data_kind)
    data: AnyDataset = open_dataset(os.fspath(source), resolution=height, channels=channels, kind=wanted, **options)
    return data


def image_dtype(game: Game) -> torch.dtype:
    """The type of the images that a game gets."""
    # Images follow a game in double precision, as tests and studies of numerical errors use it.
    doubles = any(parameter.dtype == torch.float64 for parameter in game.parameters())
    return torch.float64 if doubles else torch.float32
