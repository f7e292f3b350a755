"""What the commands share that take another codebase's checkpoint as it is."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganfuse.commands._errors import CommandError

if TYPE_CHECKING:
    from ganfuse.engine import Game

#: Annotations of the options.
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="SOURCE:FILE",
        help="Another codebase's checkpoint in place of a run, such as biggan-pytorch:G_ema.pth; "
        "ganfuse import --help lists the sources.",
        show_default="none",
    ),
]
PartOption = Annotated[
    str | None, typer.Option(help="With --from: which network, where the file holds several.", show_default="by kind")
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="With --from: what the tensors leave open. May be repeated."),
]


def parse_from(text: str) -> tuple[str, Path]:
    """Source and file of SOURCE:FILE.

    Raises:
        CommandError: it is no such thing, or there is no such source.
    """
    from ganfuse.interop import source_info

    source, colon, file = text.partition(":")
    if not (source and colon and file):
        raise CommandError(f"--from expects SOURCE:FILE, got {text!r}", "for example --from biggan-pytorch:G_ema.pth")
    return source_info(source).name, Path(file)


def parse_parts(given: Iterable[str], option: str = "--also") -> dict[str, Path]:
    """Files by parts, of PART=FILE.

    Raises:
        CommandError: it is no such thing, or names a part twice.
    """
    parts: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise CommandError(
                f"{option} expects PART=FILE, got {text!r}", hint=f"for example {option} discriminator=D.pth"
            )
        if name in parts:
            raise CommandError(f"{option} gives {name} twice")
        parts[name] = Path(path)
    return parts


def require_one(run: Path | None, from_: str | None, **with_from: Any) -> None:
    """Raises CommandError unless there is one of RUN and --from, and nothing else that goes with the other alone.

    Args:
        with_from: what was given of the options that need --from, by their names.
    """
    if run is None and from_ is None:
        raise CommandError("Missing argument 'RUN', or --from SOURCE:FILE", "ganfuse train makes runs")
    if run is not None and from_ is not None:
        raise CommandError(f"got the run {run} and --from {from_}: give one of the two")
    for name, value in with_from.items():
        if run is not None and value:
            raise CommandError(f"--{name} goes with --from, and got the run {run}")


def has_keyword(from_: str, name: str) -> bool:
    """Whether the source has a keyword of that name."""
    from ganfuse.interop import source_info

    return name in source_info(parse_from(from_)[0]).keywords


def load_imported(
    from_: str,
    *,
    part: str | None,
    also: Iterable[str] = (),
    assignments: Iterable[str],
    device: str,
    place: str | None = None,
    keywords: Mapping[str, Any] | None = None,
) -> "tuple[Game, tuple[str, ...]]":
    """The game of a checkpoint, see `ganfuse.interop.sampling.sampling_game`, on the device.

    Args:
        also: further parts, PART=FILE.
        place: of a translator, as in `ganfuse.interop.load_game`.
        keywords: what the assignments go before.
    """
    from ganfuse.commands._settings import parse_assignments
    from ganfuse.engine.options import resolve_device
    from ganfuse.interop.sampling import sampling_game

    source, file = parse_from(from_)
    settings = {**(keywords or {}), **parse_assignments(assignments)}
    game, generators = sampling_game(source, file, part, place=place, also=parse_parts(also), **settings)
    return game.to(resolve_device(device)), generators
