"""Scores while training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ganfuse.engine.batches import ImageData
from ganfuse.engine.ema import averaged_weights
from ganfuse.engine.game import evaluation_mode
from ganfuse.engine.metrics.domain_evaluation import DomainEvaluator
from ganfuse.engine.metrics.evaluation import Evaluator
from ganfuse.engine.metrics.evaluation_log import append_evaluation, read_evaluations
from ganfuse.engine.metrics.evaluator_choice import make_evaluator
from ganfuse.engine.metrics.extractor import Extractor
from ganfuse.engine.metrics.feature_checks import check_positive
from ganfuse.engine.metrics.scores import METRICS, check_metrics

if TYPE_CHECKING:
    from ganfuse.engine.trainer import Trainer

__all__ = ["BestScore", "Evaluate"]


class BestScore(NamedTuple):
    """The best value of a run's main score so far, and when it was reached."""

    step: int
    score: float


class Evaluate:
    """A hook of `Trainer` that scores the run as it goes, with the averaged weights where there are any.

    The scores join the losses in the metrics as "evaluation/fid" and so on, at the next line that is logged, and are
    written with all their circumstances to RUN/evaluations.jsonl. The checkpoint of the best step is kept. Training
    goes on as if nothing had been drawn.

    Args:
        every: steps between evaluations. The first of several processes makes them, while the others wait.
        metrics: keys of `ganfuse.engine.metrics.METRICS`. The main value of the first decides which step is best.
        num: images of each kind. The score depends on it.
        extractor: see `ganfuse.engine.metrics.choose_extractor`; chosen for the trainer's data.
        data: real images to compare with; None: those that the run is trained on.
        batch_size: images at a time.
        seed: of the choice of images and latents, the same at every evaluation.

    Attributes:
        scores: of the latest evaluation.

    Raises:
        ValueError: an argument is out of range.

    Example::

        hook = Evaluate(every=1000, metrics=("fid", "kid"))
        Trainer(game, "digits", out="runs/a", hooks=[hook]).fit()
        print(hook.best)
    """

    def __init__(
        self,
        every: int = 1000,
        metrics: Sequence[str] = ("fid",),
        num: int = 2000,
        *,
        extractor: str | nn.Module | Extractor = "auto",
        data: ImageData | None = None,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        check_positive(every=every, num=num, batch_size=batch_size)
        if isinstance(metrics, str):
            raise ValueError(f"metrics: expected several names, such as ('fid',), got {metrics!r}")
        self.every = every
        self.metrics = check_metrics(metrics)
        self.num = num
        self.batch_size = batch_size
        self.seed = seed
        self.scores: dict[str, float] = {}
        self._main = METRICS[self.metrics[0]].values[0]
        self._extractor = extractor
        self._data = data
        self._evaluator: Evaluator | DomainEvaluator | None = None
        self._history: dict[int, float] = {}

    def __call__(self, trainer: "Trainer") -> None:
        if trainer.step % self.every or not trainer.processes.is_first:
            return
        with trainer.global_randomness.aside("evaluation", self.seed):
            if self._evaluator is None:
                self._evaluator = self._prepare(trainer)
            with averaged_weights(trainer.game, trainer.averages), evaluation_mode(trainer.game):
                self.scores = self._evaluator.evaluate(trainer.game)
        trainer.note("evaluation", {key: torch.tensor(value) for key, value in self.scores.items()})
        weights = "ema" if trainer.averages else "raw"
        about = {"step": trainer.step, "during": "training", "scores": self.scores, "weights": weights}
        append_evaluation(trainer.run, {**about, **self._evaluator.describe()})
        self._remember(trainer.step, self.scores[self._main])
        if self.best is not None and self.best.step == trainer.step:
            trainer.mark_best()

    @property
    def best(self) -> BestScore | None:
        """The best step of the run, that of earlier, resumed calls included; None before the first evaluation."""
        if not self._history:
            return None
        choose = max if METRICS[self.metrics[0]].higher_is_better else min
        step = choose(self._history, key=lambda step: self._history[step])
        return BestScore(step, self._history[step])

    def _prepare(self, trainer: "Trainer") -> Evaluator | DomainEvaluator:
        evaluator = make_evaluator(
            trainer.game,
            self._extractor,
            trainer.data,
            trainer.data if self._data is None else self._data,
            self.metrics,
            device=trainer.device,
            num=self.num,
            batch_size=self.batch_size,
            seed=self.seed,
        )
        circumstances = evaluator.describe()
        for record in read_evaluations(trainer.run):
            score = record.get("scores", {}).get(self._main)
            if record.get("during") == "training" and score is not None and _comparable(record, circumstances):
                self._remember(record["step"], score)
        return evaluator

    def _remember(self, step: int, score: float) -> None:
        # A run that went back to a checkpoint has left behind what it had reached after it.
        self._history = {earlier: value for earlier, value in self._history.items() if earlier < step}
        self._history[step] = score


def _comparable(record: dict[str, Any], circumstances: dict[str, Any]) -> bool:
    keys = circumstances.keys() - {"versions"}
    return all(record.get(key) == circumstances[key] for key in keys)
