"""What one call of `Trainer.fit` has to say."""

from dataclasses import dataclass
from pathlib import Path

__all__ = ["FitSummary"]


@dataclass(frozen=True)
class FitSummary:
    """What one call of `Trainer.fit` did.

    Attributes:
        steps: the step that the run has reached.
        images: real images drawn since the run began.
        seconds: that this call took.
        images_per_second: real images drawn per second in this call.
        losses: the latest ones, by "turn/entry".
        stopped_by: "steps" (the run is complete), "interrupt" (Ctrl-C or SIGTERM), "time_limit", or what was given
            to `Trainer.stop`.
        out: the run's folder.
        checkpoint: the checkpoint written last.
    """

    steps: int
    images: int
    seconds: float
    images_per_second: float
    losses: dict[str, float]
    stopped_by: str
    out: Path
    checkpoint: Path
