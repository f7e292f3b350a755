"""The `ganfuse` command: finds the subcommands, and turns what goes wrong into one line and an exit code.

Each module in `ganfuse.commands` whose name has no leading underscore is a subcommand. It defines a function of its own
name (a typer command) and `EXAMPLE`, a line for ``--help``. A trailing underscore is dropped (``import_.py``). They
import what is heavy inside the function, so that ``ganfuse --help`` stays fast.
"""

import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ganfuse import commands
from ganfuse.commands._errors import EXIT_INTERRUPTED, report
from ganfuse.commands._output import show_warnings
from ganfuse.version import __version__

# The order in --help: what a newcomer needs first. Commands that are not named here follow by name.
HELP_ORDER = ("models", "train", "sample")


class CommandGroup(TyperGroup):
    """Prints errors as ``error: ...``; ``--debug``, wherever it stands, lets them through with their traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        given = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in given
        given = [argument for argument in given if argument != "--debug"]
        try:
            code = super().main(
                given, prog_name or "ganfuse", complete_var, False, windows_expand_args=windows_expand_args, **extra
            )
        except (typer.Abort, KeyboardInterrupt):
            code = EXIT_INTERRUPTED
        except Exception as error:
            if debug:
                raise
            code = report(error)
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="ganfuse",
    cls=CommandGroup,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ganfuse {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog="Example: ganfuse train sagan --data digits --steps 1000")
def ganfuse(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    """Train GANs, and draw from them."""
    show_warnings()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _add_commands() -> None:
    modules = [module.name for module in pkgutil.iter_modules(commands.__path__) if not module.name.startswith("_")]
    names = {module.rstrip("_"): module for module in modules}
    known = [name for name in HELP_ORDER if name in names]
    for name in [*known, *sorted(names.keys() - set(known))]:
        module = import_module(f"{commands.__name__}.{names[name]}")
        app.command(name, epilog=f"Example: {module.EXAMPLE}")(getattr(module, names[name]))


_add_commands()


def main() -> None:
    """Entry point of the command `ganfuse`."""
    app()
