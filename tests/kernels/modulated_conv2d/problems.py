"""Calls of `modulated_conv2d`, and its meaning written out with loops."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels import modulated_conv2d, setup_filter
from tests.kernels.derivative_checks import lay_out, numbers

FILTER = setup_filter([1.0, 3.0, 2.0, 0.5])


class Problem(NamedTuple):
    """One call. `filtered`: with `FILTER`. `noise`: "own", "shared", "flat" or None."""

    batch: int = 2
    inputs: int = 3
    outputs: int = 4
    size: tuple[int, int] = (5, 4)
    kernel: tuple[int, int] = (3, 3)
    up: int = 1
    down: int = 1
    padding: int | tuple[int, ...] = 1
    filtered: bool = True
    demodulate: bool = True
    flip_weight: bool = True
    noise: str | None = "own"
    bias: bool = True
    act: str = "lrelu"
    gain: float | None = None
    clamp: float | None = None


# The layers of StyleGAN2: plain, upsampling, ToRGB; and what its discriminator's convolutions would be.
LAYERS = {
    "plain": Problem(),
    "up": Problem(up=2, flip_weight=False, clamp=1.2, noise="flat"),
    "down": Problem(down=2, noise="shared"),
    "torgb": Problem(kernel=(1, 1), padding=0, outputs=3, demodulate=False, noise=None, act="linear", clamp=3.0),
    "pointwise up": Problem(kernel=(1, 1), padding=0, up=2, demodulate=False, noise=None),
    "pointwise down": Problem(kernel=(1, 1), padding=0, down=2),
    "up and down": Problem(up=2, down=2, gain=0.7, noise="shared"),
    "by three, cropped": Problem(up=3, padding=(2, 1, -1, 3), size=(4, 5), bias=False),
    "even kernel": Problem(kernel=(2, 4), padding=(1, 2, 0, 1), filtered=False, size=(6, 7)),
}


def make_inputs(
    problem: Problem,
    dtype: torch.dtype = torch.float64,
    layout: str = "nchw",
    parameter_dtype: torch.dtype | None = None,
) -> tuple[Tensor, ...]:
    """x, weight, styles, and noise and bias where there are any: leaves that require gradients."""
    p, kind = problem, parameter_dtype or dtype
    x = lay_out(numbers((p.batch, p.inputs, *p.size), torch.float64, 0).to(dtype), layout)
    made = [x, numbers((p.outputs, p.inputs, *p.kernel), kind, 1), 1 + 0.5 * numbers((p.batch, p.inputs), kind, 2)]
    if p.noise is not None:
        height, width = output_size(p)
        lead = {"own": (p.batch, 1), "shared": (1, 1), "flat": ()}[p.noise]
        made.append(numbers((*lead, height, width), kind, 3))
    if p.bias:
        made.append(numbers((p.outputs,), kind, 4))
    return tuple(t.detach().requires_grad_() if t is not x else t for t in made)


def call(problem: Problem, **options):
    """The function of `make_inputs`."""
    p = problem

    def run(x: Tensor, weight: Tensor, styles: Tensor, *rest: Tensor) -> Tensor:
        rest = list(rest)
        noise = rest.pop(0) if p.noise is not None else None
        return modulated_conv2d(
            x, weight, styles, noise, p.up, p.down, p.padding, FILTER.to(x.device) if p.filtered else None,
            p.demodulate, p.flip_weight, bias=rest.pop(0) if p.bias else None, act=p.act, gain=p.gain, clamp=p.clamp,
            **options,
        )  # fmt: skip

    return run


def paddings(problem: Problem) -> tuple[int, int, int, int]:
    """Left, right, top, bottom, with the filter's own."""
    p = problem.padding
    left, right, top, bottom = (p,) * 4 if isinstance(p, int) else p
    taps = 4 if problem.filtered else 1
    for factor, first, last in (
        (problem.up, (taps + problem.up - 1) // 2, (taps - problem.up) // 2),
        (problem.down, (taps - problem.down + 1) // 2, (taps - problem.down) // 2),
    ):
        if factor > 1:
            left, right, top, bottom = left + first, right + last, top + first, bottom + last
    return left, right, top, bottom


def output_size(problem: Problem) -> tuple[int, int]:
    left, right, top, bottom = paddings(problem)
    sides = []
    for length, around, k in zip(problem.size, (top + bottom, left + right), problem.kernel):
        taps = 4 if problem.filtered else 1
        length = length * problem.up + around - k + 1 - (taps - 1 if problem.up > 1 else 0)
        sides.append((length - taps) // problem.down + 1 if problem.down > 1 else length)
    return sides[0], sides[1]


def _correlate(image: Tensor, kernel: Tensor) -> Tensor:
    """(H, W) and (kh, kw): sums over windows, one by one."""
    height, width = image.shape[0] - kernel.shape[0] + 1, image.shape[1] - kernel.shape[1] + 1
    result = image.new_zeros(height, width)
    for i in range(height):
        for j in range(width):
            result[i, j] = (image[i : i + kernel.shape[0], j : j + kernel.shape[1]] * kernel).sum()
    return result


def _resampled(image: Tensor, p: Problem, up: int, down: int, pad: tuple[int, int, int, int]) -> Tensor:
    taps = FILTER.to(image.dtype) if p.filtered else image.new_ones(1, 1)
    height, width = image.shape
    stuffed = image.new_zeros(height * up, width * up)
    stuffed[::up, ::up] = image
    left, right, top, bottom = pad
    padded = image.new_zeros(height * up + top + bottom, width * up + left + right)
    for i in range(padded.shape[0]):
        for j in range(padded.shape[1]):
            if 0 <= i - top < stuffed.shape[0] and 0 <= j - left < stuffed.shape[1]:
                padded[i, j] = stuffed[i - top, j - left]
    if up > 1 or down > 1:
        padded = _correlate(padded, taps.flip(0, 1)) * up**2
    return padded[::down, ::down]


def by_loops(problem: Problem, inputs: tuple[Tensor, ...]) -> Tensor:
    """The result in float64, from the paper's formulas."""
    p, rest = problem, [t.detach().double() for t in inputs]
    x, weight, styles = rest[:3]
    rest = rest[3:]
    noise = rest.pop(0) if p.noise is not None else None
    bias = rest.pop(0) if p.bias else None
    samples = []
    for n in range(p.batch):
        own = weight * styles[n][None, :, None, None]
        if p.demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        kernel = own if p.flip_weight else own.flip(2, 3)
        images = [_resampled(x[n, i], p, p.up, 1, paddings(p)) for i in range(p.inputs)]
        maps = []
        for o in range(p.outputs):
            y = sum(_correlate(image, kernel[o, i]) for i, image in enumerate(images))
            if p.down > 1:
                y = _resampled(y, p, 1, p.down, (0, 0, 0, 0))
            if noise is not None:
                y = y + (noise if noise.ndim == 2 else noise[n % noise.shape[0], 0])
            if bias is not None:
                y = y + bias[o]
            slope = 0.2 if p.act == "lrelu" else 1.0
            gain = p.gain if p.gain is not None else (math.sqrt(2) if p.act == "lrelu" else 1.0)
            y = torch.where(y < 0, slope * y, y) * gain
            maps.append(y if p.clamp is None else y.clamp(-p.clamp, p.clamp))
        samples.append(torch.stack(maps))
    return torch.stack(samples)
