"""What the commands that draw from a run share."""

import difflib
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganfuse.commands._errors import CommandError

if TYPE_CHECKING:
    from ganfuse.engine import Game


TruncationCutoff = Annotated[
    int | None, typer.Option(min=0, help="Truncate the styles of the first layers only (style models).")
]
StandingStatistics = Annotated[
    int | None,
    typer.Option(
        min=0, help="Batches drawn first for the statistics of batch norm.", show_default="16 if truncated, else 0"
    ),
]


class Weights(str, Enum):
    """Which weights to draw with."""

    ema = "ema"
    raw = "raw"


def load_for_sampling(run: Path, weights: Weights, checkpoint: str, device: str) -> "Game":
    """The game of a run, in evaluation mode.

    Raises:
        CommandError: there is no such checkpoint, it is damaged, or `run` is a file.
    """
    from ganfuse.engine import CheckpointError, load_run

    if run.is_file():
        raise CommandError(
            f"RUN: {run} is a file, expected the folder of a run",
            f"ganfuse import SOURCE {run} OUT makes one of another codebase's checkpoint",
        )
    try:
        return load_run(run, weights=weights.value, checkpoint=which_checkpoint(checkpoint), device=device)
    except CheckpointError as error:
        raise CommandError(str(error)) from error


def refuse_of_runs(weights: Weights, checkpoint: str, **given: object) -> None:
    """Raises CommandError for an option that a run alone has, where there is none."""
    changed = {"weights": weights is not Weights.ema, "checkpoint": checkpoint != "latest"}
    for name, value in (changed | given).items():
        if value:
            raise CommandError(
                f"--{name} is of runs, which --from is not", "--part chooses among the networks of a file"
            )


def class_names(run: Path | None, game: "Game") -> list[str]:
    """Names by class; numbers where there is no run, or its data have no such class. Empty without classes."""
    from ganfuse.engine.run_folder import RunFolder

    count = getattr(game, "num_classes", None) or 0
    described = {} if run is None else RunFolder(run).read_config()
    names = (described.get("data") or {}).get("class_names") or []
    if len(names) > count:
        names = []
    return [*map(str, names), *map(str, range(len(names), count))]


def chosen_classes(
    text: str, names: Sequence[str], *, each: Sequence[int] | None = None, option: str = "--classes"
) -> list[int]:
    """The labels that "each", or numbers and names with commas between, stand for. Errors name the option.

    Args:
        each: the classes that there are to draw; None: all that have a name.

    Raises:
        CommandError: a run without classes, or an unknown class (naming the nearest).
    """
    if not names:
        raise CommandError(f"{option}: this model was trained without classes")
    if text.strip().lower() == "each":
        return list(range(len(names))) if each is None else list(each)
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
                f"{option}: there is no class {part!r}"
                + (f"; did you mean {names[by_name[near[0]]]!r}?" if near else ""),
                hint=f"classes 0 to {len(names) - 1}: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}",
            )
    return chosen


def which_checkpoint(checkpoint: str) -> str | int:
    """The argument of `load_run` for the option --checkpoint.

    Raises:
        CommandError: it is none.
    """
    if checkpoint in ("latest", "best"):
        return checkpoint
    if not checkpoint.isdecimal():
        raise CommandError(f"--checkpoint expects 'latest', 'best' or a step, got {checkpoint!r}")
    return int(checkpoint)
