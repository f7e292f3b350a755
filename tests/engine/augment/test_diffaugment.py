"""DiffAugment, flips and crops: what they do to pixels, how strong they are, derivatives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ganfuse.engine.augment import diff_augment, horizontal_flip, random_crop, random_resized_crop
from ganfuse.engine.augment.diffaugment import color, cutout, translation
from ganfuse.engine.draws import Draws
from ganfuse.engine.noise import Noise, Shard

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(images: Tensor, seed: int = 0) -> Draws:
    return Draws(images, generator(seed), images.dtype)


class Fixed(Draws):
    """Gives the numbers that it is told to, one for all images."""

    def __init__(self, images: Tensor, *values: float) -> None:
        super().__init__(images, None, images.dtype)
        self._values = list(values)

    def uniform(self, low: float = 0.0, high: float = 1.0, *, shape: tuple[int, ...] = ()) -> Tensor:
        value = self._values.pop(0)
        assert low <= value <= high
        return torch.full((self.batch,), value, dtype=self.dtype)

    def integers(self, count: int) -> Tensor:
        return self.uniform(0, count - 1)


def test_colour_against_the_formula() -> None:
    images = torch.randn(2, 3, 4, 5, dtype=F64)
    result = color(images, Fixed(images, 0.3, 1.7, 0.6))
    for image, expected in zip(images, result):
        bright = image + 0.3
        gray = bright.mean(dim=0)
        saturated = (bright - gray) * 1.7 + gray
        contrasted = (saturated - saturated.mean()) * 0.6 + saturated.mean()
        assert torch.allclose(contrasted, expected, atol=1e-12)


def test_gray_images_have_no_saturation() -> None:
    images = torch.randn(2, 1, 4, 4, dtype=F64)
    assert torch.equal(color(images, Fixed(images, 0.1, 0.0, 1.2)), color(images, Fixed(images, 0.1, 2.0, 1.2)))


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, -1), (-2, 2)])
def test_translation_brings_zeros_in(down: int, right: int) -> None:
    images = torch.randn(2, 3, 16, 16, dtype=F64)
    # Drawn are 0 … 4, from which the reach of 2 is taken; the place read is above what is written for a move down.
    result = translation(images, Fixed(images, 2 - down, 2 - right))
    expected = F.pad(images, (right, -right, down, -down))
    assert torch.equal(result, expected)


def test_translation_reaches_an_eighth_each_way_equally_often() -> None:
    image = torch.arange(1.0, 17).expand(2000, 1, 16, 16)
    first = translation(image, draws(image))[:, 0, 8, 8]
    values, counts = first.unique(return_counts=True)
    assert values.tolist() == [7, 8, 9, 10, 11]
    assert counts.min() > 320


@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_cutout_is_half_the_side_and_may_reach_over_the_border(size: tuple[int, int]) -> None:
    images = torch.ones(500, 2, *size)
    holes = cutout(images, draws(images)) == 0
    assert torch.equal(holes[:, 0], holes[:, 1])
    rows, columns = holes[:, 0].any(dim=2).sum(dim=1), holes[:, 0].any(dim=1).sum(dim=1)
    for lengths, side in ((rows, size[0]), (columns, size[1])):
        assert lengths.max() == int(side / 2 + 0.5)
        assert lengths.min() < lengths.max()
    # A rectangle: as many pixels as rows times columns.
    assert torch.equal(holes[:, 0].sum(dim=(1, 2)), rows * columns)


def test_the_policy_chooses_and_its_order_does_not_matter() -> None:
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(diff_augment(images, ""), images)
    one = diff_augment(images, "color,cutout", generator=generator())
    assert torch.equal(one, diff_augment(images, " cutout , color", generator=generator()))
    assert not torch.equal(one, diff_augment(images, "color,cutout", generator=generator(1)))
    assert (diff_augment(images, "cutout", generator=generator()) == 0).any()
    assert (diff_augment(images.half(), generator=generator())).dtype == torch.float16


@pytest.mark.parametrize("policy", ["color", "translation", "cutout", "color,translation,cutout"])
def test_derivatives(policy: str) -> None:
    images = torch.randn(2, 3, 8, 8, dtype=F64, requires_grad=True)

    def same_draws(x: Tensor) -> Tensor:
        return diff_augment(x, policy, generator=generator(1))

    assert torch.autograd.gradcheck(same_draws, images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: same_draws(x).tanh(), images, fast_mode=True)


def test_shares_of_a_batch_are_augmented_as_the_whole() -> None:
    images = torch.randn(6, 3, 16, 16, dtype=F64)

    def everything(x: Tensor, noise: Noise) -> Tensor:
        x = random_resized_crop(
            random_crop(horizontal_flip(x, generator=noise), 12, generator=noise), 8, generator=noise
        )
        return diff_augment(x, generator=noise)

    whole = everything(images, Noise(generator(1)))
    shares = [everything(part, Noise(generator(1), Shard(index, 2))) for index, part in enumerate(images.chunk(2))]
    assert torch.allclose(torch.cat(shares), whole, atol=1e-12)


def test_flip() -> None:
    images = torch.arange(1000 * 2 * 3, dtype=torch.uint8).view(1000, 1, 2, 3)
    result = horizontal_flip(images, generator=generator())
    mirrored = (result == images.flip(3)).flatten(1).all(dim=1)
    same = (result == images).flatten(1).all(dim=1)
    assert (mirrored ^ same).all()
    assert 430 < mirrored.sum() < 570
    assert torch.equal(horizontal_flip(images, probability=0.0), images)
    assert torch.equal(horizontal_flip(images, probability=1.0), images.flip(3))


def test_crops_are_squares_of_the_image_at_every_place() -> None:
    image = torch.arange(6 * 5).view(1, 1, 6, 5).to(torch.uint8)
    crops = random_crop(image.expand(600, 2, -1, -1), 4, generator=generator())
    assert crops.shape == (600, 2, 4, 4)
    assert crops.dtype == torch.uint8
    corners, counts = crops[:, 0, 0, 0].unique(return_counts=True)
    assert corners.tolist() == [0, 1, 5, 6, 10, 11]
    assert counts.min() > 60
    for crop in crops[:20, 1]:
        top, left = divmod(int(crop[0, 0]), 5)
        assert torch.equal(crop, image[0, 0, top : top + 4, left : left + 4])
    whole = torch.randn(2, 3, 4, 4)
    assert torch.equal(random_crop(whole, 4), whole)


def test_resized_crops() -> None:
    # Coordinates as colours: a crop tells where it came from.
    ramp = (torch.arange(32, dtype=F64) + 0.5) / 32
    images = torch.stack([ramp.expand(32, 32), ramp[:, None].expand(32, 32)]).expand(400, -1, -1, -1)
    crops = random_resized_crop(images, 16, scale=(0.25, 0.64), ratio=(0.8, 1.25), generator=generator())
    assert crops.shape == (400, 2, 16, 16)
    wide = (crops[:, 0, 0, 12] - crops[:, 0, 0, 3]) * 16 / 9
    high = (crops[:, 1, 12, 0] - crops[:, 1, 3, 0]) * 16 / 9
    area, shape = wide * high, wide / high
    assert 0.24 < area.min() < 0.27
    assert 0.62 < area.max() < 0.65
    assert 0.79 < shape.min() < 0.83
    assert 1.2 < shape.max() < 1.26
    assert crops.min() < 0.05
    assert crops.max() > 0.95
    whole = random_resized_crop(images[:1], 32, scale=(1, 1), ratio=(1, 1))
    assert torch.allclose(whole, images[:1], atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: diff_augment(x, "colour"), "policy: expected any of color, translation, cutout, got 'colour'"),
        (lambda x: diff_augment(x.byte()), "images: expected floating point"),
        (lambda x: horizontal_flip(x, probability=2), "probability: expected a probability from 0 to 1, got 2"),
        (lambda x: horizontal_flip(x[0]), r"images: expected \(B, C, H, W\)"),
        (lambda x: random_crop(x, 9), "size: expected 1 to 8 for images of 8×8, got 9"),
        (lambda x: random_crop(x[0], 4), r"images: expected \(B, C, H, W\)"),
        (lambda x: random_resized_crop(x, 0), "size: expected at least 1, got 0"),
        (lambda x: random_resized_crop(x, 4, scale=(0.5, 2)), "scale: expected two shares"),
        (lambda x: random_resized_crop(x, 4, ratio=(2, 1)), "ratio: expected 0 < low <= high"),
    ],
)
def test_wrong_arguments(call: Callable[[Tensor], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(2, 3, 8, 8))
