"""What a person watching a run sees: a live bar on a terminal, a line now and then otherwise. All on stderr."""

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["TrainingProgress"]

SECONDS_BETWEEN_LINES = 15.0


class TrainingProgress:
    """Shows how far a run is. A context manager.

    Args:
        steps: of the whole run.
        start: the step at which it begins or goes on.
        enabled: False shows nothing.
    """

    def __init__(self, steps: int, start: int, *, enabled: bool = True) -> None:
        self._steps = steps
        self._start = start
        self._enabled = enabled
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._began = self._printed = time.monotonic()

    def __enter__(self) -> "TrainingProgress":
        self._began = self._printed = time.monotonic()
        if self._enabled and sys.stderr.isatty():
            self._bar = _make_bar()
            self._task = self._bar.add_task("training", total=self._steps, completed=self._start, losses="", rate="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def advance(self, step: int) -> None:
        """Called after every step; cheap."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step)

    def report(
        self, step: int, losses: Mapping[str, float], images_per_second: float, *, stage: str = "", last: bool = False
    ) -> None:
        """Called whenever losses are known; `last` when training ends, which is always shown."""
        shown = "  ".join(filter(None, [stage, _short(losses)]))
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, losses=shown, rate=f"{images_per_second:.0f} img/s")
            return
        now = time.monotonic()
        if self._enabled and (now - self._printed >= SECONDS_BETWEEN_LINES or last):
            self._printed = now
            left = (now - self._began) / max(step - self._start, 1) * (self._steps - step)
            line = f"step {step}/{self._steps}  {shown}  {images_per_second:.0f} img/s  {_clock(left)} left"
            print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        elif self._enabled:
            print(text, file=sys.stderr, flush=True)


def _make_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns: list[Any] = [
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=Console(stderr=True), refresh_per_second=4)


def _short(losses: Mapping[str, float]) -> str:
    """ "discriminator 1.93  generator 0.12": of each turn only what it minimises, "turn/loss" or "turn/loss/player"."""
    shown = []
    for key, value in losses.items():
        turn, _, entry = key.partition("/")
        if entry == "loss" or entry.startswith("loss/"):
            shown.append(f"{entry.partition('/')[2] or turn} {value:.3f}")
    return "  ".join(shown)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
