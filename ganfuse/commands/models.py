"""`ganfuse models`: what can be trained."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

EXAMPLE = "ganfuse models --json"


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the models that can be trained."""
    from ganfuse.models import list_models, model_info

    infos = [model_info(name) for name in list_models()]
    if as_json:
        typer.echo(json.dumps([{**asdict(info), "url": info.url} for info in infos], indent=2, ensure_ascii=False))
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
