"""The two front doors of every op, made once for all of them.

In eager mode an op is three nested `torch.autograd.Function`s: forward, its backward, and the backward of that; what
lies beyond is differentiated through the reference. While `torch.compile` traces, the same launchers stand behind
three custom ops (`kernels.custom_ops`). Of the ways to integrate a kernel this is the one that is right, or raises, in
every combination of eager, ``torch.func``, compile and double backward.

An op hands in its *implementations* (one per backend) and its *reference*. Words used throughout:

inputs   the tensors of the op, differentiable but for those that the op calls constants (which it never gives a
         gradient). Those that the op calls optional may be None.
state    what the forward keeps besides its output for the backward (row log-sum-exps, statistics). Not
         differentiable: the backward of the backward is the total derivative, through the statistics too.
notes    likewise what the backward keeps for the double backward.
needs    a flag for each gradient: asked for, or may be None.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ganfuse.kernels.custom_ops import register_custom_ops
from ganfuse.kernels.precision import without_autocast
from ganfuse.kernels.weight_gradients import functorch_is_active, gradients_wanted

# Optional inputs, and their cotangents, may be None where this says Tensor: only an op that has such looks for it.
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
            Where the op does not keep its output, ``output`` is None in both backwards.
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
_unwrapped = getattr(torch._C._functorch, "unwrap_if_dead", lambda tensor: tensor)


def _in_forward_mode() -> bool:
    return getattr(forward_ad, "_current_level", 0) >= 0


def _alive(argument: Any) -> Any:
    """Itself, or what is in a wrapper without a storage, left behind by a transform that has ended."""
    return _unwrapped(argument) if isinstance(argument, Tensor) else argument


class PositionalFunction(torch.autograd.Function):
    """A Function whose `apply` takes every argument by position, and costs less.

    `Function.apply` inspects the signature of `forward` at each call, about 20 µs: more than the arithmetic of a small
    layer. Outside of torch.func there is nothing that it would find.
    """

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if functorch_is_active():
            return super().apply(*args)  # type: ignore[no-untyped-call]
        return super(torch.autograd.Function, cls).apply(*map(_alive, args))  # type: ignore[misc]

    @classmethod
    def run(cls, *args: Any) -> Any:
        """`apply` where what it does may be differentiated again; else its forward alone, which costs less."""
        # In forward mode `apply` refuses tangents, which a kernel would lose.
        if torch.is_grad_enabled() or functorch_is_active() or _in_forward_mode():
            return cls.apply(*args)
        return cls.forward(*map(_alive, args))  # type: ignore[no-untyped-call]


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
        optional: names of the inputs that may be None.
        weights: names of the inputs that may be parameters of a layer, shared by all samples, with the number of
            dimensions that they then have (`kernels.weight_gradients`).
        keeps_output: False if no backward needs the output: it is not saved, and may be changed in place.
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
        optional: Sequence[str] = (),
        weights: Mapping[str, int] | None = None,
        keeps_output: bool = True,
    ) -> None:
        self.name = name
        self.attributes = attributes
        self.implementations = implementations
        self.reference = reference
        self.num_inputs = len(input_names)
        self.num_state = num_state
        self.num_notes = num_notes
        self.keeps_output = keeps_output
        # -1, which no tensor has, for what is never a weight.
        self._weight_dims = tuple((weights or {}).get(name, -1) for name in input_names)
        self._functions = _functions(self)
        register_custom_ops(self, input_names, frozenset(optional))

    def __call__(self, attributes: Any, *inputs: Tensor | None) -> Tensor:
        return self.with_state(attributes, *inputs)[0]

    def with_state(self, attributes: Any, *inputs: Tensor | None) -> Tensors:
        """The output and, not differentiable, the state that the forward keeps."""
        if torch.compiler.is_compiling():
            return tuple(getattr(torch.ops.ganfuse, self.name)(*inputs, *attributes))
        return cast(Tensors, self._functions[0].apply(attributes, *inputs))

    def backward(
        self, attributes: Any, needs: Needs, grad_output: Tensor, inputs: Tensors, state: Tensors
    ) -> Gradients:
        """The gradients of the inputs, differentiable in their turn: for who has computed the forward otherwise.

        Only of ops that do not keep their output.
        """
        assert not self.keeps_output
        return cast(
            Gradients, self._functions[1].run(attributes, needs, grad_output, *inputs, *state)[: self.num_inputs]
        )

    def implementation(self, attributes: Any) -> Implementation:
        return self.implementations[attributes.backend]

    def are_weights(self, inputs: Tensors) -> Needs:
        """Which of the inputs are parameters of a layer, shared by all samples."""
        return tuple(x is not None and x.ndim == dims for x, dims in zip(inputs, self._weight_dims))

    def split_saved(self, saved: Tensors) -> tuple[Tensors, Tensor, Tensors, Tensors]:
        """(inputs, output, state, notes) from the flat tuple that travels between the levels."""
        n, s, first = self.num_inputs, self.num_state, self.num_inputs + self.keeps_output
        output = saved[n] if self.keeps_output else cast(Tensor, None)
        return saved[:n], output, saved[first : first + s], saved[first + s :]


def _functions(op: DifferentiableOp) -> tuple[type[PositionalFunction], ...]:
    n = op.num_inputs
    num_saved = n + op.keeps_output + op.num_state

    class Forward(PositionalFunction):
        @staticmethod
        def forward(attributes: Any, *inputs: Tensor) -> Tensors:
            return cast(Tensors, without_autocast(op.implementation(attributes).forward, attributes, inputs))

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
            ctx.attributes = inputs[0]
            # Else each backward would fill a zero gradient for the state.
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*output[1:])
            ctx.save_for_backward(*inputs[1:], *(output if op.keeps_output else output[1:]))

        @staticmethod
        def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
            if grad is None:
                return (None,) * (1 + n)
            saved = ctx.saved_tensors
            inputs = saved[:n]
            needs = gradients_wanted(ctx, inputs, ctx.needs_input_grad[1:], op.are_weights(inputs))
            if not any(needs):
                return (None,) * (1 + n)
            gradients = Backward.run(ctx.attributes, needs, grad, *saved)
            return (None, *gradients[:n])

    class Backward(PositionalFunction):
        @staticmethod
        def forward(attributes: Any, needs: Needs, grad: Tensor, *saved: Tensor) -> Any:
            inputs, output, state, _ = op.split_saved(saved)
            backward = op.implementation(attributes).backward
            gradients, notes = without_autocast(backward, attributes, needs, grad, inputs, output, state)
            return (*gradients, *notes)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.attributes = inputs[0]
            ctx.set_materialize_grads(False)
            ctx.mark_non_differentiable(*output[n:])
            ctx.save_for_backward(*inputs[2:], *output[n:])

        @staticmethod
        def backward(ctx: Any, *cotangents: Any) -> Any:
            nothing = (None,) * (3 + num_saved)
            if all(c is None for c in cotangents[:n]):
                return nothing
            tensors = ctx.saved_tensors
            grad, *saved = tensors
            # saved output, state and notes get no gradient: it is part of the total derivative for the inputs.
            needs = ctx.needs_input_grad[2 : 3 + n]
            weights = (False, *op.are_weights(tensors[1 : 1 + n]))
            needs = gradients_wanted(ctx, tensors[: 1 + num_saved], needs, weights)
            if not any(needs):
                return nothing
            filled = tuple(_filled(c, x) for c, x in zip(cotangents[:n], saved))
            gradients = DoubleBackward.run(ctx.attributes, needs, *filled, grad, *saved)
            return (None, None, *gradients, *nothing[3 + n :])

    class DoubleBackward(PositionalFunction):
        @staticmethod
        def forward(attributes: Any, needs: Needs, *tensors: Tensor) -> Any:
            cotangents, grad, saved = tensors[:n], tensors[n], tensors[n + 1 :]
            inputs, output, state, notes = op.split_saved(saved)
            double_backward = op.implementation(attributes).double_backward
            return without_autocast(double_backward, attributes, needs, cotangents, grad, inputs, output, state, notes)

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


def _filled(cotangent: Tensor | None, x: Tensor | None) -> Tensor | None:
    return torch.zeros_like(x) if cotangent is None and x is not None else cotangent


def _third_derivative(
    op: DifferentiableOp, attributes: Any, tensors: tuple[Tensor | None, ...], cotangents: tuple[Tensor | None, ...]
) -> Gradients:
    """Gradients of the double backward's results for its cotangents, grad_output and inputs, by the reference."""
    n = op.num_inputs
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        # Aliases cut the graph: a key computed from the query must not be differentiated twice.
        places = [i for i, t in enumerate(tensors) if t is not None]
        aliases = [
            None if t is None else t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_()
            for t in tensors
        ]
        grad_grads, grad, inputs = aliases[:n], aliases[n], aliases[n + 1 :]
        output = op.reference(attributes, *inputs)
        there = [x for x in inputs if x is not None]
        first = torch.autograd.grad(output, there, grad, create_graph=True, allow_unused=True)
        asked = [(f, c) for f, c in zip(first, (c for c in grad_grads if c is not None)) if f is not None]
        second = torch.autograd.grad(
            [f for f, _ in asked],
            [cast(Tensor, grad), *there],
            [c for _, c in asked],
            create_graph=True,
            allow_unused=True,
        )
        # Cotangents come for the gradients of grad and of all inputs, those that are None among them.
        mine = [c for c, x in zip(cotangents, (grad, *inputs)) if x is not None]
        wanted = [(s, c) for s, c in zip(second, mine) if s is not None and c is not None and s.requires_grad]
        results: list[Tensor | None] = [None] * len(aliases)
        if wanted:
            third = torch.autograd.grad(
                [s for s, _ in wanted], [cast(Tensor, aliases[i]) for i in places], [c for _, c in wanted],
                create_graph=again, allow_unused=True,
            )  # fmt: skip
            for place, gradient in zip(places, third):
                results[place] = gradient
        return tuple(results)
