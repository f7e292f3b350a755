"""Training: games, losses, layers, data, the trainer. Names are imported when they are first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganfuse.engine.adversarial import AdversarialGame as AdversarialGame
    from ganfuse.engine.checkpoint import CheckpointError as CheckpointError
    from ganfuse.engine.ema import EMA as EMA
    from ganfuse.engine.game import Batch as Batch
    from ganfuse.engine.game import EMATarget as EMATarget
    from ganfuse.engine.game import Game as Game
    from ganfuse.engine.game import Player as Player
    from ganfuse.engine.game import Stage as Stage
    from ganfuse.engine.game import Turn as Turn
    from ganfuse.engine.loading import load_run as load_run
    from ganfuse.engine.loss_record import NonFiniteError as NonFiniteError
    from ganfuse.engine.loss_record import NonFiniteGradientError as NonFiniteGradientError
    from ganfuse.engine.loss_record import NonFiniteLossError as NonFiniteLossError
    from ganfuse.engine.loss_record import NonFiniteWeightError as NonFiniteWeightError
    from ganfuse.engine.metrics.collapse_monitor import CollapseMonitor as CollapseMonitor
    from ganfuse.engine.metrics.evaluate_hook import Evaluate as Evaluate
    from ganfuse.engine.noise import Noise as Noise
    from ganfuse.engine.optimizers import SGD as SGD
    from ganfuse.engine.optimizers import Adam as Adam
    from ganfuse.engine.optimizers import RMSprop as RMSprop
    from ganfuse.engine.options import TrainerOptions as TrainerOptions
    from ganfuse.engine.replay_pool import ReplayPool as ReplayPool
    from ganfuse.engine.schedules import Progress as Progress
    from ganfuse.engine.trainer import FitSummary as FitSummary
    from ganfuse.engine.trainer import Trainer as Trainer

_HOMES = {
    "AdversarialGame": "adversarial",
    "CheckpointError": "checkpoint",
    "EMA": "ema",
    "Batch": "game",
    "EMATarget": "game",
    "Game": "game",
    "Player": "game",
    "Turn": "game",
    "load_run": "loading",
    "NonFiniteError": "loss_record",
    "NonFiniteLossError": "loss_record",
    "NonFiniteWeightError": "loss_record",
    "CollapseMonitor": "metrics.collapse_monitor",
    "Evaluate": "metrics.evaluate_hook",
    "Adam": "optimizers",
    "FitSummary": "trainer",
    "Noise": "noise",
    "NonFiniteGradientError": "loss_record",
    "Progress": "schedules",
    "RMSprop": "optimizers",
    "ReplayPool": "replay_pool",
    "SGD": "optimizers",
    "Stage": "game",
    "TrainerOptions": "options",
    "Trainer": "trainer",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
