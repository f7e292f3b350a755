"""Images of a run's data set, or of another, for commands that show what a run makes of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganfuse.commands._errors import CommandError

if TYPE_CHECKING:
    from torch import Tensor

    from ganfuse.engine import Game
    from ganfuse.engine.data.sources import AnyDataset

# Reconstructions, unless told how many.
_FEW = 16


def open_data(run: Path, game: "Game", *, source: str | None, split: str | None) -> "AnyDataset":
    """The data set that a run was trained on, or another source, framed as that was.

    Raises:
        CommandError: the run does not say which data it was trained on.
    """
    from ganfuse.engine.data import open_dataset
    from ganfuse.engine.game_data import open_for
    from ganfuse.engine.run_folder import RunFolder

    described = RunFolder(run).read_config().get("data") or {}
    if any(key not in described for key in ("name", "resolution", "channels")):
        if source is not None:
            return open_for(game, source, split=split)
        raise CommandError(
            f"{run} does not say which data it was trained on, so there are none to take images from",
            "--data names some",
        )
    # What is at its default is not recorded.
    options: dict[str, Any] = {key: described[key] for key in ("resize", "on_bad_image") if key in described}
    if split is None and source is None:
        split = described.get("split")
    if split is not None:
        options["split"] = split
    kind: Any = game.data_kind
    size = {"resolution": described["resolution"], "channels": described["channels"]}
    data: AnyDataset = open_dataset(source or described["name"], kind=kind, **size, **options)
    return data


def choose_images(data: Any, num: int, *, seed: int, name: str) -> "Tensor":
    """Different images of a set of images, taken at random, uint8 (num, C, H, W).

    Raises:
        CommandError: there are not so many.
    """
    import torch

    if num > len(data):
        raise CommandError(f"--num: {name} has {len(data)} images, got {num}")
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:num]
    return torch.stack([data[index][0] for index in chosen.tolist()])


def draw_reconstructions(
    run: Path, game: "Game", num: int | None, *, seed: int, source: str | None, split: str | None
) -> "tuple[Tensor, Tensor]":
    """Images of the run's data set, or another, and what the game's encoder and generator make of them, in [-1, 1].

    Args:
        num: how many; None: a few.

    Raises:
        CommandError: the game has no encoder, or there are not so many images.
    """
    import torch

    reconstruct = getattr(game, "reconstruct", None)
    if not callable(reconstruct):
        raise CommandError(
            f"--reconstruct: {game.name} has no encoder", hint=f"ganfuse invert {run} IMAGE looks for a latent"
        )
    data = open_data(run, game, source=source, split=split)
    parameter = next(game.parameters())
    num = min(_FEW, len(data)) if num is None else num
    images = choose_images(data, num, seed=seed, name=data.name).to(parameter.device, parameter.dtype)
    images = images.div_(127.5).sub_(1.0)
    return images.cpu(), torch.cat([reconstruct(part) for part in torch.split(images, 64)]).cpu()
