"""The two front doors of every op, made once for all of them.

In eager mode an op is three nested `torch.autograd.Function`s: forward, its backward, and the backward of that; what
lies beyond is differentiated through the reference. While `torch.compile` traces, the same launchers stand behind
three custom ops with fake kernels, of which the first two have autograd formulas. Of the ways to integrate a kernel
this is the one that is right, or raises, in every combination of eager, ``torch.func``, compile and double backward.

An op hands in its *implementations* (one per backend) and its *reference*. Words used throughout:

inputs   the differentiable tensors of the op.
state    what the forward keeps besides its output for the backward (row log-sum-exps, statistics). Not
         differentiable: the backward of the backward is the total derivative, through the statistics too.
notes    likewise what the backward keeps for the double backward.
needs    a flag for each gradient: asked for, or may be None.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast, get_type_hints

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Gradients = tuple[Tensor | None, ...]
Needs = tuple[bool, ...]


@dataclass(frozen=True)
class Implementation:
    """The launchers of one backend.

    Attributes:
        forward: ``(attributes, inputs) -> (output, *state)``.
        backward: ``(attributes, needs, grad_output, inputs, output, state) -> (gradients, notes)``.
        double_backward: ``(attributes, needs, cotangents, grad_output, inputs, output, state, notes) -> gradients`` of
            grad_output and of the inputs (total derivative), for cotangents of the inputs' gradients.
        fake_forward, fake_backward, fake_double_backward: the same signatures, allocating the results (the same
            shapes, types and strides) and computing nothing.
    """

    forward: Callable[[Any, Tensors], Tensors]
    backward: Callable[[Any, Needs, Tensor, Tensors, Tensor, Tensors], tuple[Gradients, Tensors]]
    double_backward: Callable[[Any, Needs, Tensors, Tensor, Tensors, Tensor, Tensors, Tensors], Gradients]
    fake_forward: Callable[[Any, Tensors], Tensors]
    fake_backward: Callable[[Any, Needs, Tensor, Tensors, Tensor, Tensors], tuple[Gradients, Tensors]]
    fake_double_backward: Callable[[Any, Needs, Tensors, Tensor, Tensors, Tensor, Tensors, Tensors], Gradients]


# Private, so with the answer that is right, if slow, in case it goes.
_functorch_is_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


class PositionalFunction(torch.autograd.Function):
    """A Function whose `apply` takes every argument by position, and costs less.

    `Function.apply` inspects the signature of `forward` at each call, about 20 µs: more than the arithmetic of a small
    layer. Outside of torch.func there is nothing that it would find.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if _functorch_is_active():
            return super().apply(*args)  # type: ignore[no-untyped-call]
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


_SCHEMA_TYPES = {float: "float", int: "SymInt", bool: "bool", str: "str"}


