"""Signs of memorisation and collapse: the discriminator on held-out images, and the largest singular values.

Brock et al. 2019, "Large Scale GAN Training for High Fidelity Natural Image Synthesis", arXiv:1809.11096, section 4:
their discriminator judged 98 % of the training images right and only 50 to 55 % of held-out ones, so it remembered the
training set; and the singular values of the generator's weights grew without bound when training collapsed.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ganfuse.engine.adversarial import AdversarialGame
from ganfuse.engine.batches import ImageData
from ganfuse.engine.game import Game, evaluation_mode
from ganfuse.engine.metrics.drawn_images import class_labels
from ganfuse.engine.metrics.feature_checks import check_positive
from ganfuse.engine.metrics.image_batches import chosen_indices, read_images
from ganfuse.engine.seeding import make_generator
from ganfuse.engine.singular_values import LogSingularValues

if TYPE_CHECKING:
    from ganfuse.engine.trainer import Trainer

__all__ = ["CollapseMonitor", "discriminator_on_held_out", "require_judge"]


def require_judge(game: Game) -> None:
    """Raises ValueError for a game that has no discriminator of images, and labels at most, to ask."""
    if not callable(getattr(game, "discriminate", None)):
        raise ValueError(f"game: {game.name!r} has no method discriminate(images, labels)")
    if not getattr(game, "judges_images", True):
        raise ValueError(f"game: the discriminator of {game.name!r} does not judge images by themselves")


def discriminator_on_held_out(
    game: Game,
    train_data: ImageData,
    held_out: ImageData,
    n: int = 500,
    *,
    threshold: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """How a discriminator judges real images that it was trained on, such that it was not, and generated ones.

    Args:
        game: with a method ``discriminate(images, labels)`` → logits, such as `AdversarialGame`; it judges with its
            present weights, in evaluation mode.
        train_data: what it was trained on.
        held_out: images of the same kind that it was not trained on.
        n: images of each kind; fewer where a data set has fewer.
        threshold: logits above it mean "real": 0 for the hinge and logistic losses, ½ for least squares. A Wasserstein
            critic's have no zero; there only differences of the means say something.
        batch_size: images at a time.
        seed: of the choice of images and latents.

    Returns:
        For "train", "held_out" and "fake" the mean logit ("train_logit"...) and the share that is judged right
        ("train_accuracy"...); and "memorisation", train_accuracy - held_out_accuracy: 0 where nothing is remembered.

    Raises:
        ValueError: the game has no discriminator to ask, or does not go with the data.
    """
    check_positive(n=n, batch_size=batch_size)
    require_judge(game)
    discriminate = cast("_Discriminate", game.discriminate)
    labels = class_labels(game, train_data)
    found = {}
    with evaluation_mode(game):
        for kind, data in (("train", train_data), ("held_out", held_out)):
            logits = _judge_real(game, discriminate, data, n, batch_size, seed)
            found[f"{kind}_logit"] = float(logits.mean())
            found[f"{kind}_accuracy"] = float((logits > threshold).double().mean())
        logits = _judge_fakes(game, discriminate, labels, n, batch_size, seed)
    found["fake_logit"] = float(logits.mean())
    found["fake_accuracy"] = float((logits <= threshold).double().mean())
    found["memorisation"] = found["train_accuracy"] - found["held_out_accuracy"]
    return found


class CollapseMonitor:
    """A hook of `Trainer` that logs `discriminator_on_held_out` as "collapse/memorisation" and so on.

    The top singular values of all weights are logged with it, see `LogSingularValues`.

    Args:
        held_out: images of the kind that is trained on, that the trainer does not get.
        every: steps between.
        n, threshold, batch_size, seed: see `discriminator_on_held_out`.
        singular_values: how many of each weight; 0 logs none.
        modules: names of the modules of the game whose singular values are logged; by default all of it.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        held_out: ImageData,
        every: int = 1000,
        *,
        n: int = 500,
        threshold: float = 0.0,
        batch_size: int = 64,
        seed: int = 0,
        singular_values: int = 3,
        modules: Sequence[str] = ("",),
    ) -> None:
        check_positive(every=every, n=n, batch_size=batch_size)
        if singular_values < 0:
            raise ValueError(f"singular_values: expected a number of at least 0, got {singular_values}")
        self.held_out = held_out
        self.every = every
        self.n = n
        self.threshold = threshold
        self.batch_size = batch_size
        self.seed = seed
        self._singular_values = LogSingularValues(every, singular_values, modules) if singular_values else None

    def __call__(self, trainer: "Trainer") -> None:
        if trainer.step % self.every or not trainer.processes.is_first:
            return
        with trainer.global_randomness.aside("collapse monitor", self.seed):
            found = discriminator_on_held_out(
                trainer.game,
                trainer.data,
                self.held_out,
                self.n,
                threshold=self.threshold,
                batch_size=self.batch_size,
                seed=self.seed,
            )
        trainer.note("collapse", {name: torch.tensor(value) for name, value in found.items()})
        if self._singular_values is not None:
            self._singular_values(trainer)


def _at_present_size(game: Game, images: Tensor, *, real: bool) -> Tensor:
    return game.at_present_size(images, real=real) if isinstance(game, AdversarialGame) else images


_Discriminate = Callable[[Tensor, Tensor | None], Tensor]


def _judge_real(game: Game, discriminate: _Discriminate, data: ImageData, n: int, batch_size: int, seed: int) -> Tensor:
    indices = chosen_indices(len(data), n, seed)
    like = next(game.parameters())
    parts = []
    for start in range(0, len(indices), batch_size):
        images, labels = read_images(data, indices[start : start + batch_size])
        scaled = images.to(like.device).to(like.dtype).div_(127.5).sub_(1.0)
        parts.append(
            discriminate(_at_present_size(game, scaled, real=True), _given(game, labels)).double().flatten().cpu()
        )
    return torch.cat(parts)


def _judge_fakes(
    game: Game, discriminate: _Discriminate, labels: Tensor | None, n: int, batch_size: int, seed: int
) -> Tensor:
    rng = make_generator(torch.device("cpu"), seed, "collapse monitor")
    parts = []
    for start in range(0, n, batch_size):
        count = min(batch_size, n - start)
        chosen = None if labels is None else labels[torch.randint(len(labels), (count,), generator=rng)]
        options: dict[str, Any] = {} if chosen is None else {"labels": chosen}
        # Not rounded to uint8: in training the discriminator sees them as they are.
        images = _at_present_size(game, game.sample(count, rng=rng, **options), real=False)
        parts.append(discriminate(images, _given(game, chosen)).double().flatten().cpu())
    return torch.cat(parts)


def _given(game: Game, labels: Tensor | None) -> Tensor | None:
    if getattr(game, "num_classes", None) is None or labels is None:
        return None
    return labels.to(next(game.parameters()).device)
