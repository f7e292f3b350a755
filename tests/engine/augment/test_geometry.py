"""The resampling between wavelet filters: an identity where it should be, maps that do what they say, derivatives."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ganfuse.engine.augment import geometry, matrices
from ganfuse.engine.augment.geometry import DELAY, SYM6, enlarge, transform_images
from ganfuse.engine.augment.geometry import _reduce as reduce
from ganfuse.engine.augment.resample import resample

F64 = torch.float64


def smooth(height: int, width: int, batch: int = 2, channels: int = 1) -> Tensor:
    """Without the frequencies that a filter at half the resolution would take away."""
    coarse = torch.randn(batch, channels, 3, 3, dtype=F64, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=F64)


def test_the_filter_is_sym6() -> None:
    taps, places = numbers(*SYM6), torch.arange(12, dtype=F64)
    assert taps.sum().item() == pytest.approx(math.sqrt(2), abs=1e-10)
    for shift in range(6):
        product = (taps[2 * shift :] * taps[: 12 - 2 * shift]).sum().item()
        assert product == pytest.approx(float(shift == 0), abs=1e-10)
    # Six vanishing moments of the high-pass partner are what the 6 in its name means.
    signs = (-1.0) ** places
    for power in range(6):
        assert (signs * places**power * taps).sum().item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (2, 3)])
def test_enlarging_and_reducing_gives_the_image_back(size: tuple[int, int]) -> None:
    images = torch.randn(2, 1, *size, dtype=F64)
    twice = enlarge(images)
    assert twice.shape == (2, 1, 2 * size[0], 2 * size[1])
    if min(size) > 6:
        # The interior needs no pixel from outside: enlarged pixel n is kept from n = 5 on.
        inner = reduce(twice[:, :, 1:, 1:])  # from n = 6: the image's pixel 3
        assert torch.allclose(inner, images[:, :, 3 : 3 + inner.shape[2], 3 : 3 + inner.shape[3]], atol=1e-7)
    flat = enlarge(torch.full((1, 1, *size), 0.7, dtype=F64))
    assert torch.allclose(flat, torch.full_like(flat, 0.7), atol=1e-7)


def test_the_filter_can_be_used_after_inference_mode() -> None:
    geometry._filter.cache_clear()
    images = torch.randn(1, 1, 6, 6, requires_grad=True)
    inverse = matrices.scale2d(torch.tensor([0.8]), torch.tensor([0.8]))
    with torch.inference_mode():
        transform_images(images, inverse)
    transform_images(images, inverse).sum().backward()
    assert images.grad is not None


def test_the_identity_changes_no_bit() -> None:
    images = torch.randn(3, 3, 6, 7)
    assert torch.equal(transform_images(images, torch.eye(3).expand(3, 3, 3)), images)


def test_images_are_moved_each_by_its_own_map() -> None:
    images = smooth(24, 24, batch=3)
    inverse = matrices.translate2d(numbers(0, -2, 0), numbers(0, 0, 3))
    moved = transform_images(images, inverse)
    assert torch.equal(moved[0], images[0])
    # Whole pixels are whole pixels of the enlarged image too: exact wherever the border is out of the filters' reach.
    assert torch.allclose(moved[1, :, 8:-8, 8:-8], images[1, :, 8:-8, 6:-10], atol=1e-7)  # to the right by 2
    assert torch.allclose(moved[2, :, 8:-8, 8:-8], images[2, :, 11:-5, 8:-8], atol=1e-7)  # up by 3


@pytest.mark.parametrize(
    ("inverse", "expected"),
    [
        (matrices.scale2d(numbers(-1, -1), numbers(1, 1)), lambda x: x.flip(3)),
        (matrices.scale2d(numbers(1, 1), numbers(-1, -1)), lambda x: x.flip(2)),
        (matrices.rotate2d(numbers(math.pi / 2, math.pi / 2)), lambda x: torch.rot90(x, 1, (2, 3))),
        (matrices.rotate2d(numbers(math.pi, math.pi)), lambda x: torch.rot90(x, 2, (2, 3))),
    ],
    ids=["mirror", "upside down", "quarter turn", "half turn"],
)
def test_mirrors_and_turns(inverse: Tensor, expected: object) -> None:
    images = smooth(24, 24)
    result = transform_images(images, inverse)
    error = (result - expected(images)).abs()  # type: ignore[operator]
    assert error.max() < 0.02 * images.abs().max()


def test_a_turn_of_an_oblong_image_keeps_its_proportions() -> None:
    images = smooth(16, 24)
    result = transform_images(images, matrices.rotate2d(numbers(math.pi / 2, math.pi / 2)))
    # The middle 16×16 turns within itself; the rest comes from outside.
    error = result[:, :, :, 4:-4] - torch.rot90(images[:, :, :, 4:-4], 1, (2, 3))
    assert error[:, :, 2:-2, 2:-2].abs().max() < 0.03 * images.abs().max()


def test_scaling_and_a_move_by_half_a_pixel_against_interpolation() -> None:
    images = smooth(32, 32)
    x = (torch.arange(32, dtype=F64) - 15.5) / 16
    y, x = torch.meshgrid(x, x, indexing="ij")
    grid = torch.stack([x / 1.25 + 0.5 / 16, y], dim=2).expand(2, -1, -1, -1)
    expected = F.grid_sample(images, grid, mode="bicubic", align_corners=False)
    inverse = matrices.translate2d(numbers(0.5, 0.5), numbers(0, 0)) @ matrices.scale2d(
        numbers(0.8, 0.8), numbers(1.0001, 1.0001)
    )
    result = transform_images(images, inverse)
    error = (result - expected)[:, :, 4:-4, 4:-4].abs().max()
    assert error < 0.01 * images.abs().max()


def test_outside_the_image_is_its_mirror_image_far_away_too() -> None:
    images = smooth(16, 16)
    result = transform_images(images, matrices.translate2d(numbers(32, -32), numbers(0, 0)))
    assert (result - images).abs().max() < 0.03 * images.abs().max()
    result = transform_images(images, matrices.translate2d(numbers(16, -16), numbers(0, 0)))
    # The axis is a fifth of a pixel beside the edge, so what is mirrored once is two fifths of a pixel away.
    assert (result - images.flip(3)).abs().max() < 0.1 * images.abs().max()


def test_the_delay_is_that_of_the_filter() -> None:
    # A ramp comes out as a ramp, half a step per pixel, through the point that the delay names.
    ramp = torch.arange(40, dtype=F64).expand(1, 1, 40, 40)
    enlarged = enlarge(ramp)[0, 0, 40, 10:-10]
    first = 10 + round(DELAY - 0.5)
    expected = (torch.arange(first, first + len(enlarged), dtype=F64) - DELAY) / 2
    assert torch.allclose(enlarged, expected, atol=1e-8)


def test_derivatives() -> None:
    images = torch.randn(2, 1, 4, 4, dtype=F64, requires_grad=True)
    inverse = matrices.rotate2d(numbers(0.3, -2.0)) @ matrices.scale2d(numbers(0.7, 1.4), numbers(0.9, 1.3))
    assert torch.autograd.gradcheck(lambda x: transform_images(x, inverse), images, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: transform_images(x, inverse) ** 2, images, fast_mode=True)


def test_resample_is_linear_and_its_derivative_the_adjoint() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 5, 4, dtype=F64, generator=generator, requires_grad=True)
    grid = torch.rand(2, 6, 7, 2, dtype=F64, generator=generator) * 4 - 2
    result = resample(images, grid)
    plain = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    assert torch.equal(result, plain)
    cotangent = torch.randn(result.shape, dtype=F64, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad(result, images, cotangent, create_graph=True)
    assert torch.allclose(gradient, torch.autograd.grad(plain, images, cotangent)[0], atol=1e-12)
    other = torch.randn(images.shape, dtype=F64, generator=generator)
    (second,) = torch.autograd.grad(gradient, cotangent, other, create_graph=True)
    assert torch.allclose(second, resample(other, grid), atol=1e-12)
    # The third derivative exists as well.
    assert torch.autograd.gradgradcheck(
        lambda c: torch.autograd.grad(result, images, c, create_graph=True)[0], cotangent
    )
