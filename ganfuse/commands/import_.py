"""`ganfuse import`: another codebase's checkpoint as a run."""

from pathlib import Path
from typing import Annotated

import typer

from ganfuse.commands._errors import CommandError
from ganfuse.commands._output import print_result

EXAMPLE = "ganfuse import biggan-pytorch G_ema.pth runs/imported --also discriminator=D.pth"


def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Whose checkpoint it is; see the list below.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The checkpoint.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the run to write.")],
    part: Annotated[
        str | None, typer.Option(help="Which network, where the file holds several.", show_default="all")
    ] = None,
    place: Annotated[
        str | None,
        typer.Option("--as", help="Part of the model that it becomes, such as generator_ba.", show_default="by kind"),
    ] = None,
    also: Annotated[
        list[str] | None, typer.Option(help="A further part of the model: PART=FILE. May be repeated.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="What the tensors leave open. May be repeated."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run in OUT.")] = False,
) -> None:
    """Make a run of another codebase's checkpoint: for sample, evaluate, interpolate and the other commands.

    The architecture is read from the tensors. Every tensor must fit; nothing in the file is executed. Parts of the
    model that are not imported have new weights.

    Sources: biggan-pytorch, cyclegan-pix2pix, hf-biggan-deep, progan, sagan, studiogan,
    stylegan1-rosinality, stylegan2-ada, stylegan2-rosinality, ugatit-pytorch, unetgan.

    sagan's networks are of no model that makes runs; ganfuse sample --from draws from them, and from all others without
    a run, too.
    """
    from ganfuse.commands._importing import parse_parts
    from ganfuse.commands._settings import parse_assignments
    from ganfuse.engine import CheckpointError
    from ganfuse.engine.run_folder import RunFolder
    from ganfuse.engine.translation import TranslationGame
    from ganfuse.interop import load_game, write_run

    config = parse_assignments(set_ or ())
    others = parse_parts(also or ())
    if not overwrite:
        RunFolder(out).require_vacant()
    game = load_game(source, file, part, place=place, also=others, **config)
    try:
        write_run(game, out, overwrite=overwrite)
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    use = f"ganfuse translate {out} IN OUT" if isinstance(game, TranslationGame) else f"ganfuse sample {out}"
    print_result(("run", out), ("model", game.name), ("next", use))
