"""`ganfuse sample`: a grid of images from a run."""

import difflib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganfuse.commands._errors import CommandError

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from ganfuse.engine import Game

EXAMPLE = "ganfuse sample runs/sagan-digits --out grid.png --classes each --columns 10 --seed 1"

DEFAULT_NUM = 64
DEFAULT_PER_CLASS = 8
# Bounds the memory. Fixed, since the random numbers, and with them the images, depend on it.
_BATCH = 64


class Weights(str, Enum):
    """Which weights to draw with."""

    ema = "ema"
    raw = "raw"


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    out: Annotated[Path, typer.Option(help="Picture to write; its ending gives the format.")] = Path("grid.png"),
    num: Annotated[
        int | None,
        typer.Option(min=1, help="How many images.", show_default=f"{DEFAULT_NUM}; {DEFAULT_PER_CLASS} per class"),
    ] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Images in a row.", show_default="about square; a row per class")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
    classes: Annotated[
        str | None,
        typer.Option(help='Classes to draw, by number or name, such as "0,1,2", or "each".', show_default="at random"),
    ] = None,
    weights: Annotated[Weights, typer.Option(help="Moving averages, or the weights as trained.")] = Weights.ema,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or the step of a checkpoint.")] = "latest",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1...")] = "auto",
    scale: Annotated[int, typer.Option(min=1, help="Enlarge every pixel by this whole factor.")] = 1,
) -> None:
    """Draw a grid of images from a trained run.

    With --classes each class gets a row (or as many as --columns makes of it) of equally many images.
    """
    import torch

    from ganfuse.engine import CheckpointError, load_run
    from ganfuse.engine.grid import require_image_ending, save_grid

    require_image_ending(out)
    try:
        game = load_run(run, weights=weights.value, checkpoint=_which(checkpoint), device=device)
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    labels = None
    if classes is not None:
        chosen = _parse_classes(classes, _class_names(run, game))
        per_class = -(-num // len(chosen)) if num is not None else DEFAULT_PER_CLASS
        labels = torch.tensor(chosen).repeat_interleave(per_class)
        columns = columns or per_class
    count = len(labels) if labels is not None else num or DEFAULT_NUM
    images = _draw(game, count, labels, torch.Generator().manual_seed(seed))
    typer.echo(str(save_grid(images, out, columns=columns, scale=scale)))


def _which(checkpoint: str) -> str | int:
    if checkpoint in ("latest", "best"):
        return checkpoint
    if not checkpoint.isdecimal():
        raise CommandError(f"--checkpoint expects 'latest', 'best' or a step, got {checkpoint!r}")
    return int(checkpoint)


def _class_names(run: Path, game: "Game") -> list[str]:
    """Names by class; the numbers where the run has no names. Empty for a game without classes."""
    from ganfuse.engine.run_folder import RunFolder

    count = getattr(game, "num_classes", None) or 0
    names = (RunFolder(run).read_config().get("data") or {}).get("class_names") or []
    return [str(name) for name in names] if len(names) == count else [str(label) for label in range(count)]


def _parse_classes(text: str, names: Sequence[str]) -> list[int]:
    if not names:
        raise CommandError("--classes: this run was trained without classes")
    if text.strip().lower() == "each":
        return list(range(len(names)))
    by_name = {name.lower(): label for label, name in enumerate(names)}
    chosen = []
    for part in (part.strip() for part in text.split(",")):
        if part.lower() in by_name:
            chosen.append(by_name[part.lower()])
        elif part.isdecimal() and int(part) < len(names):
            chosen.append(int(part))
        else:
            near = difflib.get_close_matches(part.lower(), by_name, n=1)
            raise CommandError(
                f"--classes: there is no class {part!r}"
                + (f"; did you mean {names[by_name[near[0]]]!r}?" if near else ""),
                hint=f"classes 0 to {len(names) - 1}: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}",
            )
    return chosen


def _draw(game: "Game", count: int, labels: "Tensor | None", rng: "Generator") -> "Tensor":
    import torch

    parts = []
    for start in range(0, count, _BATCH):
        n = min(_BATCH, count - start)
        part = None if labels is None else labels[start : start + n]
        parts.append(game.sample(n, labels=part, rng=rng).float().cpu())
    return torch.cat(parts)
