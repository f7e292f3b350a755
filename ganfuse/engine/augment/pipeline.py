"""The stochastic augmentation pipeline of ADA: blitting, geometry and colour, each with probability p.

Karras, Aittala, Hellsten, Laine, Lehtinen & Aila, "Training Generative Adversarial Networks with Limited Data", 2020,
appendix B and its pseudocode. Since an image may also go through unchanged, the generator learns the images and not the
augmentations; the paper finds that none leak while p stays below 0.8 (section 2.2).

On a GPU the gradient of the resampling adds in no fixed order, so that it is not the same to the last bit every time.
"""

import math

import torch
from torch import Tensor

from ganfuse.engine.augment import matrices
from ganfuse.engine.augment.checks import check_images, check_probability
from ganfuse.engine.augment.geometry import transform_images
from ganfuse.engine.draws import Draws
from ganfuse.engine.noise import Noise

#: What each pipeline has: "b" blitting, "g" geometry, "c" colour.
PIPELINES = ("b", "g", "c", "bg", "bc", "gc", "bgc")

# Strengths of the paper.
_BLIT_SHIFT = 0.125
_SCALE_STD = 0.2
_SHIFT_STD = 0.125
_BRIGHTNESS_STD = 0.2
_CONTRAST_STD = 0.5
_SATURATION_STD = 1.0


def augment(
    images: Tensor,
    p: Tensor | float,
    *,
    pipeline: str = "bgc",
    generator: torch.Generator | Noise | None = None,
) -> Tensor:
    """The images through the pipeline; differentiable with respect to them any number of times.

    Args:
        images: floating point ``(B, C, H, W)`` in [-1, 1], C being 1 or 3 for colour; the result may exceed the range.
        p: the probability of each transformation, in [0, 1]; a tensor is not looked at by the host.
        pipeline: one of `PIPELINES`.
        generator: of the random numbers, see `Draws`.

    Raises:
        ValueError: unknown pipeline, a float ``p`` outside [0, 1], or images that do not fit.
    """
    check_images(images)
    check_pipeline(pipeline)
    if not isinstance(p, Tensor):
        check_probability("p", p)
    if "c" in pipeline and images.shape[1] not in (1, 3):
        raise ValueError(f"images: colour augmentation expects 1 or 3 channels, got {images.shape[1]}")
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    p = torch.as_tensor(p, dtype=dtype, device=images.device)
    draws = Draws(images, generator, dtype)
    result = images.to(dtype)
    # A matrix product in half precision would move pixels.
    with torch.autocast(images.device.type, enabled=False):
        if "b" in pipeline or "g" in pipeline:
            height, width = images.shape[2:]
            inverse = torch.eye(3, dtype=dtype, device=images.device)
            if "b" in pipeline:
                inverse = inverse @ blitting(draws, p, height, width)
            if "g" in pipeline:
                inverse = inverse @ geometry(draws, p, height, width)
            result = transform_images(result, inverse)
        if "c" in pipeline:
            result = apply_colors(result, colors(draws, p, gray=images.shape[1] == 1))
    return result.to(images.dtype)


def check_pipeline(pipeline: str) -> None:
    """Raises a ValueError for anything but one of `PIPELINES`."""
    if pipeline not in PIPELINES:
        raise ValueError(f"pipeline: expected one of {', '.join(PIPELINES)}, got {pipeline!r}")


def blitting(draws: Draws, p: Tensor, height: int, width: int) -> Tensor:
    """Inverse maps ``(B, 3, 3)`` of mirroring, quarter turns and moves by whole pixels up to 1/8 of the side."""
    mirrored = _with_probability(draws, p, draws.integers(2), 0.0)
    inverse = matrices.scale2d(1 - 2 * mirrored, torch.ones_like(mirrored))
    quarters = _with_probability(draws, p, draws.integers(4), 0.0)
    inverse = inverse @ _quarter_turns(quarters)
    shift_x, shift_y = ((draws.uniform(-_BLIT_SHIFT, _BLIT_SHIFT) * side).round_() for side in (width, height))
    moved = _happens(draws, p)
    return inverse @ matrices.translate2d(-shift_x * moved, -shift_y * moved)


