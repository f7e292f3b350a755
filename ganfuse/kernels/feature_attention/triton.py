"""Launchers of the attention kernels: layouts, allocation, tile shapes.

What depends only on sizes, strides and types is worked out once and kept: small layers are bound by the host.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.feature_attention import configs
from ganfuse.kernels.feature_attention.allocation import Attributes, fake_backward, fake_double_backward, fake_forward
from ganfuse.kernels.feature_attention.tokens import TokenView, common_layout, shape_of, view
from ganfuse.kernels.feature_attention.triton_backward import attention_backward_key_value, attention_backward_query
from ganfuse.kernels.feature_attention.triton_double_backward import (
    attention_double_backward_key_value,
    attention_double_backward_query,
)
from ganfuse.kernels.feature_attention.triton_forward import attention_forward
from ganfuse.kernels.launch import launch, target_of
from ganfuse.kernels.precision import dot_precision

_LOG2_E = 1.4426950408889634


class _Kernel(NamedTuple):
    """A kernel, the channels (d or e) of the tensors whose strides it takes, in order, and what its programs tile."""

    function: Any
    groups: str
    over_keys: bool


_FORWARD = _Kernel(attention_forward, "ddee", False)
_QUERY = _Kernel(attention_backward_query, "ddeeed", False)
_KEY_VALUE = _Kernel(attention_backward_key_value, "ddeede", True)
_DOUBLE_QUERY = _Kernel(attention_double_backward_query, "ddeeeddede", False)
_DOUBLE_KEY_VALUE = _Kernel(attention_double_backward_key_value, "ddeeddede", True)


class _Problem(NamedTuple):
    """What every kernel of one call needs to know."""

    attributes: Attributes
    channels_last: bool
    samples: int
    heads: int
    num_queries: int
    num_keys: int
    d: int
    e: int
    dtype: torch.dtype
    device: torch.device
    target: str

    @classmethod
    def of(cls, attributes: Attributes, query: Tensor, key: Tensor, value: Tensor) -> "_Problem":
        form = attributes.form
        q, v = shape_of(query, form), shape_of(value, form)
        return cls(
            attributes, common_layout(form, value, query, key), q.batch * q.heads, q.heads, q.tokens, v.tokens,
            q.channels, v.channels, query.dtype, query.device, target_of(query.device),
        )  # fmt: skip

    def view(self, x: Tensor) -> TokenView:
        return view(x, self.attributes.form, self.channels_last)

    def rows(self) -> Tensor:
        """An uninitialised number per query, in the accumulator's type."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.empty((self.samples, self.num_queries), dtype=dtype, device=self.device)

    def scalars(self) -> list[float]:
        """The scale, and times log2(e); each as the float32 next to it and, for float64, what that drops."""
        numbers = []
        for number in (self.attributes.scale, self.attributes.scale * _LOG2_E):
            high = float(torch.tensor(number, dtype=torch.float32)) if self.dtype == torch.float64 else number
            numbers += [high, number - high]
        return numbers

    def fused(self, kernel: str) -> bool:
        return configs.fused(kernel, self.target, self.dtype.itemsize, self.d, self.e)

    def start(self, kernel: _Kernel, name: str, tensors: list[Tensor], views: list[TokenView], **flags: bool) -> None:
        """Run `kernel` in the form that its configuration is kept under as `name`.

        Args:
            tensors: its pointers. views: those of them whose strides it takes.
            flags: which of its gradients to compute; the first has d channels, the second e.
        """
        strides = tuple(v[1:] for v in views)
        plan = _plan(self, kernel, name, strides, dot_precision(self.dtype), tuple(flags.items()))
        launch(
            kernel.function, plan.grid, self.device, [*tensors, *plan.numbers], plan.constants,
            num_warps=plan.num_warps, num_stages=plan.num_stages,
        )  # fmt: skip


class _Plan(NamedTuple):
    """What a launch takes besides its pointers."""

    grid: tuple[int, int]
    numbers: list[int | float]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int


