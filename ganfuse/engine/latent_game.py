"""Games that draw images from latents, with or without classes: the generator's half of noise to image."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.game import Game, evaluation_mode
from ganfuse.engine.noise import Noise

__all__ = ["LATENTS", "LatentGame", "takes_labels"]

LATENTS = ("normal", "uniform")


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

    Raises:
        ValueError: names the argument.
    """

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
        classes = self.num_classes
        if classes is None or classes == 1:
            return self.sample(n, rng=rng), None
        if classes * classes <= 2 * n:
            n -= n % classes
            return self.sample(n, labels=[i % classes for i in range(n)], rng=rng), classes
        return self.sample(n, labels=[i * classes // n for i in range(n)], rng=rng), None

    def check_data(self, data: Any) -> None:
        classes = getattr(data, "num_classes", None)
        if self.num_classes is not None and classes is not None and classes > self.num_classes:
            raise ValueError(f"num_classes: the data has {classes} classes, the game was made for {self.num_classes}")
        if self.num_classes is not None and classes is not None and classes < 2 <= self.num_classes:
            raise ValueError(f"num_classes: the data has no classes, the game was made for {self.num_classes}")

    def draw_latents(self, n: int, noise: Noise) -> Tensor:
        """z, (n, *latent_shape), on the generator's device. Drawn where `noise` lives, so that a CPU seed fits all."""
        parameter = next((p for p in self.generator.parameters() if p.is_floating_point()), None)
        dtype = None if parameter is None else parameter.dtype
        draw = noise.normal if self.latent == "normal" else noise.uniform
        z = draw(n, *self.latent_shape, dtype=dtype)
        z = z if parameter is None else z.to(parameter.device)
        return z if self.latent == "normal" else z.mul(2.0).sub(1.0)

    def draw_labels(self, n: int, noise: Noise) -> Tensor | None:
        """Labels for generated images, int64 (n,), uniform over the classes; None for a game without classes."""
        if self.num_classes is None:
            return None
        return noise.integers(self.num_classes, n).to(next(self.parameters()).device)

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
