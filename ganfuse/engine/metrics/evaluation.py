"""Scores of a game against a data set, with all that is needed to know what they can be compared with."""

import platform
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.batches import ImageData
from ganfuse.engine.data.progress import optional_bar
from ganfuse.engine.game import Game
from ganfuse.engine.metrics.drawn_images import apply_standing_statistics, class_labels, data_texts, drawn_batches
from ganfuse.engine.metrics.extractor import Extracted, Extractor
from ganfuse.engine.metrics.feature_checks import check_positive
from ganfuse.engine.metrics.image_batches import chosen_indices, image_batches
from ganfuse.engine.metrics.scores import check_metrics, compute_scores
from ganfuse.version import __version__

__all__ = ["Evaluator", "extract_features"]


class Evaluator:
    """Scores games against one data set with one extractor; the features of the real images are computed once.

    Args:
        extractor: on the device where it is to run.
        data: real images to compare with.
        metrics: keys of `ganfuse.engine.metrics.METRICS`.
        num: images of each kind; as many real ones as there are if there are fewer.
        batch_size: images at a time. The images that a game draws depend on it.
        seed: of the choice of real images, of latents and classes, and of subsets.
        progress: show bars on a terminal's stderr.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        extractor: Extractor,
        data: ImageData,
        metrics: Sequence[str],
        *,
        num: int,
        batch_size: int = 64,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        check_positive(num=num, batch_size=batch_size)
        self.extractor = extractor
        self.data = data
        self.metrics = check_metrics(metrics)
        self.num = num
        self.batch_size = batch_size
        self.seed = seed
        self.progress = progress
        self._real: Extracted | None = None
        self._labels: dict[int | None, Tensor | None] = {}

    def real_features(self) -> Extracted:
        """Features of the real images. The first call computes them."""
        if self._real is None:
            indices = chosen_indices(len(self.data), self.num, self.seed)
            batches = image_batches(self.data, indices, self.batch_size)
            self._real = extract_features(
                self.extractor, batches, len(indices), what="real images", progress=self.progress
            )
        return self._real

    def evaluate(
        self, game: Game, *, truncation: float | None = None, standing_statistics: int = 0
    ) -> dict[str, float]:
        """Draws images of the game and scores them.

        Of a game that can reconstruct images there is "reconstruction" as well: the mean absolute difference to the
        real images, in [-1, 1].

        Args:
            game: as it is to be scored, its weights and statistics included.
            truncation: see `drawn_batches`.
            standing_statistics: batches from which the generator's running statistics are taken first, which changes
                them; 0 leaves them. See `ganfuse.engine.standing_statistics`.

        Raises:
            ValueError: the game and the data, or the metrics and the extractor, do not go together.
        """
        drawn: dict[str, Any] = {"batch_size": self.batch_size, "seed": self.seed, "truncation": truncation}
        drawn |= {"labels": self._class_labels(game), "texts": data_texts(game, self.data)}
        if standing_statistics:
            apply_standing_statistics(game, standing_statistics, **drawn)
        real = self.real_features()
        batches = drawn_batches(game, self.num, **drawn)
        fake = extract_features(self.extractor, batches, self.num, what="generated images", progress=self.progress)
        scores = compute_scores(self.metrics, real, fake, seed=self.seed)
        reconstruct = getattr(game, "reconstruct", None)
        return scores | {"reconstruction": self._lost_by(game, reconstruct)} if callable(reconstruct) else scores

    def _lost_by(self, game: Game, reconstruct: Callable[[Tensor], Tensor]) -> float:
        parameter = next(game.parameters())
        indices = chosen_indices(len(self.data), self.num, self.seed)
        total = 0.0
        for pixels in image_batches(self.data, indices, self.batch_size):
            images = pixels.to(parameter.device, parameter.dtype).div_(127.5).sub_(1.0)
            total += float((reconstruct(images) - images).abs().mean()) * len(images)
        return total / len(indices)

    def _class_labels(self, game: Game) -> Tensor | None:
        classes = getattr(game, "num_classes", None)
        # Kept, since a data set that has no list of its labels must be gone through for them.
        if classes not in self._labels:
            self._labels[classes] = class_labels(game, self.data)
        return self._labels[classes]

    def describe(self) -> dict[str, Any]:
        """What is stored beside the scores: two scores can be compared where all of this is equal but the versions."""
        return {
            "extractor": self.extractor.describe(),
            "data": str(getattr(self.data, "name", type(self.data).__name__)),
            "num_real": min(self.num, len(self.data)),
            "num_fake": self.num,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "versions": {"ganfuse": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        }


def extract_features(
    extractor: Extractor, batches: Iterable[Tensor], total: int, *, what: str = "images", progress: bool = False
) -> Extracted:
    """Features of all images of the batches, uint8 (B, C, H, W), on the extractor's device, or the CPU if that has no
    float64.

    Args:
        total: how many images there are, for the bar.
        what: they are called there.
        progress: draw it.
    """
    with optional_bar(f"Features of {what}", total, progress) as advance:
        parts = []
        for batch in batches:
            parts.append(extractor(batch))
            advance(len(batch))
    probabilities = [part.probabilities for part in parts if part.probabilities is not None]
    return Extracted(_joined([part.features for part in parts]), _joined(probabilities) if probabilities else None)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    together = torch.cat(list(parts))
    return together.cpu() if together.device.type == "mps" else together
