"""Printing. Results go to stdout; errors, warnings and progress to stderr. Colours only on a terminal."""

import logging

import typer


def print_error(message: str, hint: str = "") -> None:
    """``error: message`` in red, and the hint below."""
    _print_labelled("error", typer.colors.RED, message)
    if hint:
        _print_labelled("hint", typer.colors.CYAN, hint)


def print_result(*rows: tuple[str, object]) -> None:
    """Aligned ``label  value`` lines on stdout."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        typer.echo(f"  {label:<{width}}  {value}")


def show_warnings() -> None:
    """Lets the package's warnings be seen, in the form of the command's errors."""
    logger = logging.getLogger("ganfuse")
    if not any(isinstance(handler, _WarningPrinter) for handler in logger.handlers):
        logger.addHandler(_WarningPrinter(logging.WARNING))


class _WarningPrinter(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _print_labelled("warning", typer.colors.YELLOW, record.getMessage())


def _print_labelled(label: str, color: str, text: str) -> None:
    # One line whatever the message holds: scripts and tests read these.
    typer.echo(f"{typer.style(label + ':', fg=color, bold=True)} {' '.join(text.split())}", err=True)
