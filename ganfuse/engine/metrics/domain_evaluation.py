"""Scores of games of two domains: what is generated in each against its real images, and what translation loses."""

import inspect
import platform
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.batches import ImageData
from ganfuse.engine.domains import are_paired, central_square, domains_of
from ganfuse.engine.game import Game
from ganfuse.engine.metrics.drawn_images import apply_standing_statistics, drawn_batches
from ganfuse.engine.metrics.evaluation import extract_features
from ganfuse.engine.metrics.extractor import Extracted, Extractor
from ganfuse.engine.metrics.feature_checks import check_positive
from ganfuse.engine.metrics.image_batches import chosen_indices, read_images, to_uint8
from ganfuse.engine.metrics.scores import check_metrics, compute_scores
from ganfuse.engine.translation import DIRECTIONS, TranslationGame, l1
from ganfuse.version import __version__

__all__ = ["DomainEvaluator", "has_domains"]

_DEVIATION = "_std"


def has_domains(game: Game) -> bool:
    """Whether the game is one of two domains: it translates, or draws images of each."""
    return game.data_kind in ("unpaired", "paired")


class DomainEvaluator:
    """Scores games against a data set of two domains; the features of the real images are computed once.

    Of each metric there is the mean, under its own name, and the value of each domain: of translations "fid_ab" (A's
    images translated, against those of B) and "fid_ba", of games that draw images of both domains "fid_a" and "fid_b".
    Games that translate have two errors more, mean absolute differences of images in [-1, 1]: "cycle_a", "cycle_b" of
    images that went to the other domain and back; and where the data are pairs, "paired_ab", "paired_ba" between a
    translation and the image that belongs to it. Of a game that adapts a classifier from A to B there are "accuracy_a"
    and "accuracy_b", the shares of real images that are of the class that it says.

    Args:
        extractors: for domain A and for domain B, on the device where they are to run.
        data: of two domains.
        metrics: keys of `ganfuse.engine.metrics.METRICS`.
        num: images of each kind; as many as the smaller domain has if that is less.
        batch_size: images at a time.
        seed: of the choice of images, of latents, and of subsets.
        progress: show bars on a terminal's stderr.

    Raises:
        ValueError: an argument is out of range, or the data have not two domains.
    """

    def __init__(
        self,
        extractors: tuple[Extractor, Extractor],
        data: ImageData,
        metrics: Sequence[str],
        *,
        num: int,
        batch_size: int = 64,
        seed: int = 0,
        progress: bool = False,
    ) -> None:
        check_positive(num=num, batch_size=batch_size)
        self.extractors = extractors
        self.data = data
        self.domains = domains_of(data)
        self.paired = are_paired(data)
        self.metrics = check_metrics(metrics)
        self.num = min(num, *map(len, self.domains))
        self.batch_size = batch_size
        self.seed = seed
        self.progress = progress
        # By domain and side of the images: a game that crops is compared with what it was trained on.
        self._real: dict[tuple[int, int | None], Extracted] = {}

    def evaluate(
        self, game: Game, *, truncation: float | None = None, standing_statistics: int = 0
    ) -> dict[str, float]:
        """Scores a game as it is, its weights and statistics included.

        Args:
            game: one that translates, or whose `sample` takes the `domain` to draw from.
            truncation, standing_statistics: of games that draw; see `Evaluator.evaluate`.

        Raises:
            ValueError: the game and the data, or the metrics and the extractors, do not go together.
        """
        if isinstance(game, TranslationGame):
            if truncation is not None or standing_statistics:
                key = "truncation" if truncation is not None else "standing_statistics"
                raise ValueError(f"{key}: {game.name} translates images, there are no latents to draw")
            return self._translations(game)
        if "domain" not in inspect.signature(game.sample).parameters:
            raise ValueError(f"game: {game.name} neither translates images nor draws them by domain")
        if standing_statistics:
            apply_standing_statistics(
                game,
                standing_statistics,
                labels=None,
                batch_size=self.batch_size,
                seed=self.seed,
                truncation=truncation,
            )
        scores = {}
        for index, domain in enumerate("ab"):
            batches = drawn_batches(
                game,
                self.num,
                labels=None,
                batch_size=self.batch_size,
                seed=self.seed,
                truncation=truncation,
                domain=domain,
            )
            scores[domain] = self._compare(index, batches, None, f"images of {domain.upper()}")
        return _together(scores) | (self._accuracies(game) if getattr(game, "classifies", False) else {})

    def describe(self) -> dict[str, Any]:
        """What is stored beside the scores; of the extractors what differs is a list, of A's and of B's."""
        first, second = (extractor.describe() for extractor in self.extractors)
        both = {key: value if second.get(key) == value else [value, second.get(key)] for key, value in first.items()}
        return {
            "extractor": both,
            "data": str(getattr(self.data, "name", type(self.data).__name__)),
            "paired": self.paired,
            "num_real": self.num,
            "num_fake": self.num,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "versions": {"ganfuse": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
        }

    def _accuracies(self, game: Any) -> dict[str, float]:
        parameter = next(game.parameters())
        right = {"a": 0, "b": 0}
        for index, domain in enumerate(right):
            indices = self._chosen(index)
            for start in range(0, len(indices), self.batch_size):
                pixels, labels = read_images(self.domains[index], indices[start : start + self.batch_size])
                images = pixels.to(parameter.device, parameter.dtype).div_(127.5).sub_(1.0)
                right[domain] += int((game.classify(images, domain=domain).argmax(1).cpu() == labels).sum())
        return {f"accuracy_{domain}": count / self.num for domain, count in right.items()}

    def _translations(self, game: TranslationGame) -> dict[str, float]:
        side = game.training_size
        scores, errors = {}, {}
        for source, direction in enumerate(DIRECTIONS):
            lost = _Errors()
            batches = self._translated(game, source, direction, lost)
            scores[direction] = self._compare(1 - source, batches, side, f"translations {direction}")
            errors[f"cycle_{direction[0]}"] = lost.cycle / self.num
            if self.paired:
                errors[f"paired_{direction}"] = lost.paired / self.num
        return _together(scores) | dict(sorted(errors.items()))

    def _translated(self, game: TranslationGame, source: int, direction: str, lost: "_Errors") -> Iterator[Tensor]:
        parameter = next(game.parameters())

        def read(domain: int, some: list[int]) -> Tensor:
            pixels = central_square(read_images(self.domains[domain], some)[0], game.training_size)
            return pixels.to(parameter.device, parameter.dtype).div_(127.5).sub_(1.0)

        indices = self._chosen(source)
        for start in range(0, len(indices), self.batch_size):
            some = indices[start : start + self.batch_size]
            images = read(source, some)
            translated = game.translate(images, direction)
            lost.cycle += float(l1(game.translate(translated, direction[::-1]), images)) * len(some)
            if self.paired:
                lost.paired += float(l1(translated, read(1 - source, some))) * len(some)
            yield to_uint8(translated)

    def _chosen(self, domain: int) -> list[int]:
        return chosen_indices(len(self.domains[domain]), self.num, self.seed)

    def _compare(self, domain: int, batches: Iterator[Tensor], side: int | None, what: str) -> dict[str, float]:
        if (domain, side) not in self._real:
            self._real[domain, side] = self._features(domain, self._read(domain, side), "real images")
        fake = self._features(domain, batches, what)
        return compute_scores(self.metrics, self._real[domain, side], fake, seed=self.seed)

    def _read(self, domain: int, side: int | None) -> Iterator[Tensor]:
        indices = self._chosen(domain)
        for start in range(0, len(indices), self.batch_size):
            pixels = read_images(self.domains[domain], indices[start : start + self.batch_size])[0]
            yield pixels if side is None else central_square(pixels, side)

    def _features(self, domain: int, batches: Iterator[Tensor], what: str) -> Extracted:
        return extract_features(self.extractors[domain], batches, self.num, what=what, progress=self.progress)


class _Errors:
    """Sums over images."""

    cycle = 0.0
    paired = 0.0


def _together(scores: dict[str, dict[str, float]]) -> dict[str, float]:
    """Of each value the mean, and then each domain's; deviations are of the domains alone."""
    result: dict[str, float] = {}
    for key in next(iter(scores.values())):
        if key.endswith(_DEVIATION):
            name = key.removesuffix(_DEVIATION)
            result |= {f"{name}_{which}{_DEVIATION}": values[key] for which, values in scores.items()}
        else:
            result[key] = fmean(values[key] for values in scores.values())
            result |= {f"{key}_{which}": values[key] for which, values in scores.items()}
    return result