class DifferentiableOp:
    """A twice-fused, any-times-differentiable op with one output.

    Args:
        name: of the custom op (``ganfuse::name``) and for messages.
        input_names: one name per differentiable tensor.
        attributes: a NamedTuple type of floats, ints, bools and strings; its field ``backend`` picks the
            implementation.
        implementations: by backend name.
        reference: ``(attributes, *inputs) -> output`` in differentiable PyTorch, for derivatives beyond the second.
        num_state, num_notes: how many tensors the forward and the backward keep.
    """

    def __init__(
        self,
        name: str,
        input_names: Sequence[str],
        attributes: type[NamedTuple],
        implementations: dict[str, Implementation],
        reference: Callable[..., Tensor],
        *,
        num_state: int,
        num_notes: int,
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.implementations = implementations
        self.reference = reference
        self.num_inputs = len(input_names)
        self.num_state = num_state
        self.num_notes = num_notes
        self._functions = _functions(self)
        _register_custom_ops(self, input_names)

    def __call__(self, attributes: Any, *inputs: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            op = getattr(torch.ops.ganfuse, self.name)
            return cast(Tensor, op(*inputs, *attributes)[0])
        return cast(Tensor, self._functions[0].apply(attributes, *inputs)[0])

    def implementation(self, attributes: Any) -> Implementation:
        return self.implementations[attributes.backend]

    def split_saved(self, saved: Tensors) -> tuple[Tensors, Tensor, Tensors, Tensors]:
        """(inputs, output, state, notes) from the flat tuple that travels between the levels."""
        n, s = self.num_inputs, self.num_state
        return saved[:n], saved[n], saved[n + 1 : n + 1 + s], saved[n + 1 + s :]


def _functions(op: DifferentiableOp) -> tuple[type[PositionalFunction], ...]:
    n = op.num_inputs

    class Forward(PositionalFunction):
        @staticmethod
        def forward(attributes: Any, *inputs: Tensor) -> Tensors:
            return op.implementation(attributes).forward(attributes, inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
            ctx.attributes = inputs[0]
            ctx.mark_non_differentiable(*output[1:])
            ctx.save_for_backward(*inputs[1:], *output)

        @staticmethod
        def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
            needs = tuple(ctx.needs_input_grad[1:])
            gradients = Backward.apply(ctx.attributes, needs, grad, *ctx.saved_tensors)
            return (None, *gradients[:n])

    class Backward(PositionalFunction):
        @staticmethod
        def forward(attributes: Any, needs: Needs, grad: Tensor, *saved: Tensor) -> Any:
            inputs, output, state, _ = op.split_saved(saved)
            gradients, notes = op.implementation(attributes).backward(attributes, needs, grad, inputs, output, state)
            return (*gradients, *notes)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.attributes = inputs[0]
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*output[n:])
            ctx.save_for_backward(*inputs[2:], *output[n:])

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            nothing = (None,) * (2 + 1 + n + 1 + op.num_state)
            if all(c is None for c in cotangents[:n]):
                return nothing
            grad, *saved = ctx.saved_tensors
            # saved output, state and notes get no gradient: it is part of the total derivative for the inputs.
            needs = tuple(ctx.needs_input_grad[2 : 3 + n])
            filled = tuple(torch.zeros_like(x) if c is None else c for c, x in zip(cotangents[:n], saved))
            gradients = DoubleBackward.apply(ctx.attributes, needs, *filled, grad, *saved)
            return (None, None, *gradients, *nothing[3 + n :])

    class DoubleBackward(PositionalFunction):
        @staticmethod
        def forward(attributes: Any, needs: Needs, *tensors: Tensor) -> Any:
            cotangents, grad, saved = tensors[:n], tensors[n], tensors[n + 1 :]
            inputs, output, state, notes = op.split_saved(saved)
            implementation = op.implementation(attributes)
            return implementation.double_backward(attributes, needs, cotangents, grad, inputs, output, state, notes)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.attributes = inputs[0]
            ctx.set_materialize_grads(False)
            ctx.num_tensors = len(inputs) - 2
            ctx.save_for_backward(*inputs[2 : 2 + n + 1 + n])

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            gradients = _third_derivative(op, ctx.attributes, ctx.saved_tensors, cotangents)
            return (None, None, *gradients, *(None,) * (ctx.num_tensors - len(gradients)))

    for level, function in enumerate((Forward, Backward, DoubleBackward)):
        function.__name__ = function.__qualname__ = f"{op.name}_{('forward', 'backward', 'double_backward')[level]}"
    return Forward, Backward, DoubleBackward


def _third_derivative(
    op: DifferentiableOp, attributes: Any, tensors: Tensors, cotangents: tuple[Tensor | None, ...]
) -> Gradients:
    """Gradients of the double backward's results for its cotangents, grad_output and inputs, by the reference."""
    n = op.num_inputs
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases cut the graph: a key computed from the query must not be differentiated twice.
        aliases = tuple(t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_() for t in tensors)
        grad_grads, grad, inputs = aliases[:n], aliases[n], aliases[n + 1 :]
        output = op.reference(attributes, *inputs)
        first = torch.autograd.grad(output, inputs, grad, create_graph=True)
        second = torch.autograd.grad(first, (grad, *inputs), grad_grads, create_graph=True, allow_unused=True)
        wanted = [(s, c) for s, c in zip(second, cotangents) if s is not None and c is not None and s.requires_grad]
        if not wanted:
            return (None,) * len(aliases)
        return torch.autograd.grad(
            [s for s, _ in wanted], aliases, [c for _, c in wanted], create_graph=again, allow_unused=True
        )


def _register_custom_ops(op: DifferentiableOp, input_names: Sequence[str]) -> None:
    n, s, k = op.num_inputs, op.num_state, op.num_notes
    fields = get_type_hints(op.attributes)
    attributes = ", ".join(f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in fields.items())
    tensors = ", ".join(f"Tensor {name}" for name in input_names)
    state = "".join(f", Tensor state{i}" for i in range(s))
    notes = "".join(f", Tensor note{i}" for i in range(k))
    cotangents = ", ".join(f"Tensor grad_grad_{name}" for name in input_names)

    def results(count: int) -> str:
        return "(" + ", ".join(["Tensor"] * count) + ")"

    forward, backward, double = (f"ganfuse::{op.name}{suffix}" for suffix in ("", "_backward", "_double_backward"))
    saved = f"Tensor grad, {tensors}, Tensor output{state}"
    torch.library.define(forward, f"({tensors}, {attributes}) -> {results(1 + s)}")
    torch.library.define(backward, f"({saved}, bool[] needs, {attributes}) -> {results(n + k)}")
    torch.library.define(double, f"({cotangents}, {saved}{notes}, bool[] needs, {attributes}) -> {results(1 + n)}")

    def run_forward(fake: bool) -> Callable[..., Tensors]:
        def run(*args: Any) -> Tensors:
            attributes = op.attributes(*args[n:])  # type: ignore[call-overload]
            implementation = op.implementation(attributes)
            return (implementation.fake_forward if fake else implementation.forward)(attributes, args[:n])

        return run

    def run_backward(fake: bool) -> Callable[..., Tensors]:
        def run(grad: Tensor, *args: Any) -> Tensors:
            saved, needs, attributes = args[: n + 1 + s], tuple(args[n + 1 + s]), op.attributes(*args[n + 2 + s :])  # type: ignore[call-overload]
            inputs, output, state, _ = op.split_saved(saved)
            implementation = op.implementation(attributes)
            call = implementation.fake_backward if fake else implementation.backward
            gradients, notes = call(attributes, needs, grad, inputs, output, state)
            return (*_present(gradients, grad), *notes)

        return run

    def run_double(fake: bool) -> Callable[..., Tensors]:
        def run(*args: Any) -> Tensors:
            cotangents, grad, args = args[:n], args[n], args[n + 1 :]
            length = n + 1 + s + k
            saved, needs, attributes = args[:length], tuple(args[length]), op.attributes(*args[length + 1 :])  # type: ignore[call-overload]
            inputs, output, state, notes = op.split_saved(saved)
            implementation = op.implementation(attributes)
            call = implementation.fake_double_backward if fake else implementation.double_backward
            return _present(call(attributes, needs, cotangents, grad, inputs, output, state, notes), grad)

        return run

    for name, run in ((forward, run_forward), (backward, run_backward), (double, run_double)):
        torch.library.impl(name, "default")(run(False))
        torch.library.register_fake(name)(run(True))

    def setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.attributes = inputs[n:]
        ctx.save_for_backward(*inputs[:n], *output)

    def forward_formula(ctx: Any, grad: Tensor, *_: Any) -> Any:
        needs = list(ctx.needs_input_grad[:n])
        call = getattr(torch.ops.ganfuse, f"{op.name}_backward")
        gradients = call(grad, *ctx.saved_tensors, needs, *ctx.attributes)
        return (*_absent(gradients[:n], needs), *(None,) * len(ctx.attributes))

    def setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.attributes = inputs[n + 3 + s :]
        ctx.save_for_backward(*inputs[: n + 2 + s], *output[n:])

    def backward_formula(ctx: Any, *cotangents: Tensor) -> Any:
        needs = list(ctx.needs_input_grad[: 1 + n])
        saved = ctx.saved_tensors
        filled = [torch.zeros_like(x) if c.shape != x.shape else c for c, x in zip(cotangents[:n], saved[1:])]
        call = getattr(torch.ops.ganfuse, f"{op.name}_double_backward")
        gradients = call(*filled, *saved, needs, *ctx.attributes)
        return (*_absent(gradients, needs), *(None,) * (2 + s + len(ctx.attributes)))

    torch.library.register_autograd(forward, forward_formula, setup_context=setup_forward)
    torch.library.register_autograd(backward, backward_formula, setup_context=setup_backward)


def _present(gradients: Gradients, like: Tensor) -> Tensors:
    # A custom op returns tensors only: an empty one stands for a gradient that nobody asked for.
    return tuple(like.new_empty(0) if g is None else g for g in gradients)


def _absent(gradients: Sequence[Tensor], needs: Sequence[bool]) -> Gradients:
    return tuple(g if needed else None for g, needed in zip(gradients, needs))
