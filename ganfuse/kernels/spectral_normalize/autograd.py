"""The two front doors of the batched op: lists of tensors in and out, where `kernels.autograd` has a fixed number.

In eager mode three nested `torch.autograd.Function`s, while `torch.compile` traces three custom ops with autograd
formulas; the same launchers behind both. Derivatives beyond the second go through the definition.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.autograd import PositionalFunction
from ganfuse.kernels.spectral_normalize import reference
from ganfuse.kernels.spectral_normalize.layout import Layout, readable, to_stored_order
from ganfuse.kernels.weight_gradients import weight_gradients_disabled

Tensors = tuple[Tensor, ...]


class Settings(NamedTuple):
    """What a call does besides its tensors; no iterations means u and v as stored."""

    dims: tuple[int, ...]
    dtype: torch.dtype | None
    n_power_iterations: int
    eps: float
    first: str


def _triton() -> Any:
    # Importing Triton costs half a second, and is impossible on some machines: only who launches pays.
    from ganfuse.kernels.spectral_normalize import triton

    return triton


def normalise(
    settings: Settings, weights: Sequence[Tensor], us: Sequence[Tensor], vs: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Normalised weights, σ (layers,), and the unit vectors that made them, one after another."""
    if torch.compiler.is_compiling():
        op = torch.ops.ganfuse.spectral_normalize
        dims, *rest = settings
        normalised, sigmas, packed = op(list(weights), list(us), list(vs), list(dims), *rest)
        return list(normalised), sigmas, packed
    *normalised, sigmas, packed = _Forward.apply(settings, tuple(us), tuple(vs), *weights)
    return normalised, sigmas, packed


def update(
    us: Sequence[Tensor], vs: Sequence[Tensor], packed: Tensor, layouts: Sequence[Layout], chosen: Sequence[int]
) -> None:
    """Store the unit vectors of the layers `chosen`; `us` and `vs` are lists of those alone (`vs` may be empty)."""
    sizes = [x for layout in layouts for x in layout]
    torch.ops.ganfuse.spectral_normalize_update(list(us), list(vs), packed.detach(), sizes, list(chosen))


class _Forward(PositionalFunction):
    @staticmethod
    def forward(settings: Settings, us: Tensors, vs: Tensors, *weights: Tensor) -> Tensors:
        normalised, sigmas, packed = _triton().forward(weights, us, vs, *settings)
        return (*normalised, sigmas, packed)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.settings = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(*inputs[3:], *output[-2:])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        *weights, sigmas, packed = ctx.saved_tensors
        needs, grad_sigmas = ctx.needs_input_grad[3:], grads[-2]
        every = grad_sigmas is not None
        chosen = tuple(i for i, need in enumerate(needs) if need and (every or grads[i] is not None))
        gradients: list[Tensor | None] = [None] * (3 + len(weights))
        if chosen and not weight_gradients_disabled():
            given = []
            for i in chosen:
                grad = grads[i]
                given.append(
                    weights[i].new_zeros((), dtype=ctx.settings.dtype).expand_as(weights[i]) if grad is None else grad
                )
            sigma_grads = torch.zeros_like(sigmas) if grad_sigmas is None else grad_sigmas
            results = _Backward.apply(ctx.settings, chosen, sigma_grads, sigmas, packed, *given, *weights)
            for i, gradient in zip(chosen, results):
                gradients[3 + i] = gradient
        return tuple(gradients)


class _Backward(PositionalFunction):
    @staticmethod
    def forward(
        settings: Settings, chosen: tuple[int, ...], grad_sigmas: Tensor, sigmas: Tensor, packed: Tensor,
        *tensors: Tensor,
    ) -> Tensors:  # fmt: skip
        grads, weights = tensors[: len(chosen)], tensors[len(chosen) :]
        results, dots = _triton().backward(grads, grad_sigmas, weights, sigmas, packed, settings.dims, chosen)
        return (*results, dots)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.settings, ctx.chosen, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        ctx.save_for_backward(*tensors, output[-1])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        chosen, count = ctx.chosen, len(ctx.chosen)
        grad_sigmas, sigmas, packed, *tensors, dots = ctx.saved_tensors
        grads, weights = tensors[:count], tensors[count:]
        nothing: list[Tensor | None] = [None] * len(weights)
        if all(c is None for c in cotangents[:count]):
            return (None,) * (5 + count + len(weights))
        filled = [torch.zeros_like(weights[i]) if c is None else c for i, c in zip(chosen, cotangents)]
        results = _DoubleBackward.apply(
            ctx.settings, chosen, grad_sigmas, sigmas, packed, dots, *filled, *grads, *weights
        )
        if not weight_gradients_disabled():
            for i, gradient in zip(chosen, results[count + 1 :]):
                nothing[i] = gradient
        return (None, None, results[count], None, None, *results[:count], *nothing)


