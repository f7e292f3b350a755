"""What can be said of a game's stages before the first step is made."""

import logging
from collections.abc import Sequence
from itertools import pairwise

from ganfuse.engine.game import Game, Turn
from ganfuse.engine.options import TrainerOptions

__all__ = ["check_stages", "warn_of_early_end"]

logger = logging.getLogger("ganfuse.engine.stages")


def check_stages(game: Game, options: TrainerOptions, processes: int) -> None:
    """Raises ValueError for a stage whose batch cannot be divided among processes and micro-batches."""
    for _, stage in game.stages():
        if stage.batch_size is not None:
            try:
                options.check_batch(stage.batch_size, processes)
            except ValueError as error:
                raise ValueError(f"{error} (stage {stage.name!r})") from None


def warn_of_early_end(game: Game, turns: Sequence[Turn], options: TrainerOptions) -> None:
    """Warns of a run that ends before its last stage, such as one whose images are still of 4×4 pixels."""
    stages = game.stages()
    if not stages:
        return
    # Each repetition of a turn after the first draws a batch of its own.
    draws = 1.0 + sum((turn.repeats - 1) / turn.every for turn in turns)
    steps, reached = float(options.steps), 0
    for (begins, stage), (ends, _) in pairwise(stages):
        steps -= 1000.0 * (ends - begins) / ((stage.batch_size or options.batch_size) * draws)
        if steps < 0 or (options.kimg is not None and options.kimg < ends):
            break
        reached += 1
    if reached < len(stages) - 1:
        last, name = stages[-1]
        logger.warning(
            "the run ends in stage %r, before the last one, %r, which begins after %s thousand images: "
            "it takes more steps, or shorter stages",
            stages[reached][1].name,
            name.name,
            f"{last:,g}",
        )
