"""Steps in which nothing is learnt any more, since every learning rate has fallen to 0."""

import logging
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ganfuse.engine.schedules import Progress, Schedule

if TYPE_CHECKING:
    from ganfuse.engine.trainer import Trainer

__all__ = ["first_idle_step", "warn_of_idle_steps"]

logger = logging.getLogger("ganfuse.train")


def first_idle_step(
    schedules: Sequence[Schedule | None], progress_at: Callable[[int], Progress], first: int, last: int
) -> int | None:
    """The first of the steps `first` to `last` from which on every schedule is 0; None if one is not at the last.

    Args:
        schedules: of all players; None: always 1. A factor that has reached 0 is taken to stay there.
        progress_at: from a step to the progress that the run will have made when it begins.
        first, last: numbers of steps.
    """

    def idle(step: int) -> bool:
        progress = progress_at(step)
        return all(schedule is not None and schedule(progress) == 0.0 for schedule in schedules)

    if first > last or not idle(last):
        return None
    while first < last:
        middle = (first + last) // 2
        first, last = (first, middle) if idle(middle) else (middle + 1, last)
    return first


def warn_of_idle_steps(trainer: "Trainer") -> None:
    """Says so if learning rates that fall with the passes over the data are 0 long before the run is complete."""
    options, turns = trainer.options, trainer.turn_runner.turns
    # A stage may have batches of its own.
    if trainer.game.stage(Progress(trainer.step + 1)) is not None:
        return
    size = options.batch_size
    # Turns share a batch, and repetitions have one each.
    per_step = size * (1.0 + sum((turn.repeats - 1) / turn.every for turn in turns))
    here, drawn, length = trainer.step + 1, trainer.images, len(trainer.data)
    last = options.steps
    if options.kimg is not None:
        last = min(last, trainer.step + math.ceil((1000 * options.kimg - drawn) / per_step))

    def progress_at(step: int) -> Progress:
        return Progress(step, drawn + round((step - here) * per_step), length, size, options.steps)

    found = first_idle_step(trainer.turn_runner.schedules, progress_at, here, last)
    if found is not None:
        logger.warning(
            "all learning rates are 0 from step %s on, where their schedules end: the steps from there to %s change "
            "no weight. Ask for fewer steps, or for longer schedules",
            f"{found:,}",
            f"{last:,}",
        )
