"""Games that draw images from latents, with or without classes: the generator's half of noise to image."""

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.game import Game, evaluation_mode
from ganfuse.engine.noise import Noise

__all__ = ["LATENTS", "LatentGame", "takes_labels"]

LATENTS = ("normal", "uniform")

logger = logging.getLogger(__name__)


class LatentGame(Game):
    """What a generator is called with, in turns and for samples. Players and turns are for subclasses.

    Args:
        generator: z (B, *latent_shape) to images (B, C, H, W) in [-1, 1], called with labels, too, if its `forward` has
            a place for them and there are classes.
        latent_dim: size of z, or its shape without the batch; None reads `generator.latent_dim`.
        num_classes: number of classes, or None.
        latent: "normal", N(0, 1), or "uniform", U(-1, 1).

    Attributes:
        generator, latent, num_classes: as given.
        latent_shape: of z, without the batch.
        generator_takes_labels: whether the generator is called with labels.
        class_shares: how often each class is drawn at random, (num_classes,); None without classes. Alike, but for
            those that the data have no images of, which are never drawn: the discriminator has nothing to compare them
            with. All alike before the game has met its data.

    Raises:
        ValueError: names the argument.
    """

    #: Tensors of the state that checkpoints of earlier versions do not have.
    newer_tensors = ("class_shares",)
    class_shares: Tensor | None
    _drawn_classes: Tensor | None

    def __init__(
        self,
        generator: nn.Module,
        *,
        latent_dim: int | Sequence[int] | None = None,
        num_classes: int | None = None,
        latent: str = "normal",
    ) -> None:
        super().__init__()
        if latent not in LATENTS:
            raise ValueError(f"latent: expected one of {', '.join(map(repr, LATENTS))}, got {latent!r}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes: expected a positive number or None, got {num_classes!r}")
        self.generator = generator
        self.latent_shape = _latent_shape(latent_dim, generator)
        self.latent = latent
        self.num_classes = num_classes
        self.generator_takes_labels = takes_labels(generator, "generator", num_classes)
        alike = None if num_classes is None else torch.full((num_classes,), 1.0 / num_classes)
        self.register_buffer("class_shares", alike)
        # None: all of them.
        self.register_buffer("_drawn_classes", None, persistent=False)
        self.register_load_state_dict_post_hook(_find_drawn_classes)  # type: ignore[no-untyped-call]

    @property
    def drawn_classes(self) -> list[int]:
        """The classes that are drawn at random; empty for a game without classes."""
        if self._drawn_classes is not None:
            return [int(label) for label in self._drawn_classes.tolist()]
        return list(range(self.num_classes or 0))

    def sample(
        self,
        n: int,
        *,
        labels: Tensor | Sequence[int] | int | None = None,
        rng: torch.Generator | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """See `Game.sample`. `batch_size` bounds the memory; the samples do not depend on it."""
        if n < 1:
            raise ValueError(f"n: expected a positive number of images, got {n}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size: expected a positive number or None, got {batch_size}")
        # Labels first, whether they are drawn or not: then the same generator gives the same latents either way.
        noise = Noise(rng)
        drawn = self.draw_labels(n, noise)
        chosen = drawn if labels is None else self._checked_labels(labels, n)
        latents = self.draw_latents(n, noise)
        size = batch_size or n
        chunks = []
        with evaluation_mode(self.generator):
            for start in range(0, n, size):
                part = slice(start, start + size)
                chunks.append(self.generate(latents[part], None if chosen is None else chosen[part]))
        return torch.cat(chunks)

    def preview(self, n: int, *, rng: torch.Generator) -> tuple[Tensor, int | None]:
        """One column per class where that fills the grid well, else classes spread evenly over the images."""
        classes = self.drawn_classes
        count = len(classes)
        if count < 2:
            return self.sample(n, rng=rng), None
        if count * count <= 2 * n:
            n -= n % count
            return self.sample(n, labels=[classes[i % count] for i in range(n)], rng=rng), count
        return self.sample(n, labels=[classes[i * count // n] for i in range(n)], rng=rng), None

    def check_data(self, data: Any) -> None:
        """Refuses data with more classes, or none; with fewer, says so and draws no labels of the others from here on.

        More classes than the data have is what begins when weights of many classes are trained on for a few.
        """
        if self.num_classes is None:
            return
        classes = getattr(data, "num_classes", None)
        if classes is not None and classes > self.num_classes:
            raise ValueError(f"num_classes: the data has {classes} classes, the game was made for {self.num_classes}")
        if classes is not None and classes < 2 <= self.num_classes:
            raise ValueError(f"num_classes: the data has no classes, the game was made for {self.num_classes}")
        counts = _images_by_class(data, self.num_classes)
        if counts is None:
            return
        assert self.class_shares is not None
        self.class_shares.copy_(self.shares_of_classes(counts))
        _find_drawn_classes(self)
        absent = torch.nonzero(counts == 0)[:, 0].tolist()
        if absent:
            named = ", ".join(map(str, absent[:10])) + (", ..." if len(absent) > 10 else "")
            logger.warning(
                "num_classes: the game has %d classes, the data has images of %d; the other %d (%s) are not drawn in "
                "training, and nothing is learnt about them",
                self.num_classes, self.num_classes - len(absent), len(absent), named,
            )  # fmt: skip

    def shares_of_classes(self, counts: Tensor) -> Tensor:
        """What `class_shares` becomes for data with so many images of each class, int64 (num_classes,)."""
        occurring = counts > 0
        return occurring / occurring.sum()

    def draw_latents(self, n: int, noise: Noise) -> Tensor:
        """z, (n, *latent_shape), on the generator's device. Drawn where `noise` lives, so that a CPU seed fits all."""
        parameter = next((p for p in self.generator.parameters() if p.is_floating_point()), None)
        dtype = None if parameter is None else parameter.dtype
        draw = noise.normal if self.latent == "normal" else noise.uniform
        z = draw(n, *self.latent_shape, dtype=dtype)
        z = z if parameter is None else z.to(parameter.device)
        return z if self.latent == "normal" else z.mul(2.0).sub(1.0)

    def draw_labels(self, n: int, noise: Noise) -> Tensor | None:
        """Labels for generated images, int64 (n,), uniform over `drawn_classes`; None for a game without classes."""
        if self.num_classes is None:
            return None
        device = next(self.parameters()).device
        classes = self._drawn_classes
        if classes is None:
            return noise.integers(self.num_classes, n).to(device)
        return classes.to(device)[noise.integers(len(classes), n).to(device)]

    def draw_images(self, n: int, labels: Tensor | None, noise: Noise) -> Tensor:
        """Generated images for a turn; whatever else than latents a system draws for them, it draws here."""
        return self.generate(self.draw_latents(n, noise), labels)

    def generate(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """Images from latents, with the labels if the generator takes them."""
        takes = (labels,) if self.generator_takes_labels else ()
        images: Tensor = self.generator(z, *takes, **self.generator_options())
        return images

    def generator_options(self) -> dict[str, Any]:
        """Further arguments with which the generator is called at present. None by default."""
        return {}

    def _checked_labels(self, labels: Tensor | Sequence[int] | int, n: int) -> Tensor:
        if self.num_classes is None:
            raise ValueError("labels: this game has no classes; leave labels out")
        chosen = torch.as_tensor(labels, dtype=torch.int64, device=next(self.parameters()).device)
        chosen = chosen.expand(n) if chosen.ndim == 0 else chosen
        if chosen.shape != (n,):
            raise ValueError(f"labels: expected {n} labels or a single one, got shape {tuple(chosen.shape)}")
        low, high = int(chosen.min()), int(chosen.max())
        if low < 0 or high >= self.num_classes:
            raise ValueError(f"labels: expected values from 0 to {self.num_classes - 1}, got {low} to {high}")
        return chosen


def _latent_shape(latent_dim: int | Sequence[int] | None, generator: nn.Module) -> tuple[int, ...]:
    if latent_dim is None:
        latent_dim = getattr(generator, "latent_dim", None)
        if latent_dim is None:
            raise ValueError("latent_dim: give the size of z, since the generator has no attribute latent_dim")
    shape = (latent_dim,) if isinstance(latent_dim, int) else tuple(latent_dim)
    if not shape or any(size < 1 for size in shape):
        raise ValueError(f"latent_dim: expected positive sizes, got {latent_dim!r}")
    return shape


def _images_by_class(data: Any, num_classes: int) -> Tensor | None:
    """How many images of each class the data have, int64 (num_classes,); None if they do not say.

    Raises:
        ValueError: there are labels of other classes.
    """
    labels, classes = getattr(data, "labels", None), getattr(data, "num_classes", None)
    if labels is None:
        return None if classes is None else (torch.arange(num_classes) < classes).long()
    found = torch.as_tensor(labels).flatten().long()
    if len(found) and not 0 <= int(found.min()) <= int(found.max()) < num_classes:
        raise ValueError(
            f"labels: expected values from 0 to {num_classes - 1}, the data has {int(found.min())} to "
            f"{int(found.max())}"
        )
    return torch.bincount(found.cpu(), minlength=num_classes)


def _find_drawn_classes(game: LatentGame, _: object = None) -> None:
    """Which classes the shares leave over, found once: a turn must not wait for the device to say so."""
    if game.class_shares is None or game.class_shares.is_meta:
        return
    drawn = torch.nonzero(game.class_shares)[:, 0]
    game._drawn_classes = None if len(drawn) == len(game.class_shares) else drawn


def takes_labels(network: nn.Module, role: str, num_classes: int | None) -> bool:
    """Whether to call the network with labels: it has classes, and its forward has a place for a second argument."""
    places = [
        p
        for p in inspect.signature(network.forward).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in places)
    if num_classes is None and len(places) > 1 and not variadic and places[1].default is inspect.Parameter.empty:
        raise ValueError(f"num_classes: the {role}'s forward demands labels ({places[1].name!r}), so give num_classes")
    return num_classes is not None and (variadic or len(places) > 1)
