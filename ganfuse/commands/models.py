"""`ganfuse models`: what can be trained."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ganfuse.models.registry import ModelInfo

EXAMPLE = "ganfuse models biggan"


def models(
    name: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", help="Show the settings of this one.", show_default="all")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the models that can be trained, or the settings of one of them."""
    from ganfuse.models import list_models, model_info

    infos = [model_info(entry) for entry in (list_models() if name is None else [name])]
    if as_json:
        typer.echo(json.dumps([{**asdict(info), "url": info.url} for info in infos], indent=2, ensure_ascii=False))
        return
    if name is not None:
        _show(infos[0])
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "what it is", "paper", "resolutions", box=None, pad_edge=False, header_style="bold")
    for info in infos:
        paper = info.paper if info.url is None else f"{info.paper} {info.url}"
        table.add_row(info.name, info.summary, paper, ", ".join(map(str, info.resolutions)) or "any")
    console = Console()
    if not console.is_terminal:
        # A pipe has no width; there a row stays in one line, so that it can be searched for.
        console = Console(width=240)
    console.print(table)
    typer.echo("\nTrain one: ganfuse train NAME --data digits", err=True)


def _show(info: "ModelInfo") -> None:
    from ganfuse.commands._output import print_result

    typer.echo(f"{info.name}: {info.summary}")
    typer.echo(info.paper if info.url is None else f"{info.paper} {info.url}")
    typer.echo(
        "Settings for --set, and their defaults (null: see docs/models.md; the data and --resolution come first):"
    )
    print_result(*((key, json.dumps(value)) for key, value in info.config.items()))
