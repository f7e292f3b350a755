"""Where a run's numbers go: metrics.jsonl, and TensorBoard on request."""

import hashlib
import json
import math
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

from torch import Tensor

from ganfuse.engine.grid import make_grid
from ganfuse.engine.run_folder import RunFolder

__all__ = ["MetricsLog"]


class MetricsLog:
    """Appends one JSON object per call to RUN/metrics.jsonl; each line is on disk (in the system's cache) at once.

    Args:
        step: where the run begins or goes on; what was logged after it, before a resume, is dropped.
        tensorboard: write to TensorBoard, too.
        wandb: name of a project of Weights & Biases to write to, too; None: none.
        config: of the run, for Weights & Biases.
        enabled: False writes nothing: one process of a distributed run is enough.

    Raises:
        ModuleNotFoundError: TensorBoard was asked for and is not installed.
    """

    def __init__(
        self,
        run: RunFolder,
        step: int,
        *,
        tensorboard: bool,
        wandb: str | None = None,
        config: Mapping[str, Any] | None = None,
        enabled: bool = True,
    ) -> None:
        self._board: Any = None
        self._wandb: Any = None
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
        if wandb is not None:
            self._wandb = _start_wandb(run, wandb, config or {})
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
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)

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
        gpu: Mapping[str, float] | None = None,
        stage: str = "",
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
        if stage:
            entry["stage"] = stage
        if skipped:
            entry["skipped"] = skipped
        if gpu:
            entry["gpu"] = dict(gpu)
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        rates = {f"learning_rate/{player}": rate for player, rate in learning_rates.items()}
        readings = {f"gpu/{name}": value for name, value in (gpu or {}).items()}
        scalars = {**losses, **rates, **readings, "images_per_second": images_per_second}
        if self._board is not None:
            for key, value in scalars.items():
                self._board.add_scalar(key, value, step)
        if self._wandb is not None:
            self._wandb.log({**scalars, "images": images}, step=step)

    def write_images(self, images: Tensor, step: int) -> None:
        """Sample images, float in [-1, 1], to TensorBoard and Weights & Biases."""
        if self._board is not None:
            self._board.add_images("samples", images.clamp(-1.0, 1.0).add(1.0).div(2.0).cpu(), step)
        if self._wandb is not None:
            import wandb

            grid = make_grid(images).permute(1, 2, 0).numpy()
            self._wandb.log({"samples": wandb.Image(grid)}, step=step)


def _start_wandb(run: RunFolder, project: str, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ModuleNotFoundError("wandb: asked for but not installed; pip install 'ganfuse[wandb]'") from error
    # The same name for the same folder, so that a resumed run goes on in the same place.
    identity = hashlib.blake2b(str(run.path.resolve()).encode(), digest_size=8).hexdigest()
    return wandb.init(project=project, id=identity, name=run.path.name, resume="allow", config=dict(config))