@functools.lru_cache(maxsize=4096)
def _plan(
    problem: _Problem,
    kernel: _Kernel,
    name: str,
    strides: tuple[tuple[int, int, int], ...],
    precision: str,
    flags: tuple[tuple[str, bool], ...],
) -> _Plan:
    config = configs.choose(name, problem.target, problem.dtype.itemsize, problem.d, problem.e)
    # The second grid axis runs over chunks of channels: of a result with e channels, or, if the configuration asks
    # for it (the WIDE form), of one with d channels. A program that computes two gradients does all of both.
    block_d, block_e, chunks, wide = configs.pad(problem.d), configs.pad(problem.e), 1, False
    computed = [given for _, given in flags]
    if kernel is _FORWARD or computed == [False, True]:
        block_e = min(block_e, config.channels)
        chunks = -(-problem.e // block_e)
    elif config.channels and computed in ([True], [True, False]):
        wide = True
        block_d = block_e = config.channels
        chunks = -(-problem.d // block_d)
    if kernel is not _FORWARD:
        flags = (*flags, ("WIDE", wide))
    unit = {
        group: min(TokenView.alignment_of(s) for s, g in zip(strides, kernel.groups) if g == group) for group in "de"
    }
    scalars = problem.scalars()
    numbers: list[int | float] = [s // unit[group] for some, group in zip(strides, kernel.groups) for s in some]
    numbers += [*(scalars[2:] if kernel is _FORWARD else scalars), problem.heads, problem.num_queries, problem.num_keys]
    tiled, tile = (problem.num_keys, config.keys) if kernel.over_keys else (problem.num_queries, config.queries)
    constants = {
        "D": problem.d,
        "E": problem.e,
        "BLOCK_D": block_d,
        "BLOCK_E": block_e,
        "BLOCK_N": config.queries,
        "BLOCK_M": config.keys,
        "UNIT_D": unit["d"],
        "UNIT_E": unit["e"],
        "CHANNELS_LAST": problem.channels_last,
        "CAUSAL": problem.attributes.is_causal,
        "EVEN_N": problem.num_queries % config.queries == 0,
        "EVEN_M": problem.num_keys % config.keys == 0,
        "ACC": tl.float64 if problem.dtype == torch.float64 else tl.float32,
        "PRECISION": precision,
        **dict(flags),
    }
    grid = (problem.samples * -(-tiled // tile), chunks)
    return _Plan(grid, numbers, constants, config.num_warps, config.num_stages)


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    problem = _Problem.of(attributes, *inputs)
    output, log_sum_exp = fake_forward(attributes, inputs)
    q, k, v, o = map(problem.view, (*inputs, output))
    tensors = [q.tensor, k.tensor, v.tensor, o.tensor, log_sum_exp]
    problem.start(_FORWARD, "forward", tensors, [q, k, v, o])
    return output, log_sum_exp


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    problem = _Problem.of(attributes, *inputs)
    gradients, (delta,) = fake_backward(attributes, needs, grad_output, inputs, output, state)
    grad_query, grad_key, grad_value = gradients
    q, k, v, o, do = map(problem.view, (*inputs, output, grad_output))
    dq = q if grad_query is None else problem.view(grad_query)
    problem.start(
        _QUERY, "backward_query",
        [q.tensor, k.tensor, v.tensor, o.tensor, do.tensor, state[0], delta, dq.tensor],
        [q, k, v, o, do, dq], WITH_GRAD=grad_query is not None,
    )  # fmt: skip

    def over_keys(name: str, with_key: bool, with_value: bool) -> None:
        dk = k if grad_key is None else problem.view(grad_key)
        dv = v if grad_value is None else problem.view(grad_value)
        problem.start(
            _KEY_VALUE, name, [q.tensor, k.tensor, v.tensor, do.tensor, state[0], delta, dk.tensor, dv.tensor],
            [q, k, v, do, dk, dv], KEY=with_key, VALUE=with_value,
        )  # fmt: skip

    both = grad_key is not None and grad_value is not None
    if both and problem.fused("backward_key_value"):
        over_keys("backward_key_value", True, True)
    else:
        if grad_key is not None:
            over_keys("backward_key", True, False)
        if grad_value is not None:
            over_keys("backward_value", False, True)
    return gradients, (delta,)


def double_backward(
    attributes: Attributes,
    needs: Needs,
    cotangents: Tensors,
    grad_output: Tensor,
    inputs: Tensors,
    output: Tensor,
    state: Tensors,
    notes: Tensors,
) -> Gradients:
    problem = _Problem.of(attributes, *inputs)
    gradients = fake_double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)
    grad_grad_output, grad_query, grad_key, grad_value = gradients
    q, k, v, o, do, a, b, c = map(problem.view, (*inputs, output, grad_output, *cotangents))
    row_r, row_w = problem.rows(), problem.rows()
    ddo = o if grad_grad_output is None else problem.view(grad_grad_output)
    # r and w, which the keys and values need, come with ∂q: it gets a place to go even if nobody asked for it.
    dq = problem.view(torch.empty_like(q.tensor) if grad_query is None else grad_query)

    def over_queries(name: str, with_query: bool, with_output: bool) -> None:
        problem.start(
            _DOUBLE_QUERY, name,
            [q.tensor, k.tensor, v.tensor, o.tensor, do.tensor, a.tensor, b.tensor, c.tensor,
             state[0], notes[0], row_r, row_w, dq.tensor, ddo.tensor],
            [q, k, v, o, do, a, b, c, dq, ddo], QUERY=with_query, OUTPUT=with_output,
        )  # fmt: skip

    def over_keys(name: str, with_key: bool, with_value: bool) -> None:
        dk = k if grad_key is None else problem.view(grad_key)
        dv = v if grad_value is None else problem.view(grad_value)
        problem.start(
            _DOUBLE_KEY_VALUE, name,
            [q.tensor, k.tensor, v.tensor, do.tensor, a.tensor, b.tensor, c.tensor,
             state[0], notes[0], row_r, row_w, dk.tensor, dv.tensor],
            [q, k, v, do, a, b, c, dk, dv], KEY=with_key, VALUE=with_value,
        )  # fmt: skip

    inputs_needed = any(g is not None for g in (grad_query, grad_key, grad_value))
    if grad_grad_output is not None and inputs_needed and problem.fused("double_backward_query_output"):
        over_queries("double_backward_query_output", True, True)
    else:
        if inputs_needed:
            over_queries("double_backward_query", True, False)
        if grad_grad_output is not None:
            over_queries("double_backward_output", False, True)
    if grad_key is not None and grad_value is not None and problem.fused("double_backward_key_value"):
        over_keys("double_backward_key_value", True, True)
    else:
        if grad_key is not None:
            over_keys("double_backward_key", True, False)
        if grad_value is not None:
            over_keys("double_backward_value", False, True)
    return gradients


IMPLEMENTATION = Implementation(
    forward, backward, double_backward, fake_forward, fake_backward, fake_double_backward
)  # fmt: skip
