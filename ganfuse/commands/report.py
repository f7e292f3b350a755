"""`ganfuse report`: a page about a run."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "ganfuse report runs/sagan-digits"


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    out: Annotated[Path | None, typer.Option(help="Page to write.", show_default="RUN/report.html")] = None,
) -> None:
    """Write one HTML page about a run: curves, samples over time, scores, configuration, environment.

    Everything is inside the page, so that it can be sent or kept by itself. A run that is still training can be
    reported on, too.
    """
    from ganfuse.engine.report import write_report

    typer.echo(str(write_report(run, out)))
