"""Images that a game draws, to be scored: with the data's mixture of classes, in batches, reproducibly."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.batches import ImageData
from ganfuse.engine.game import Game
from ganfuse.engine.metrics.image_batches import data_labels, to_uint8
from ganfuse.engine.seeding import make_generator
from ganfuse.engine.standing_statistics import collect_standing_statistics, has_running_statistics

__all__ = ["DataTexts", "apply_standing_statistics", "class_labels", "data_texts", "drawn_batches", "require_drawable"]


@dataclass(frozen=True)
class DataTexts:
    """The texts of a data set's images.

    Attributes:
        count: of the images.
        of: places of images to their texts' embeddings, (N, features).
    """

    count: int
    of: Callable[[Sequence[int]], Tensor]


def data_texts(game: Game, data: ImageData) -> DataTexts | None:
    """The texts of the data set, to draw images of as often as they occur; None for a game that draws of no texts."""
    texts_of = getattr(game, "texts_of", None)
    if not callable(texts_of):
        return None
    return DataTexts(len(data), partial(texts_of, data))


def class_labels(game: Game, data: ImageData) -> Tensor | None:
    """The labels of the data set, to draw classes from as often as they occur; None for a game without classes.

    Raises:
        ValueError: the classes of the data are not those of the game.
    """
    classes = getattr(game, "num_classes", None)
    if classes is None:
        return None
    labels = data_labels(data)
    found = getattr(data, "num_classes", None) or int(labels.max()) + 1
    if found > classes or found == 1 < classes:
        raise ValueError(f"data: the game draws {classes} classes, the data has {found}")
    return labels


def drawn_batches(
    game: Game,
    num: int,
    *,
    labels: Tensor | None,
    batch_size: int,
    seed: int,
    truncation: float | None = None,
    domain: str | None = None,
    texts: DataTexts | None = None,
) -> Iterator[Tensor]:
    """`num` images of a game, uint8 (B, C, H, W), some at a time.

    They depend on `batch_size` as well as on `seed`, since latents are drawn batch by batch.

    Args:
        labels: of a data set: each image is of the class of one of them, chosen at random; None lets the game choose.
        truncation: for games that know how to truncate their latents.
        domain: for games that draw images of two domains.
        texts: of a data set: each image is of one of them, chosen at random; None lets the game choose.

    Raises:
        ValueError: the game cannot draw from noise, or cannot truncate.
    """
    options = _options(game, truncation)
    if domain is not None:
        options["domain"] = domain
    # On the CPU, so that a GPU draws the same images.
    rng = make_generator(torch.device("cpu"), seed, "evaluation")
    for start in range(0, num, batch_size):
        n = min(batch_size, num - start)
        if labels is not None:
            options["labels"] = labels[torch.randint(len(labels), (n,), generator=rng)]
        if texts is not None:
            options["embeddings"] = texts.of(torch.randint(texts.count, (n,), generator=rng).tolist())
        yield to_uint8(_draw(game, n, rng, options))


def require_drawable(game: Game, *, truncation: float | None = None, standing_statistics: int = 0) -> None:
    """Draws one image, to know at once whether the game can.

    Raises:
        ValueError: see `drawn_batches`; or statistics are asked for that the generator does not have.
    """
    if standing_statistics and not has_running_statistics(_generator_of(game)):
        raise ValueError(f"standing_statistics: {game.name!r} has no batch normalisation, so no statistics to take")
    for _ in drawn_batches(game, 1, labels=None, batch_size=1, seed=0, truncation=truncation):
        pass


def apply_standing_statistics(
    game: Game,
    num_batches: int,
    *,
    labels: Tensor | None,
    batch_size: int,
    seed: int,
    truncation: float | None = None,
    texts: DataTexts | None = None,
) -> None:
    """Replaces the generator's running statistics by those of images drawn as `drawn_batches` draws them.

    See `ganfuse.engine.standing_statistics`.

    Raises:
        ValueError: the game has no part called generator; or as for `drawn_batches`.
    """
    generator = _generator_of(game)
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        calls.append((arguments, keywords))

    # Drawing sets the generator to evaluation mode, in which statistics stand still. So what it is called with is noted
    # first, whatever its latents are, and then run through it once more.
    handle = generator.register_forward_pre_hook(note, with_kwargs=True)
    try:
        drawn: dict[str, Any] = {"labels": labels, "texts": texts, "truncation": truncation, "seed": seed}
        for _ in drawn_batches(game, num_batches * batch_size, batch_size=batch_size, **drawn):
            pass
    finally:
        handle.remove()
    if not calls:
        raise ValueError(f"standing_statistics: the game {game.name!r} draws images without its generator")
    collect_standing_statistics(
        generator, lambda i: generator(*calls[i][0], **calls[i][1]), len(calls), show_progress=False
    )


def _generator_of(game: Game) -> nn.Module:
    generator = getattr(game, "generator", None)
    if not isinstance(generator, nn.Module):
        raise ValueError(f"standing_statistics: the game {game.name!r} has no part called generator")
    return generator


def _options(game: Game, truncation: float | None) -> dict[str, Any]:
    sample = getattr(game, "sample", None)
    if not callable(sample):
        raise ValueError(_not_from_noise(game))
    if truncation is None:
        return {}
    if "truncation" not in inspect.signature(sample).parameters:
        raise ValueError(f"truncation: the game {game.name!r} cannot truncate its latents")
    return {"truncation": truncation}


def _draw(game: Game, n: int, rng: torch.Generator, options: dict[str, Any]) -> Tensor:
    try:
        return game.sample(n, rng=rng, **options)
    except NotImplementedError as error:
        raise ValueError(_not_from_noise(game)) from error


def _not_from_noise(game: Game) -> str:
    return f"game: {game.name!r} does not draw images from noise (it translates images), so there is nothing to score"
