"""The evaluator that a game needs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ganfuse.engine.batches import ImageData
from ganfuse.engine.domains import domains_of
from ganfuse.engine.game import Game
from ganfuse.engine.metrics.domain_evaluation import DomainEvaluator, has_domains
from ganfuse.engine.metrics.evaluation import Evaluator
from ganfuse.engine.metrics.extractor import Extractor
from ganfuse.engine.metrics.extractor_choice import choose_extractor
from ganfuse.engine.metrics.scores import default_metrics

__all__ = ["make_evaluator"]

# Of two domains there are two values of each, so fewer.
_OF_DOMAINS = ("fid", "kid")


def make_evaluator(
    game: Game,
    extractor: str | nn.Module | Extractor,
    own: ImageData,
    data: ImageData,
    metrics: Sequence[str] | None,
    *,
    device: torch.device,
    num: int,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Evaluator | DomainEvaluator:
    """An `Evaluator`, or for games of two domains a `DomainEvaluator`.

    Args:
        extractor: see `choose_extractor`; of two domains each has its own.
        own: the data set that the game is trained on, for which the extractor is chosen.
        data: real images to compare with.
        metrics: None: all that the extractor can serve; of two domains FID and KID.
        device: of the extractor.
        num, batch_size, seed, progress: see `Evaluator`.

    Raises:
        ValueError: an argument is out of range, or does not go with the data.
        FileNotFoundError, ModuleNotFoundError: see `choose_extractor`.
    """
    options: dict[str, Any] = {"num": num, "batch_size": batch_size, "seed": seed, "progress": progress}
    if not has_domains(game):
        features = choose_extractor(extractor, own, progress=progress).to(device)
        chosen = default_metrics(features.gives_probabilities) if metrics is None else metrics
        return Evaluator(features, data, chosen, **options)
    first, second = (choose_extractor(extractor, domain, progress=progress).to(device) for domain in domains_of(own))
    return DomainEvaluator((first, second), data, _OF_DOMAINS if metrics is None else metrics, **options)
