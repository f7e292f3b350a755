"""The differentiable op: linear, with an adjoint of its own form, so that one launcher does derivatives of all orders.

In eager mode it is an `autograd.Function` whose backward applies itself; while `torch.compile` traces, a custom op
whose autograd formula calls itself.
"""

import importlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ganfuse.kernels.autograd import PositionalFunction
from ganfuse.kernels.custom_ops import attributes_schema
from ganfuse.kernels.precision import without_autocast
from ganfuse.kernels.upfirdn2d import eager
from ganfuse.kernels.upfirdn2d.allocation import empty_output
from ganfuse.kernels.upfirdn2d.geometry import Sampling

Launcher = Callable[[Sampling, Tensor, Tensor | None], Tensor]


class _Launchers(dict[str, Launcher]):
    """By backend; Triton's on first use."""

    def __missing__(self, backend: str) -> Launcher:
        if backend != "triton":
            raise KeyError(backend)
        module: Any = importlib.import_module("ganfuse.kernels.upfirdn2d.triton")
        self[backend] = module.upfirdn2d
        return self[backend]


_launchers = _Launchers(eager=eager.upfirdn2d)


class _Upfirdn2d(PositionalFunction):
    @staticmethod
    def forward(sampling: Sampling, x: Tensor, f: Tensor | None) -> Tensor:
        return cast(Tensor, without_autocast(_launchers[sampling.backend], sampling, x, f))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Sampling, Tensor, Tensor | None], output: Tensor) -> None:
        sampling, x, f = inputs
        ctx.adjoint = sampling.adjoint(x, f)
        ctx.save_for_backward(f)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        (f,) = ctx.saved_tensors
        return None, _Upfirdn2d.apply(ctx.adjoint, grad, f), None


def _run(x: Tensor, f: Tensor | None, *attributes: Any) -> Tensor:
    sampling = Sampling(*attributes)
    return cast(Tensor, without_autocast(_launchers[sampling.backend], sampling, x, f))


def _fake(x: Tensor, f: Tensor | None, *attributes: Any) -> Tensor:
    return empty_output(Sampling(*attributes), x)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, f, *attributes = inputs
    ctx.adjoint = Sampling(*attributes).adjoint(x, f)
    ctx.save_for_backward(f)


def _formula(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (f,) = ctx.saved_tensors
    return (torch.ops.ganfuse.upfirdn2d(grad, f, *ctx.adjoint), *(None,) * (1 + len(Sampling._fields)))


_NAME = "ganfuse::upfirdn2d"
torch.library.define(_NAME, f"(Tensor x, Tensor? f, {attributes_schema(Sampling)}) -> Tensor")
torch.library.impl(_NAME, "default")(_run)
torch.library.register_fake(_NAME)(_fake)
torch.library.register_autograd(_NAME, _formula, setup_context=_setup)


def differentiable(sampling: Sampling, x: Tensor, f: Tensor | None) -> Tensor:
    """The result, by the backend that `sampling` names."""
    if torch.compiler.is_compiling():
        return cast(Tensor, torch.ops.ganfuse.upfirdn2d(x, f, *sampling))
    return cast(Tensor, _Upfirdn2d.apply(sampling, x, f))