def geometry(draws: Draws, p: Tensor, height: int, width: int) -> Tensor:
    """Inverse maps ``(B, 3, 3)`` of scaling, rotation, stretching, rotation again, and moves."""
    scale = _with_probability(draws, p, draws.lognormal2(_SCALE_STD), 1.0)
    inverse = matrices.scale2d(1 / scale, 1 / scale)
    # Two rotations, of which at least one happens with probability p.
    p_rotation = 1 - (1 - p).clamp(min=0).sqrt()
    inverse = inverse @ matrices.rotate2d(_angle(draws, p_rotation))
    stretch = _with_probability(draws, p, draws.lognormal2(_SCALE_STD), 1.0)
    inverse = inverse @ matrices.scale2d(1 / stretch, stretch)
    inverse = inverse @ matrices.rotate2d(_angle(draws, p_rotation))
    moved = _happens(draws, p)
    shift_x, shift_y = (draws.normal(_SHIFT_STD) * side * moved for side in (width, height))
    return inverse @ matrices.translate2d(-shift_x, -shift_y)


def colors(draws: Draws, p: Tensor, *, gray: bool = False) -> Tensor:
    """Maps ``(B, 4, 4)`` of RGB: brightness, contrast, luma flip, hue rotation, saturation.

    For ``gray`` images the last two, which do nothing to them, are not drawn.
    """
    result = matrices.translate3d(_with_probability(draws, p, draws.normal(_BRIGHTNESS_STD), 0.0))
    result = matrices.scale3d(_with_probability(draws, p, draws.lognormal2(_CONTRAST_STD), 1.0)) @ result
    axis = torch.full((3,), 1 / math.sqrt(3.0), dtype=draws.dtype, device=draws.device)
    flipped = _with_probability(draws, p, draws.integers(2), 0.0)
    one = torch.ones_like(flipped)
    result = matrices.along_and_across(axis, 1 - 2 * flipped, one) @ result
    if gray:
        return result
    result = matrices.rotate3d(axis, _angle(draws, p)) @ result
    saturation = _with_probability(draws, p, draws.lognormal2(_SATURATION_STD), 1.0)
    return matrices.along_and_across(axis, one, saturation) @ result


def apply_colors(images: Tensor, maps: Tensor) -> Tensor:
    """Images ``(B, 1 or 3, H, W)`` under maps of colours ``(B, 4, 4)``; gray g stands for the colour (g, g, g)."""
    linear, offset = maps[:, :3, :3], maps[:, :3, 3]
    if images.shape[1] == 1:
        factor, offset = linear.sum(dim=2).mean(dim=1), offset.mean(dim=1)
        return images * factor.view(-1, 1, 1, 1) + offset.view(-1, 1, 1, 1)
    pixels = linear @ images.flatten(2) + offset.unsqueeze(2)
    return pixels.view_as(images)


def _happens(draws: Draws, p: Tensor) -> Tensor:
    """1 with probability p, else 0."""
    return (draws.uniform() < p).to(draws.dtype)


def _with_probability(draws: Draws, p: Tensor, values: Tensor, otherwise: float) -> Tensor:
    return torch.where(draws.uniform() < p, values, otherwise)


def _angle(draws: Draws, p: Tensor) -> Tensor:
    return _with_probability(draws, p, draws.uniform(-math.pi, math.pi), 0.0)


def _quarter_turns(quarters: Tensor) -> Tensor:
    # Not rotate2d: cos(π/2) is not quite 0 there, and an image that is not turned must stay as it is.
    cosine = (quarters == 0).to(quarters.dtype) - (quarters == 2).to(quarters.dtype)
    sine = (quarters == 1).to(quarters.dtype) - (quarters == 3).to(quarters.dtype)
    zero, one = torch.zeros_like(cosine), torch.ones_like(cosine)
    rows = [[cosine, -sine, zero], [sine, cosine, zero], [zero, zero, one]]
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