class _DoubleBackward(PositionalFunction):
    @staticmethod
    def forward(
        settings: Settings, chosen: tuple[int, ...], grad_sigmas: Tensor, sigmas: Tensor, packed: Tensor, dots: Tensor,
        *tensors: Tensor,
    ) -> Tensors:  # fmt: skip
        n = len(chosen)
        cotangents, grads, weights = tensors[:n], tensors[n : 2 * n], tensors[2 * n :]
        run = _triton().double_backward
        grad_grads, grad_sigma, grad_weights = run(
            cotangents, grads, weights, sigmas, packed, dots, settings.dims, chosen
        )
        return (*grad_grads, grad_sigma, *grad_weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.settings, ctx.chosen, grad_sigmas, _, packed, _, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad_sigmas, packed, *tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        grad_sigmas, packed, *tensors = ctx.saved_tensors
        n = len(ctx.chosen)
        weights = tensors[2 * n :]
        gradients = _third_derivative(ctx.settings, ctx.chosen, packed, grad_sigmas, tensors, cotangents)
        of_weights: list[Tensor | None] = [None] * len(weights)
        for i, gradient in zip(ctx.chosen, gradients[1 + 2 * n :]):
            of_weights[i] = gradient
        return (None, None, gradients[0], None, None, None, *gradients[1 : 1 + 2 * n], *of_weights)


def _third_derivative(
    settings: Settings, chosen: tuple[int, ...], packed: Tensor, grad_sigmas: Tensor, tensors: Sequence[Tensor],
    cotangents: tuple[Tensor | None, ...],
) -> tuple[Tensor | None, ...]:  # fmt: skip
    """Gradients of the double backward's results for grad_sigmas, its cotangents, grads and weights."""
    n = len(chosen)
    again = torch.is_grad_enabled()
    weights = tensors[2 * n :]
    vectors = unpack(packed, [readable(w, dim)[1] for w, dim in zip(weights, settings.dims)])
    with torch.enable_grad():
        inputs = (grad_sigmas, *tensors[: 2 * n], *(weights[i] for i in chosen))
        aliases = tuple(t.view_as(t) if again and t.requires_grad else t.detach().requires_grad_() for t in inputs)
        of_sigmas, grad_grads, grads, of_weights = (
            aliases[0], aliases[1 : 1 + n], aliases[1 + n : 1 + 2 * n], aliases[1 + 2 * n :]
        )  # fmt: skip
        outputs: list[Tensor] = []
        output_grads: list[Tensor] = []
        for i, w, grad in zip(chosen, of_weights, grads):
            u, v = (x.to(w.dtype) for x in vectors[i])
            outputs += reference.normalise(w, u, v, settings.dims[i], settings.eps, settings.dtype)
            output_grads += [grad, of_sigmas[i].to(w.dtype)]
        first = torch.autograd.grad(outputs, of_weights, output_grads, create_graph=True)
        second = torch.autograd.grad(
            first, (*grads, of_sigmas, *of_weights), grad_grads, create_graph=True, allow_unused=True
        )
        wanted = [(s, c) for s, c in zip(second, cotangents) if s is not None and c is not None and s.requires_grad]
        if not wanted:
            return (None,) * len(aliases)
        return torch.autograd.grad(
            [s for s, _ in wanted], aliases, [c for _, c in wanted], create_graph=again, allow_unused=True
        )


def unpack(packed: Tensor, layouts: Sequence[Layout]) -> list[tuple[Tensor, Tensor]]:
    """Each layer's u and v, in stored order."""
    pairs, place = [], 0
    for layout in layouts:
        u, v = packed[place : place + layout.rows], packed[place + layout.rows :][: layout.columns]
        pairs.append((u, to_stored_order(v, layout.channels)))
        place += layout.rows + layout.columns
    return pairs


_SETTINGS = "int[] dims, ScalarType? dtype, int n_power_iterations, float eps, str first"
_NAME = "ganfuse::spectral_normalize"
torch.library.define(_NAME, f"(Tensor[] weights, Tensor[] us, Tensor[] vs, {_SETTINGS}) -> (Tensor[], Tensor, Tensor)")
torch.library.define(
    f"{_NAME}_backward",
    "(Tensor[] grads, Tensor grad_sigmas, Tensor[] weights, Tensor sigmas, Tensor packed, int[] chosen, "
    f"{_SETTINGS}) -> (Tensor[], Tensor)",
)
torch.library.define(
    f"{_NAME}_double_backward",
    "(Tensor[] cotangents, Tensor[] grads, Tensor grad_sigmas, Tensor[] weights, Tensor sigmas, Tensor packed, "
    f"Tensor dots, int[] chosen, {_SETTINGS}) -> (Tensor[], Tensor, Tensor[])",
)
torch.library.define(
    f"{_NAME}_update",
    "(Tensor(a!)[] us, Tensor(b!)[] vs, Tensor packed, int[] sizes, int[] chosen) -> ()",
    tags=(torch.Tag.needs_fixed_stride_order,),
)


@torch.library.impl(_NAME, "default")
def _run_forward(weights: Any, us: Any, vs: Any, *settings: Any) -> Any:
    return _triton().forward(weights, us, vs, *settings)


def _fake_forward(weights: Any, us: Any, vs: Any, dims: Any, dtype: Any, *_: Any) -> Any:
    return _triton().fake_forward(weights, dims, dtype)


@torch.library.impl(f"{_NAME}_backward", "default")
def _run_backward(
    grads: Any, grad_sigmas: Any, weights: Any, sigmas: Any, packed: Any, chosen: Any, dims: Any, *_: Any
) -> Any:
    return _triton().backward(grads, grad_sigmas, weights, sigmas, packed, dims, chosen)


def _fake_backward(
    grads: Any, grad_sigmas: Any, weights: Any, sigmas: Any, packed: Any, chosen: Any, dims: Any, *_: Any
) -> Any:
    return _triton().fake_backward(grads, weights, sigmas, dims, chosen)


@torch.library.impl(f"{_NAME}_double_backward", "default")
def _run_double(
    cotangents: Any, grads: Any, grad_sigmas: Any, weights: Any, sigmas: Any, packed: Any, dots: Any, chosen: Any,
    dims: Any, *_: Any,
) -> Any:  # fmt: skip
    return _triton().double_backward(cotangents, grads, weights, sigmas, packed, dots, dims, chosen)


def _fake_double(
    cotangents: Any, grads: Any, grad_sigmas: Any, weights: Any, sigmas: Any, packed: Any, dots: Any, chosen: Any,
    dims: Any, *_: Any,
) -> Any:  # fmt: skip
    return _triton().fake_double_backward(grads, weights, sigmas, dims, chosen)


@torch.library.impl(f"{_NAME}_update", "default")
def _run_update(us: Any, vs: Any, packed: Any, sizes: Any, chosen: Any) -> None:
    layouts = tuple(Layout(*sizes[i : i + 4]) for i in range(0, len(sizes), 4))
    _triton().update(us, vs, packed, layouts, tuple(chosen))


def _fake_update(us: Any, vs: Any, packed: Any, sizes: Any, chosen: Any) -> None:
    return None


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    weights, us, vs, *ctx.settings = inputs
    ctx.count = len(weights)
    ctx.rest = len(us), len(vs)
    ctx.save_for_backward(*weights, output[1], output[2])


def _forward_formula(ctx: Any, grads: Any, grad_sigmas: Any, _: Any) -> Any:
    *weights, sigmas, packed = ctx.saved_tensors
    dtype = ctx.settings[1]
    given = [torch.zeros_like(w, dtype=dtype) if g is None else g for g, w in zip(grads, weights)]
    grad_sigmas = torch.zeros_like(sigmas) if grad_sigmas is None else grad_sigmas
    op = torch.ops.ganfuse.spectral_normalize_backward
    results, _ = op(given, grad_sigmas, weights, sigmas, packed, list(range(ctx.count)), *ctx.settings)
    u_count, v_count = ctx.rest
    return results, [None] * u_count, [None] * v_count, *(None,) * len(ctx.settings)


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grads, grad_sigmas, weights, sigmas, packed, ctx.chosen, *ctx.settings = inputs
    ctx.count = len(grads)
    ctx.save_for_backward(*grads, *weights, grad_sigmas, sigmas, packed, output[1])


def _backward_formula(ctx: Any, cotangents: Any, _: Any) -> Any:
    *tensors, grad_sigmas, sigmas, packed, dots = ctx.saved_tensors
    grads, weights = tensors[: ctx.count], tensors[ctx.count :]
    filled = [torch.zeros_like(weights[i]) if c is None else c for i, c in zip(ctx.chosen, cotangents)]
    op = torch.ops.ganfuse.spectral_normalize_double_backward
    grad_grads, grad_sigma, found = op(
        filled, grads, grad_sigmas, weights, sigmas, packed, dots, ctx.chosen, *ctx.settings
    )
    of_weights: list[Tensor | None] = [None] * len(weights)
    for i, gradient in zip(ctx.chosen, found):
        of_weights[i] = gradient
    return grad_grads, grad_sigma, of_weights, None, None, None, *(None,) * len(ctx.settings)


torch.library.register_autograd(_NAME, _forward_formula, setup_context=_setup_forward)
torch.library.register_autograd(f"{_NAME}_backward", _backward_formula, setup_context=_setup_backward)
for _suffix, _fake in (
    ("", _fake_forward), ("_backward", _fake_backward), ("_double_backward", _fake_double), ("_update", _fake_update)
):  # fmt: skip
    torch.library.register_fake(_NAME + _suffix)(_fake)
