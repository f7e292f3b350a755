"""Scores while training."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from ganfuse.engine.batches import ImageData
from ganfuse.engine.ema import averaged_weights
from ganfuse.engine.game import evaluation_mode
from ganfuse.engine.metrics.evaluation import Evaluator
from ganfuse.engine.metrics.evaluation_log import append_evaluation, read_evaluations
from ganfuse.engine.metrics.extractor import Extractor
from ganfuse.engine.metrics.extractor_choice import choose_extractor
from ganfuse.engine.metrics.feature_checks import check_positive
from ganfuse.engine.metrics.scores import METRICS, check_metrics
from ganfuse.engine.seeding import derive_seed

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
    written with all their circumstances to RUN/evaluations.jsonl. Training goes on as if nothing had been drawn.

    Args:
        every: steps between evaluations; the last step of the run is scored too.
        metrics: keys of `ganfuse.engine.metrics.METRICS`. The main value of the first decides which step is best.
        num: images of each kind. The score depends on it.
        extractor: see `ganfuse.engine.metrics.choose_extractor`; chosen for the trainer's data.
        data: real images to compare with; None: those that the run is trained on.
        batch_size: images at a time.
        seed: of the choice of images and latents, the same at every evaluation.

    Attributes:
        best: `BestScore` of the run, that of earlier, resumed calls included; None before the first evaluation.
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
        self.best: BestScore | None = None
        self.scores: dict[str, float] = {}
        self._main = METRICS[self.metrics[0]].values[0]
        self._extractor = extractor
        self._data = data
        self._evaluator: Evaluator | None = None

    def __call__(self, trainer: "Trainer") -> None:
        if trainer.step % self.every and trainer.step != trainer.options.steps:
            return
        with trainer.global_randomness.aside(derive_seed(self.seed, "evaluation", "global")):
            if self._evaluator is None:
                self._evaluator = self._prepare(trainer)
            with averaged_weights(trainer.game, trainer.averages), evaluation_mode(trainer.game):
                self.scores = self._evaluator.evaluate(trainer.game)
        found = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.scores.items()}
        trainer.record.add(trainer.step, "evaluation", found)
        weights = "ema" if trainer.averages else "raw"
        about = {"step": trainer.step, "during": "training", "scores": self.scores, "weights": weights}
        append_evaluation(trainer.run, {**about, **self._evaluator.describe()})
        self._compare(trainer.step, self.scores[self._main])

    def _prepare(self, trainer: "Trainer") -> Evaluator:
        extractor = choose_extractor(self._extractor, trainer.data, progress=False).to(trainer.device)
        data = trainer.data if self._data is None else self._data
        evaluator = Evaluator(extractor, data, self.metrics, num=self.num, batch_size=self.batch_size, seed=self.seed)
        circumstances = evaluator.describe()
        for record in read_evaluations(trainer.run):
            if record.get("during") == "training" and record.get("step", math.inf) < trainer.step:
                score = record.get("scores", {}).get(self._main)
                if score is not None and _comparable(record, circumstances):
                    self._compare(record["step"], score)
        return evaluator

    def _compare(self, step: int, score: float) -> None:
        higher = METRICS[self.metrics[0]].higher_is_better
        if self.best is None or (score > self.best.score if higher else score < self.best.score):
            self.best = BestScore(step, score)


def _comparable(record: dict[str, Any], circumstances: dict[str, Any]) -> bool:
    keys = circumstances.keys() - {"versions"}
    return all(record.get(key) == circumstances[key] for key in keys)
