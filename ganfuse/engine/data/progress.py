"""Progress of the slow parts of opening a data set: a bar on a terminal, nothing elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


@contextmanager
def progress_bar(description: str, total: int, *, of_bytes: bool = False) -> Iterator[Callable[[int], None]]:
    """Gives ``advance(amount)``; the bar goes away when the work is done.

    Args:
        description: what is going on.
        total: amount of work: items, or bytes where ``of_bytes`` (0: unknown).
        of_bytes: show sizes and speed rather than a count.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if of_bytes else MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total or None)

        def advance(amount: int) -> None:
            progress.advance(task, amount)

        yield advance


def optional_bar(description: str, total: int, shown: bool) -> AbstractContextManager[Callable[[int], None]]:
    """`progress_bar`, or nothing: where another bar is being drawn already."""
    return progress_bar(description, total) if shown else nullcontext(_ignore)


def _ignore(amount: int) -> None:
    pass
