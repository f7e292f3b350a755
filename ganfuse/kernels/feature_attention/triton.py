"""Launchers of the attention kernels: layouts, allocation, tile shapes."""

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

    def config(self, kernel: str) -> configs.Config:
        return configs.choose(kernel, self.target, self.dtype.itemsize, self.d, self.e)

    def fused(self, kernel: str) -> bool:
        return configs.fused(kernel, self.target, self.dtype.itemsize, self.d, self.e)

    def launch(
        self,
        kernel: Any,
        config: configs.Config,
        tensors: list[Tensor],
        views: dict[str, list[TokenView]],
        order: str,
        scalars: list[float],
        *,
        over_keys: bool = False,
        chunks: str = "",
        **flags: bool,
    ) -> None:
        """Start `kernel`; `views` holds the tensors with d (``"d"``) and e (``"e"``) channels, `order` theirs.

        `chunks` says what the second grid axis runs over: ``"e"``, chunks of a result with e channels; ``"d"``, if the
        configuration asks for it (the WIDE form), chunks of one with d channels; nothing.
        """
        unit = {group: min((v.alignment for v in members), default=1) for group, members in views.items()}
        queues = {group: iter(members) for group, members in views.items()}
        strides = [stride for group in order for stride in next(queues[group]).strides(unit[group])]
        block_d, block_e = configs.pad(self.d), configs.pad(self.e)
        chunk_count = 1
        if chunks == "e":
            block_e = min(block_e, config.channels)
            chunk_count = -(-self.e // block_e)
        elif chunks == "d" and config.channels:
            block_d = block_e = config.channels
            chunk_count = -(-self.d // block_d)
        if kernel is not attention_forward:
            flags["WIDE"] = chunks == "d" and config.channels > 0
        tiles = -(-self.num_keys // config.keys) if over_keys else -(-self.num_queries // config.queries)
        grid = (self.samples * tiles, chunk_count)
        constants = {
            "D": self.d,
            "E": self.e,
            "BLOCK_D": block_d,
            "BLOCK_E": block_e,
            "BLOCK_N": config.queries,
            "BLOCK_M": config.keys,
            "UNIT_D": unit["d"],
            "UNIT_E": unit["e"],
            "CHANNELS_LAST": self.channels_last,
            "CAUSAL": self.attributes.is_causal,
            "EVEN_N": self.num_queries % config.queries == 0,
            "EVEN_M": self.num_keys % config.keys == 0,
            "ACC": tl.float64 if self.dtype == torch.float64 else tl.float32,
            "PRECISION": dot_precision(self.dtype),
            **flags,
        }
        args = [*tensors, *strides, *scalars, self.heads, self.num_queries, self.num_keys]
        launch(kernel, grid, self.device, args, constants, num_warps=config.num_warps, num_stages=config.num_stages)


def _chunks(with_d: bool, with_e: bool) -> str:
    """What a kernel that computes one or both of two gradients, of d and of e channels, may split over."""
    return "" if with_d and with_e else "d" if with_d else "e"


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    problem = _Problem.of(attributes, *inputs)
    output, log_sum_exp = fake_forward(attributes, inputs)
    q, k, v, o = map(problem.view, (*inputs, output))
    problem.launch(
        attention_forward, problem.config("forward"),
        [q.tensor, k.tensor, v.tensor, o.tensor, log_sum_exp],
        {"d": [q, k], "e": [v, o]}, "ddee", problem.scalars()[2:], chunks="e",
    )  # fmt: skip
    return output, log_sum_exp


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    problem = _Problem.of(attributes, *inputs)
    gradients, (delta,) = fake_backward(attributes, needs, grad_output, inputs, output, state)
    grad_query, grad_key, grad_value = gradients
    q, k, v, o, do = map(problem.view, (*inputs, output, grad_output))
    scalars = problem.scalars()
    dq = q if grad_query is None else problem.view(grad_query)
    problem.launch(
        attention_backward_query, problem.config("backward_query"),
        [q.tensor, k.tensor, v.tensor, o.tensor, do.tensor, state[0], delta, dq.tensor],
        {"d": [q, k, dq], "e": [v, o, do]}, "ddeeed", scalars,
        chunks="d" if grad_query is not None else "", WITH_GRAD=grad_query is not None,
    )  # fmt: skip

    def over_keys(name: str, with_key: bool, with_value: bool) -> None:
        dk = k if grad_key is None else problem.view(grad_key)
        dv = v if grad_value is None else problem.view(grad_value)
        problem.launch(
            attention_backward_key_value, problem.config(name),
            [q.tensor, k.tensor, v.tensor, do.tensor, state[0], delta, dk.tensor, dv.tensor],
            {"d": [q, k, dk], "e": [v, do, dv]}, "ddeede", scalars,
            over_keys=True, chunks=_chunks(with_key, with_value), KEY=with_key, VALUE=with_value,
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
    row_r, row_w, scalars = problem.rows(), problem.rows(), problem.scalars()
    ddo = o if grad_grad_output is None else problem.view(grad_grad_output)
    dq = q if grad_query is None else problem.view(grad_query)
    if grad_query is None:
        # r and w, which the keys and values need, come with ∂q: give it a place to go.
        dq = problem.view(torch.empty_like(q.tensor))

    def over_queries(name: str, with_query: bool, with_output: bool) -> None:
        problem.launch(
            attention_double_backward_query, problem.config(name),
            [q.tensor, k.tensor, v.tensor, o.tensor, do.tensor, a.tensor, b.tensor, c.tensor,
             state[0], notes[0], row_r, row_w, dq.tensor, ddo.tensor],
            {"d": [q, k, a, b, dq], "e": [v, o, do, c, ddo]}, "ddeeeddede", scalars,
            chunks=_chunks(with_query, with_output), QUERY=with_query, OUTPUT=with_output,
        )  # fmt: skip

    def over_keys(name: str, with_key: bool, with_value: bool) -> None:
        dk = k if grad_key is None else problem.view(grad_key)
        dv = v if grad_value is None else problem.view(grad_value)
        problem.launch(
            attention_double_backward_key_value, problem.config(name),
            [q.tensor, k.tensor, v.tensor, do.tensor, a.tensor, b.tensor, c.tensor,
             state[0], notes[0], row_r, row_w, dk.tensor, dv.tensor],
            {"d": [q, k, a, b, dk], "e": [v, do, c, dv]}, "ddeeddede", scalars,
            over_keys=True, chunks=_chunks(with_key, with_value), KEY=with_key, VALUE=with_value,
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


def unsupported(attributes: Attributes, query: Tensor, key: Tensor, value: Tensor) -> str | None:
    """Why the kernels do not take this call; None if they do."""
    d, e = (shape_of(x, attributes.form).channels for x in (query, value))
    if d > 256 or e > 512:
        return f"head sizes up to 256 (query, key) and 512 (value) are built, got {d} and {e}"
    if query.dtype == torch.float64 and target_of(query.device) != "interpreter":
        return "float64 has no fast tensor cores; the reference is as fast"
    if max(shape_of(x, attributes.form).tokens for x in (query, key)) * max(d, e) >= 2**31:
        return "one sample has 2^31 elements or more"
    return None


IMPLEMENTATION = Implementation(
    forward, backward, double_backward, fake_forward, fake_backward, fake_double_backward
)  # fmt: skip
