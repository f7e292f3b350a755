"""The hooks that a run's options ask for: scores while training, and signs of collapse."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ganfuse.engine.batches import ImageData
from ganfuse.engine.game import Game
from ganfuse.engine.options import TrainerOptions

if TYPE_CHECKING:
    from ganfuse.engine.trainer import Trainer

__all__ = ["split_held_out", "watching_hooks"]


def split_held_out(data: ImageData, options: TrainerOptions) -> tuple[ImageData, ImageData | None]:
    """The data to train on, and those that the options hold out of it.

    Raises:
        ValueError: the data set cannot be divided.
    """
    if not options.held_out:
        return data, None
    if not (hasattr(data, "subset") or hasattr(data, "subsets")):
        raise ValueError(f"held_out: a {type(data).__name__} cannot be divided, since it has no method subset(indices)")
    from ganfuse.engine.data import split_dataset

    return split_dataset(data, options.held_out, options.seed)  # type: ignore[type-var]


def watching_hooks(
    game: Game, options: TrainerOptions, held_out: ImageData | None
) -> list[Callable[["Trainer"], None]]:
    """The hooks, none without such options.

    Raises:
        ValueError: an option is out of range, or the game cannot be watched so.
    """
    hooks: list[Callable[[Trainer], None]] = []
    if options.evaluate_every:
        from ganfuse.engine.metrics import Evaluate

        hooks.append(Evaluate(options.evaluate_every, options.evaluate_metrics, options.evaluate_num))
    if options.monitor_every:
        from ganfuse.engine.metrics import CollapseMonitor
        from ganfuse.engine.metrics.collapse_monitor import require_judge

        if held_out is None:
            raise ValueError("monitor_every: the collapse monitor compares with images that are held out: set held_out")
        try:
            require_judge(game)
        except ValueError as error:
            raise ValueError(
                f"monitor_every: {error}; singular_values_every logs what else the collapse monitor does"
            ) from error
        hooks.append(CollapseMonitor(held_out, options.monitor_every))
    return hooks
