"""Inputs of every shape and layout, and all derivatives of an attention on them."""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels import feature_attention
from tests.kernels.assertions import assert_as_accurate

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class Problem(NamedTuple):
    """Sizes: d query/key channels, e value channels."""

    batch: int
    d: int
    e: int
    grid: tuple[int, int]
    key_grid: tuple[int, int]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        keys = (self.batch, self.d, *self.key_grid), (self.batch, self.e, *self.key_grid)
        return ((self.batch, self.d, *self.grid), *keys)


# Interpreted tiles are 32 queries by 16 keys; channels come in one piece up to d = 32, in chunks of 32 above.
PROBLEMS = {
    "square": Problem(2, 4, 6, (4, 4), (4, 4)),
    "whole tiles": Problem(1, 16, 32, (8, 8), (4, 8)),
    "pooled keys": Problem(2, 8, 16, (6, 6), (3, 3)),
    "more keys than queries": Problem(1, 3, 5, (2, 3), (5, 9)),
    "primes": Problem(1, 5, 7, (5, 7), (3, 11)),
    "one channel": Problem(2, 1, 1, (3, 3), (3, 3)),
    "one query": Problem(2, 3, 5, (1, 1), (4, 5)),
    "one key": Problem(2, 3, 5, (3, 4), (1, 1)),
    "one of each": Problem(3, 2, 3, (1, 1), (1, 1)),
    "one row": Problem(1, 4, 4, (1, 17), (1, 13)),
    "one column": Problem(1, 4, 4, (17, 1), (13, 1)),
    "split": Problem(1, 24, 150, (5, 7), (3, 6)),
    "chunks": Problem(1, 40, 100, (5, 7), (3, 6)),
    "even chunks": Problem(1, 64, 96, (8, 4), (4, 4)),
    "longest": Problem(1, 256, 512, (2, 2), (3, 1)),
    "d longest": Problem(1, 256, 1, (2, 3), (3, 1)),
    "e longest": Problem(1, 1, 512, (2, 3), (3, 1)),
}

LAYOUTS = ("nchw", "channels_last", "nchw slice", "channels_last slice", "rows slice", "tokens first", "expanded")


def arrange(x: Tensor, layout: str) -> Tensor:
    """`x` in memory laid out otherwise, with NaN all around it (``"expanded"``: its first sample repeated)."""
    batch, channels, height, width = x.shape
    nan = float("nan")
    if layout == "nchw":
        buffer = x.new_full((batch + 2, channels, height, width), nan)
        place = buffer[1:-1]
    elif layout == "channels_last":
        buffer = x.new_full((batch + 2, height, width, channels), nan)
        place = buffer[1:-1].permute(0, 3, 1, 2)
    elif layout == "nchw slice":
        buffer = x.new_full((batch, channels + 5, height, width), nan)
        place = buffer[:, 2 : 2 + channels]
    elif layout == "channels_last slice":
        buffer = x.new_full((batch, height, width, channels + 5), nan)
        place = buffer[..., 2 : 2 + channels].permute(0, 3, 1, 2)
    elif layout == "rows slice":
        buffer = x.new_full((batch, channels, height + 2, width + 3), nan)
        place = buffer[:, :, 1:-1, 1 : 1 + width]
    elif layout == "tokens first":
        buffer = x.new_full((width, height, batch + 1, channels + 1), nan)
        place = buffer[:, :, :batch, 1:].permute(2, 3, 1, 0)
    else:
        assert layout == "expanded", layout
        place = arrange(x[:1], "nchw slice").expand_as(x)
        return place
    return place.copy_(x)


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Standard normal, the same for every type but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def make_inputs(
    problem: Problem, dtype: torch.dtype = torch.float64, layout: str | tuple[str, ...] = "nchw", device: str = "cpu"
) -> tuple[Tensor, ...]:
    """query, key and value, leaves that require gradients, each in its layout."""
    layouts = (layout,) * 3 if isinstance(layout, str) else layout
    # Of unit logits, as networks have them: otherwise softmax saturates and tests nothing.
    factors = (problem.d**-0.25, problem.d**-0.25, 1.0)
    made = []
    for i, (shape, one, factor) in enumerate(zip(problem.shapes, layouts, factors)):
        x = numbers(shape, torch.float64, i).mul(factor).to(dtype).to(device)
        made.append(arrange(x, one).detach().requires_grad_())
    return tuple(made)


def ours(backend: str | None, scale: float = 1.0) -> Attend:
    return functools.partial(feature_attention, scale=scale, backend=backend)


NAMES = ("query", "key", "value")


def derivatives(
    attend: Attend, inputs: tuple[Tensor, ...], order: int = 2, rounded: torch.dtype | None = None
) -> Iterator[tuple[str, Tensor]]:
    """The output, its gradients, and (order 2) theirs, by name.

    grad_output and cotangents are random, the same in every type but for rounding, and in an exact calculation rounded
    to the type that it is exact for.
    """
    output = attend(*inputs)
    yield "output", output
    if order == 0:
        return
    grad_output = numbers(output.shape, rounded or output.dtype, 10).to(output).requires_grad_(order > 1)
    first = torch.autograd.grad(output, inputs, grad_output, create_graph=order > 1)
    yield from zip((f"gradient of {name}" for name in NAMES), first)
    if order == 1:
        return
    cotangents = [numbers(g.shape, rounded or g.dtype, 20 + i).to(g) for i, g in enumerate(first)]
    second = torch.autograd.grad(first, (grad_output, *inputs), cotangents)
    yield from zip((f"second gradient of {name}" for name in ("grad_output", *NAMES)), second)


def exactly(x: Tensor) -> Tensor:
    """The same number in float64, packed."""
    return x.detach().double().contiguous().requires_grad_(x.requires_grad)


def check(attend: Attend, plain: Attend, inputs: tuple[Tensor, ...], order: int = 2, factor: float = 2.0) -> None:
    """Assert that all of `attend`'s derivatives are as accurate as those of `plain`, in the inputs' type."""
    exact = derivatives(plain, tuple(map(exactly, inputs)), order, inputs[0].dtype)
    packed = tuple(x.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for x in inputs)
    in_type = derivatives(plain, packed, order)
    for (name, actual), (_, expected), (_, truth) in zip(derivatives(attend, inputs, order), in_type, exact):
        assert_as_accurate(actual, expected, truth.detach(), name, factor)
