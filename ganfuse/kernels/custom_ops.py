"""The front door that `torch.compile` goes through: an op's launchers as custom ops.

Three ops with fake kernels stand for a `DifferentiableOp` in a graph: forward, backward and double backward. The first
two have autograd formulas; the third says that it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_type_hints

import torch
from torch import Tensor

from ganfuse.kernels.precision import without_autocast

if TYPE_CHECKING:
    from ganfuse.kernels.autograd import DifferentiableOp, Gradients, Tensors

_SCHEMA_TYPES = {float: "float", int: "SymInt", bool: "bool", str: "str"}


def attributes_schema(attributes: type[NamedTuple]) -> str:
    """The arguments of a custom op that are the fields of `attributes`: floats, ints, bools and strings."""
    return ", ".join(f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in get_type_hints(attributes).items())


def register_custom_ops(op: DifferentiableOp, input_names: Sequence[str], optional: frozenset[str]) -> None:
    """Define ``ganfuse::NAME``, ``NAME_backward`` and ``NAME_double_backward``, for the life of the process.

    Args:
        op: whose implementations they run.
        input_names: one per input, as in the schema.
        optional: those that may be None.
    """
    n, s, k = op.num_inputs, op.num_state, op.num_notes
    num_saved = n + op.keeps_output + s
    attributes = attributes_schema(op.attributes)
    types = {name: "Tensor?" if name in optional else "Tensor" for name in input_names}
    tensors = ", ".join(f"{kind} {name}" for name, kind in types.items())
    state = "".join(f", Tensor state{i}" for i in range(s))
    notes = "".join(f", Tensor note{i}" for i in range(k))
    cotangents = ", ".join(f"{kind} grad_grad_{name}" for name, kind in types.items())

    def results(count: int) -> str:
        return "(" + ", ".join(["Tensor"] * count) + ")"

    forward, backward, double = (f"ganfuse::{op.name}{suffix}" for suffix in ("", "_backward", "_double_backward"))
    saved = f"Tensor grad, {tensors}{', Tensor output' if op.keeps_output else ''}{state}"
    torch.library.define(forward, f"({tensors}, {attributes}) -> {results(1 + s)}")
    torch.library.define(backward, f"({saved}, bool[] needs, {attributes}) -> {results(n + k)}")
    torch.library.define(double, f"({cotangents}, {saved}{notes}, bool[] needs, {attributes}) -> {results(1 + n)}")

    def run_forward(fake: bool) -> Callable[..., Tensors]:
        def run(*args: Any) -> Tensors:
            attributes = op.attributes(*args[n:])  # type: ignore[call-overload]
            implementation = op.implementation(attributes)
            call = implementation.fake_forward if fake else implementation.forward
            return cast("Tensors", without_autocast(call, attributes, args[:n]))

        return run

    def run_backward(fake: bool) -> Callable[..., Tensors]:
        def run(grad: Tensor, *args: Any) -> Tensors:
            saved, needs, attributes = args[:num_saved], tuple(args[num_saved]), op.attributes(*args[num_saved + 1 :])  # type: ignore[call-overload]
            inputs, output, state, _ = op.split_saved(saved)
            implementation = op.implementation(attributes)
            call = implementation.fake_backward if fake else implementation.backward
            gradients, notes = without_autocast(call, attributes, needs, grad, inputs, output, state)
            return (*_present(gradients, grad), *notes)

        return run

    def run_double(fake: bool) -> Callable[..., Tensors]:
        def run(*args: Any) -> Tensors:
            cotangents, grad, args = args[:n], args[n], args[n + 1 :]
            length = num_saved + k
            saved, needs, attributes = args[:length], tuple(args[length]), op.attributes(*args[length + 1 :])  # type: ignore[call-overload]
            inputs, output, state, notes = op.split_saved(saved)
            implementation = op.implementation(attributes)
            call = implementation.fake_double_backward if fake else implementation.double_backward
            gradients = without_autocast(call, attributes, needs, cotangents, grad, inputs, output, state, notes)
            return _present(gradients, grad)

        return run

    for name, run in ((forward, run_forward), (backward, run_backward), (double, run_double)):
        torch.library.impl(name, "default")(run(False))
        torch.library.register_fake(name)(run(True))

    def setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.attributes = inputs[n:]
        ctx.save_for_backward(*inputs[:n], *(output if op.keeps_output else output[1:]))

    def forward_formula(ctx: Any, grad: Tensor, *_: Any) -> Any:
        needs = list(ctx.needs_input_grad[:n])
        call = getattr(torch.ops.ganfuse, f"{op.name}_backward")
        gradients = call(grad, *ctx.saved_tensors, needs, *ctx.attributes)
        return (*_absent(gradients[:n], needs), *(None,) * len(ctx.attributes))

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.attributes = inputs[num_saved + 2 :]
        ctx.save_for_backward(*inputs[: num_saved + 1], *output[n:])

    def backward_formula(ctx: Any, *cotangents: Tensor) -> Any:
        needs = list(ctx.needs_input_grad[: 1 + n])
        saved = ctx.saved_tensors
        filled = [
            None if x is None else torch.zeros_like(x) if c is None or c.shape != x.shape else c
            for c, x in zip(cotangents[:n], saved[1:])
        ]
        call = getattr(torch.ops.ganfuse, f"{op.name}_double_backward")
        gradients = call(*filled, *saved, needs, *ctx.attributes)
        return (*_absent(gradients, needs), *(None,) * (num_saved - n + 1 + len(ctx.attributes)))

    torch.library.register_autograd(forward, forward_formula, setup_context=setup_forward)
    torch.library.register_autograd(backward, backward_formula, setup_context=setup_backward)

    def no_formula(ctx: Any, *_: Tensor) -> Any:
        # Without this, autograd takes the results for constants: silently wrong third derivatives.
        raise RuntimeError(
            f"{forward} has two derivatives in a compiled graph; run the third on the uncompiled function"
        )

    torch.library.register_autograd(double, no_formula)


def _present(gradients: Gradients, like: Tensor) -> Tensors:
    # A custom op returns tensors only: an empty one stands for a gradient that nobody asked for.
    return tuple(like.new_empty(0) if g is None else g for g in gradients)


def _absent(gradients: Sequence[Tensor], needs: Sequence[bool]) -> Gradients:
    return tuple(g if needed else None for g, needed in zip(gradients, needs))
