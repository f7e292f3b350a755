"""What a user sees when something goes wrong: one line, perhaps a hint, and an exit code."""

from ganfuse.commands._output import print_error

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

_LONGEST = 4000
# The library raises these for what a user gave: a wrong value, a file that is not there or should not be.
_BAD_INPUT = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


class CommandError(Exception):
    """An error that a command found by itself.

    Args:
        message: one line.
        hint: what to do about it.
        code: exit code.
    """

    def __init__(self, message: str, hint: str = "", code: int = EXIT_BAD_INPUT) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


def report(error: Exception) -> int:
    """Prints the error on stderr and returns the exit code for it."""
    if isinstance(error, CommandError):
        print_error(str(error), error.hint)
        return error.code
    # Typer's own errors (unknown option, missing value). Their class is Click's, or in new versions Typer's copy of it.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "ganfuse"
        print_error(error.format_message(), f"{command} --help lists what there is")
        return int(error.exit_code)
    if isinstance(error, _BAD_INPUT):
        print_error(_text(error))
        return EXIT_BAD_INPUT
    if isinstance(error, RuntimeError | OSError):
        memory = type(error).__name__ == "OutOfMemoryError"
        print_error(_text(error), "a smaller --batch-size or --resolution needs less memory" if memory else "")
        return EXIT_FAILED
    print_error(
        f"unexpected {type(error).__name__}: {_text(error)}",
        "this is a mistake in ganfuse or in something that it uses; --debug shows where",
    )
    return EXIT_FAILED


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error) or type(error).__name__
    # A compiler's complaints may be hundreds of pages.
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ... ({len(text):,} characters; --debug shows all)"
