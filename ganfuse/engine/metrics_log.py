"""Where a run's numbers go: metrics.jsonl, and TensorBoard on request."""

import json
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

from torch import Tensor

from ganfuse.engine.run_folder import RunFolder

__all__ = ["MetricsLog"]


class MetricsLog:
    """Appends one JSON object per call to RUN/metrics.jsonl; each line is on disk (in the system's cache) at once.

    Args:
        step: where the run begins or goes on; what was logged after it, before a resume, is dropped.
        tensorboard: write to TensorBoard, too.
        enabled: False writes nothing: one process of a distributed run is enough.

    Raises:
        ModuleNotFoundError: TensorBoard was asked for and is not installed.
    """

    def __init__(self, run: RunFolder, step: int, *, tensorboard: bool, enabled: bool = True) -> None:
        self._board: Any = None
        self._file: TextIO | None = None
        if not enabled:
            return
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ModuleNotFoundError(
                    "tensorboard: asked for but not installed; pip install 'ganfuse[tensorboard]'"
                ) from error
            self._board = SummaryWriter(str(run.tensorboard), purge_step=step + 1)
        run.drop_metrics_after(step)
        self._file = open(run.metrics_file, "a", encoding="utf-8")  # noqa: SIM115  # closed in __exit__

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()

    def write(
        self,
        *,
        step: int,
        images: int,
        seconds: float,
        losses: Mapping[str, float],
        images_per_second: float,
        learning_rates: Mapping[str, float],
        skipped: int = 0,
    ) -> None:
        """One line: images and seconds count from the run's beginning. Numbers that are not finite become null."""
        if self._file is None:
            return
        entry = {
            "step": step,
            "images": images,
            "seconds": round(seconds, 3),
            "losses": {key: value if math.isfinite(value) else None for key, value in losses.items()},
            "images_per_second": round(images_per_second, 2),
            "learning_rates": dict(learning_rates),
        }
        if skipped:
            entry["skipped"] = skipped
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        if self._board is not None:
            rates = {f"learning_rate/{player}": rate for player, rate in learning_rates.items()}
            for key, value in {**losses, **rates, "images_per_second": images_per_second}.items():
                self._board.add_scalar(key, value, step)

    def write_images(self, images: Tensor, step: int) -> None:
        """Sample images, float in [-1, 1], to TensorBoard."""
        if self._board is not None:
            self._board.add_images("samples", images.clamp(-1.0, 1.0).add(1.0).div(2.0).cpu(), step)
