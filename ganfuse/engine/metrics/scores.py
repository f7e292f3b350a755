"""The scores by the names under which they are asked for, recorded and shown."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ganfuse.engine.metrics.extractor import Extracted
from ganfuse.engine.metrics.fid import frechet_distance
from ganfuse.engine.metrics.inception_scores import inception_score
from ganfuse.engine.metrics.kid import kernel_distance
from ganfuse.engine.metrics.nearest_neighbors import density_coverage, precision_recall

__all__ = ["METRICS", "Metric", "check_metrics", "compute_scores", "default_metrics"]


@dataclass(frozen=True)
class Metric:
    """A score, or two that go together.

    Attributes:
        values: what its values are called; the first is the main one.
        compute: real and generated features, and a seed, to the values.
        title: in words.
        higher_is_better: of the main value.
        needs_probabilities: it needs an extractor that is a classifier.
        least_images: of each kind.
    """

    values: tuple[str, ...]
    compute: Callable[[Extracted, Extracted, int], tuple[float, ...]]
    title: str
    higher_is_better: bool
    needs_probabilities: bool = False
    least_images: int = 2


def _fid(real: Extracted, fake: Extracted, seed: int) -> tuple[float, ...]:
    return (frechet_distance(real.features, fake.features),)


def _kid(real: Extracted, fake: Extracted, seed: int) -> tuple[float, ...]:
    return kernel_distance(real.features, fake.features, seed=seed)


def _is(real: Extracted, fake: Extracted, seed: int) -> tuple[float, ...]:
    assert fake.probabilities is not None
    return inception_score(fake.probabilities)


def _pr(real: Extracted, fake: Extracted, seed: int) -> tuple[float, ...]:
    return precision_recall(real.features, fake.features)


def _dc(real: Extracted, fake: Extracted, seed: int) -> tuple[float, ...]:
    return density_coverage(real.features, fake.features)


METRICS = {
    "fid": Metric(("fid",), _fid, "Fréchet distance", higher_is_better=False),
    "kid": Metric(("kid", "kid_std"), _kid, "kernel distance", higher_is_better=False),
    "is": Metric(
        ("is", "is_std"), _is, "Inception Score", higher_is_better=True, needs_probabilities=True, least_images=10
    ),
    "pr": Metric(("precision", "recall"), _pr, "precision and recall", higher_is_better=True, least_images=4),
    "dc": Metric(("density", "coverage"), _dc, "density and coverage", higher_is_better=True, least_images=6),
}


def default_metrics(gives_probabilities: bool) -> tuple[str, ...]:
    """All that an extractor can serve."""
    return tuple(name for name, metric in METRICS.items() if gives_probabilities or not metric.needs_probabilities)


def check_metrics(names: Sequence[str]) -> tuple[str, ...]:
    """The names, each once.

    Raises:
        ValueError: there is none, or one that is unknown.
    """
    for name in names:
        if name not in METRICS:
            near = difflib.get_close_matches(name, METRICS, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"metrics: there is none called {name!r}{meant} (known: {', '.join(METRICS)})")
    if not names:
        raise ValueError(f"metrics: expected at least one of {', '.join(METRICS)}")
    return tuple(dict.fromkeys(names))


def compute_scores(names: Sequence[str], real: Extracted, fake: Extracted, *, seed: int = 0) -> dict[str, float]:
    """The values of the named metrics, computed in float64.

    Args:
        names: keys of `METRICS`.
        real, fake: features of both kinds of images, on one device.
        seed: of the subsets that some draw.

    Raises:
        ValueError: too few images, or a metric that the extractor cannot serve.
    """
    fewest = min(len(real.features), len(fake.features))
    for name in check_metrics(names):
        metric = METRICS[name]
        if metric.needs_probabilities and fake.probabilities is None:
            raise ValueError(f"metrics: {name!r} needs an extractor with class probabilities, such as 'classifier'")
        if fewest < metric.least_images:
            least = metric.least_images
            raise ValueError(f"metrics: {name!r} needs at least {least} images of each kind, got {fewest}")
    scores: dict[str, float] = {}
    with torch.no_grad():
        for name in check_metrics(names):
            scores.update(zip(METRICS[name].values, METRICS[name].compute(real, fake, seed)))
    return scores
