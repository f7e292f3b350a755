"""The passes of attention that are timed, and what each must compute.

forward           the output, with no graph.
backward          gradients of query, key and value, given the graph of the forward.
forward_backward  both.
double_backward   gradients, of those gradients, for query, key, value and grad_output, given the graph of the backward.
penalty           all of it at once: forward, backward, the sum of squares of the gradients (as in R1 or a gradient
                  penalty), and its gradients.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from benchmarks.attention_cases import Inputs
from ganfuse.bench.timing import Call
from ganfuse.kernels.feature_attention import reference

PASSES = ("forward", "backward", "forward_backward", "double_backward", "penalty")

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Penalty = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

_FIRST = ("grad_query", "grad_key", "grad_value")
_SECOND = ("second_query", "second_key", "second_value", "second_grad_output")
RESULTS = {
    "forward": ("output",),
    "backward": _FIRST,
    "forward_backward": _FIRST,
    "double_backward": _SECOND,
    "penalty": _SECOND,
}


def sum_of_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Σ‖x‖², in float32 at least."""
    squares = [(x if x.dtype == torch.float64 else x.float()).square().sum() for x in tensors]
    return torch.stack(squares).sum()


def calls(inputs: Inputs, attention: Attention | None, penalty: Penalty | None = None) -> dict[str, Call]:
    """What to time of one implementation.

    Args:
        attention: (query, key, value) → output; None for an implementation that has only the penalty.
        penalty: (query, key, value, grad_output) → the scalar penalty; None composes it of `attention`.
    """

    def leaves() -> list[Tensor]:
        return [x.detach().requires_grad_() for x in inputs]

    def penalty_of(run: Penalty) -> tuple[Tensor, ...]:
        tensors = leaves()
        return torch.autograd.grad(run(*tensors), tensors)

    if attention is None:
        if penalty is None:
            raise ValueError("calls: attention or penalty must be given, got neither")
        only = penalty
        return {"penalty": Call(lambda _: penalty_of(only))}
    attend = attention

    def forward(_: object) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (attend(inputs.query, inputs.key, inputs.value),)

    def graph() -> tuple[Tensor, list[Tensor]]:
        tensors = leaves()
        return attend(*tensors[:3]), tensors

    def backward(state: tuple[Tensor, list[Tensor]]) -> tuple[Tensor, ...]:
        output, tensors = state
        return torch.autograd.grad(output, tensors[:3], inputs.grad_output)

    def second_graph() -> tuple[tuple[Tensor, ...], list[Tensor], list[Tensor]]:
        output, tensors = graph()
        first = torch.autograd.grad(output, tensors[:3], tensors[3], create_graph=True)
        return first, tensors, [2 * g.detach() for g in first]

    def double_backward(state: tuple[tuple[Tensor, ...], list[Tensor], list[Tensor]]) -> tuple[Tensor, ...]:
        first, tensors, cotangents = state
        return torch.autograd.grad(first, tensors, cotangents)

    def composed(*tensors: Tensor) -> Tensor:
        output = attend(*tensors[:3])
        return sum_of_squares(torch.autograd.grad(output, tensors[:3], tensors[3], create_graph=True))

    return {
        "forward": Call(forward),
        "backward": Call(backward, graph),
        "forward_backward": Call(lambda _: backward(graph())),
        "double_backward": Call(double_backward, second_graph),
        "penalty": Call(lambda _: penalty_of(penalty or composed)),
    }


def definition(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The reference, as one function of three tensors."""
    return reference.feature_attention(query, key, value, 1.0)


def expected(inputs: Inputs, indices: Sequence[int], *, exact: bool) -> Mapping[str, Tensor]:
    """All results of the reference for some samples: in float64, or as plain PyTorch has them in the inputs' type."""
    by_name: dict[str, list[Tensor]] = {}
    for index in indices:
        sample = inputs.sample(index)
        todo = calls(sample.double() if exact else sample, definition)
        for name in ("forward", "backward", "double_backward"):
            call = todo[name]
            for result, x in zip(RESULTS[name], call.run(call.prepare())):
                by_name.setdefault(result, []).append(x.detach())
    return {name: torch.cat(parts) for name, parts in by_name.items()}
