"""All derivatives of an op beside those of its definition, whatever the op."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from tests.kernels.assertions import assert_as_accurate

Op = Callable[..., Tensor]
CL = torch.channels_last


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Standard normal, the same for every type but for rounding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def lay_out(x: Tensor, layout: str) -> Tensor:
    """`x` in memory as said, a leaf that requires grad, with NaN around it where it has neighbours."""
    if layout == "nchw":
        y = x.clone(memory_format=torch.contiguous_format)
    elif layout == "channels_last":
        y = x.clone(memory_format=CL)
    elif layout == "slice":
        y = x.new_full((x.shape[0], x.shape[1] + 3, *x.shape[2:]), float("nan"))[:, 1 : 1 + x.shape[1]]
        y.copy_(x)
    else:
        assert layout == "transposed", layout
        y = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return y.detach().requires_grad_()


def derivatives(op: Op, inputs: tuple[Tensor, ...], order: int = 2) -> Iterator[tuple[str, Tensor]]:
    """The output, its gradients, and theirs, for random gradients and cotangents that are the same in every type."""
    output = op(*inputs)
    yield "output", output
    if order == 0:
        return
    grad = numbers(tuple(output.shape), output.dtype, 10).to(output.device).requires_grad_(order > 1)
    first = torch.autograd.grad(output, inputs, grad, create_graph=order > 1)
    yield from ((f"gradient {i}", g) for i, g in enumerate(first))
    if order == 1:
        return
    cotangents = [numbers(tuple(g.shape), g.dtype, 20 + i).to(g.device) for i, g in enumerate(first)]
    second = torch.autograd.grad(first, (grad, *inputs), cotangents, allow_unused=True)
    for i, (g, x) in enumerate(zip(second, (grad, *inputs))):
        yield f"second gradient {i}", torch.zeros_like(x) if g is None else g


def check(op: Op, plain: Op, inputs: tuple[Tensor, ...], order: int = 2, factor: float = 2.0) -> None:
    """Assert that every derivative of `op` is as accurate as `plain`'s in the inputs' type."""

    def packed(dtype: torch.dtype | None) -> tuple[Tensor, ...]:
        return tuple(x.detach().to(dtype or x.dtype, copy=True).contiguous().requires_grad_() for x in inputs)

    rows = zip(
        derivatives(op, inputs, order),
        derivatives(plain, packed(None), order),
        derivatives(plain, packed(torch.float64), order),
    )
    for (name, actual), (_, expected), (_, exact) in rows:
        assert_as_accurate(actual, expected, exact.detach(), name, factor)


def chain(op: Op, inputs: tuple[Tensor, ...], orders: int) -> list[Tensor]:
    """Gradients of every order, each of a nonlinear function of all the gradients before."""
    total = op(*inputs).sin().sum()
    results = []
    for _ in range(orders):
        gradients = torch.autograd.grad(total, inputs, create_graph=True)
        results += gradients
        total = sum(g.sin().sum() for g in gradients)
    return results


def check_third(op: Op, plain: Op, inputs: tuple[Tensor, ...]) -> None:
    """Assert that derivatives up to the third are those of `plain` (float64)."""
    for a, e in zip(chain(op, inputs, 3), chain(plain, inputs, 3), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-8)


def check_custom_ops(name: str, inputs: tuple[Any, ...], attributes: tuple[Any, ...]) -> None:
    """`opcheck` of the forward, the backward and the double backward of the op ``ganfuse::name``."""
    ops = torch.ops.ganfuse
    forward, backward, double = (getattr(ops, name + suffix) for suffix in ("", "_backward", "_double_backward"))
    there = [x is not None for x in inputs]
    output, *state = forward(*inputs, *attributes)
    grad = torch.randn_like(output)
    saved = (*inputs, *(s.detach() for s in state))
    detached = tuple(x.detach() if isinstance(x, Tensor) else x for x in saved)
    results = backward(grad, *detached, there, *attributes)
    cotangents = [copy.deepcopy(r) if t else None for r, t in zip(results[: len(inputs)], there)]
    notes = results[len(inputs) :]
    everything = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(forward.default, (*inputs, *attributes), test_utils=everything)
    torch.library.opcheck(backward.default, (grad.requires_grad_(), *saved, there, *attributes), test_utils=everything)
    torch.library.opcheck(
        double.default,
        (*cotangents, grad.detach(), *detached, *notes, [True, *there], *attributes),
        test_utils=("test_schema", "test_faketensor"),
    )
    nothing = [False] * len(inputs)
    torch.library.opcheck(
        backward.default,
        (grad.detach(), *detached, nothing, *attributes),
        test_utils=("test_schema", "test_faketensor"),
    )
