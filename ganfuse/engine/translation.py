"""Games that translate between two domains of images: what they are trained on, what they show, and how to use them."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.augment import random_crop
from ganfuse.engine.checks import is_number
from ganfuse.engine.domains import are_paired, central_square, domains_of, spread_images
from ganfuse.engine.game import Batch, EMATarget, Game, OptimizerFactory, Player, Turn, evaluation_mode
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import at_least_float32
from ganfuse.engine.schedules import Schedule

__all__ = ["DIRECTIONS", "TranslationGame", "judged_together", "l1"]

DIRECTIONS = ("ab", "ba")
# Kept of each domain for the grids that show how the training goes.
_PREVIEWED = 32


class TranslationGame(Game):
    """Domain A to domain B and back: subclass it, set the four networks, and say the turns.

    The networks are `generator_ab`, `generator_ba` (images to images), `discriminator_a`, which judges images of domain
    A, and `discriminator_b`. The players are "generators" and "discriminators".

    Args:
        resolution: side of the data's images.
        channels: of both domains' images.
        generator_optimizer, discriminator_optimizer: of the two players.
        schedule: of both learning rates.
        crop: train on squares of this side, cut from the data's images at random places, other ones in each turn;
            None: on whole images.
        ema_decay: of moving averages of the generators; None: none.

    Attributes:
        image_shape: (C, H, W) of the data's images.
        training_size: side of the images that the networks are trained on.
        size_multiple: sides of images to translate must be multiples of this.
        least_size: and at least this.
        one_size: and no more: the networks take squares of `least_size` alone.

    Raises:
        ValueError: a crop that is larger than the images, or sizes that the networks do not take.
    """

    generator_ab: nn.Module
    generator_ba: nn.Module
    discriminator_a: nn.Module
    discriminator_b: nn.Module
    image_shape: tuple[int, int, int]
    data_kind = "unpaired"
    size_multiple = 1
    least_size = 1
    one_size = False
    #: What the players move.
    generators: tuple[str, ...] = ("generator_ab", "generator_ba")
    discriminators: tuple[str, ...] = ("discriminator_a", "discriminator_b")

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        generator_optimizer: OptimizerFactory,
        discriminator_optimizer: OptimizerFactory,
        schedule: Schedule | None = None,
        crop: int | None = None,
        ema_decay: float | None = None,
    ) -> None:
        super().__init__()
        if type(resolution) is not int or resolution < 1:
            raise ValueError(f"resolution: expected a positive whole number, got {resolution!r}")
        if crop is not None and (type(crop) is not int or not 1 <= crop <= resolution):
            raise ValueError(f"crop: expected 1 to {resolution}, the side of the data's images, or None, got {crop!r}")
        if ema_decay is not None and not (is_number(ema_decay) and 0.0 <= ema_decay < 1.0):
            raise ValueError(f"ema_decay: expected 0 <= decay < 1 or None, got {ema_decay!r}")
        self.image_shape = (channels, resolution, resolution)
        self.training_size = resolution if crop is None else crop
        wrong = self.wrong_size(self.training_size)
        if wrong:
            raise ValueError(f"{'resolution' if crop is None else 'crop'}: {wrong}")
        self.optimizers = {"generators": generator_optimizer, "discriminators": discriminator_optimizer}
        self.schedule = schedule
        self.ema_decay = ema_decay
        self._previewed: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def turns(self) -> Sequence[Turn]:
        """See `Game.turns`."""

    def players(self) -> Sequence[Player]:
        return (
            Player("generators", self.generators, self.optimizers["generators"], self.schedule),
            Player("discriminators", self.discriminators, self.optimizers["discriminators"], self.schedule),
        )

    def ema_targets(self) -> Sequence[EMATarget]:
        if self.ema_decay is None:
            return ()
        return tuple(EMATarget(name, self.ema_decay) for name in self.generators)

    def translator(self, direction: str) -> nn.Module:
        """The network that translates in a direction, "ab" or "ba", as it is used after training.

        Raises:
            ValueError: another direction.
        """
        if direction not in DIRECTIONS:
            raise ValueError(f"direction: expected one of {', '.join(map(repr, DIRECTIONS))}, got {direction!r}")
        return self.generator_ab if direction == "ab" else self.generator_ba

    def translate(self, images: Tensor, direction: str = "ab") -> Tensor:
        """Translations, (B, C, H, W) in [-1, 1], in evaluation mode and without gradients.

        Args:
            images: (B, C, H, W) in [-1, 1], on the game's device. H and W are multiples of `size_multiple` and at least
                `least_size`.
            direction: "ab", from domain A to domain B, or "ba".

        Raises:
            ValueError: another direction, or images of another shape, size or kind.
        """
        translator = self.translator(direction)
        if images.dim() != 4 or images.shape[1] != self.image_shape[0]:
            raise ValueError(f"images: expected (B, {self.image_shape[0]}, H, W), got {tuple(images.shape)}")
        # A network that scales its input would take them, and see white.
        if not images.is_floating_point():
            raise ValueError(f"images: expected floating-point numbers in [-1, 1], got {images.dtype}")
        for side in images.shape[2:]:
            wrong = self.wrong_size(side)
            if wrong:
                raise ValueError(f"images: {wrong}")
        with evaluation_mode(translator):
            return translator(images)  # type: ignore[no-any-return]

    def sample(
        self, n: int, *, labels: Tensor | Sequence[int] | int | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        """There is nothing to draw from noise. Raises ValueError, which says so."""
        raise ValueError(
            f"sample: {self.name} draws nothing from noise, it translates images: use its translate(images), or the "
            "command ganfuse translate RUN IN OUT"
        )

    def preview(self, n: int, *, rng: torch.Generator) -> tuple[Tensor, int | None]:
        """Rows of an image of A, its translation, that translated back, and the same from B; always the same images."""
        if self._previewed is None:
            raise ValueError("preview: the game has seen no data yet; check_data shows it some")
        first, second = self._previewed
        rows = self.compare(first[: max(1, n // 6)], second[: max(1, n // 6)])
        return rows.flatten(0, 1), rows.shape[1]

    def compare(self, images_a: Tensor, images_b: Tensor) -> Tensor:
        """Rows of an image of A, its translation, that back again, and the same from B: (N, 6, C, H, W) in [-1, 1].

        Args:
            images_a, images_b: of the two domains, uint8 (N, C, H, W) on any device; of the shorter one all, of the
                other the first as many.
        """
        parameter = next(self.parameters())
        rows = []
        # One by one: a translator may hold a hundred times as much as its image.
        for pair in zip(images_a, images_b):
            row: list[Tensor] = []
            for pixels, there in zip(pair, DIRECTIONS):
                image = pixels.to(parameter.device, parameter.dtype).div(127.5).sub(1.0).unsqueeze(0)
                row += self.shown(image, there)
            rows.append(torch.cat(row))
        return torch.stack(rows)

    def shown(self, image: Tensor, direction: str) -> list[Tensor]:
        """An image, (1, C, H, W) in [-1, 1], its translation, and that translated back; what grids show of it."""
        translated = self.translate(image, direction)
        return [image, translated, self.translate(translated, direction[::-1])]

    def check_data(self, data: Any) -> None:
        """Refuses data without two domains of this game's images. Keeps a few of them, to preview."""
        name = getattr(data, "name", "data")
        try:
            both = domains_of(data)
        except ValueError as error:
            raise ValueError(
                f"data: {self.name} needs images of two domains, got {name!r} with one; "
                "see open_dataset(source, kind='unpaired')"
            ) from error
        if self.data_kind == "paired" and not are_paired(data):
            raise ValueError(
                f"data: {self.name} compares both images of a pair, and {name!r} is not "
                "paired; see open_dataset(source, kind='paired')"
            )
        chosen = [spread_images(domain, _PREVIEWED) for domain in both]
        for images in chosen:
            if tuple(images.shape[1:]) != self.image_shape:
                raise ValueError(
                    f"data: the game was made for images of {_size(self.image_shape)}, got {_size(images.shape[1:])}"
                )
        first, second = (central_square(images, self.training_size).clone() for images in chosen)
        self._previewed = (first, second)

    def domains(self, batch: Batch, noise: Noise) -> tuple[Tensor, Tensor]:
        """The batch's images of A and of B, cropped where the game crops; both images of a pair alike.

        Raises:
            ValueError: a batch with one domain.
        """
        a, b = batch.images, batch.images_b
        if b is None:
            raise ValueError(f"batch: {self.name} needs images of two domains, the batch has no images_b")
        if self.training_size == self.image_shape[1]:
            return a, b
        size = self.training_size
        if self.data_kind != "paired":
            return random_crop(a, size, generator=noise), random_crop(b, size, generator=noise)
        cut = random_crop(torch.cat([a, b], 1), size, generator=noise)
        return cut[:, : a.shape[1]], cut[:, a.shape[1] :]

    def wrong_size(self, side: int) -> str:
        """What is wrong with images of that side; empty for one that can be translated."""
        if self.one_size and side != self.least_size:
            return f"{self.name} was made for images of {self.least_size}×{self.least_size} alone, got a side of {side}"
        if side % self.size_multiple or side < self.least_size:
            return (
                f"{self.name} takes images whose sides are multiples of {self.size_multiple} and at least "
                f"{self.least_size}, got {side}"
            )
        return ""


def l1(x: Tensor, y: Tensor) -> Tensor:
    """E |x − y|, the mean over all elements, in float32 at least."""
    return F.l1_loss(at_least_float32(x), at_least_float32(y))


def judged_together(discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs on real and on generated images, in one batch: the same if each image is judged by itself."""
    outputs = discriminator(torch.cat([real, fake.to(real.dtype)]))
    return outputs[: len(real)], outputs[len(real) :]


def _size(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
