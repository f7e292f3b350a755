"""The passes of an op as things to time, and the check that comes before."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ganfuse.bench import correctness
from ganfuse.bench.subject import PASSES, Op, as_list
from ganfuse.bench.timing import Call

Results = Mapping[str, Tensor]
State = tuple[list[Tensor], list[Tensor], list[Tensor]]


def calls(
    op: Op, inputs: Sequence[Tensor], grads: Sequence[Tensor], penalised: int, *, second: bool
) -> dict[str, Call]:
    """What to time of one implementation, by the names of `PASSES`.

    Args:
        inputs: of the op; those that require grad are its leaves. grads: of its outputs.
        penalised: number of leading leaves whose gradients are differentiated again.
        second: it can be differentiated twice.
    """
    leaves = [x for x in inputs if x.requires_grad]

    def forward(_: object) -> list[Tensor]:
        with torch.no_grad():
            return as_list(op(*inputs))

    def backward(_: object) -> list[Tensor]:
        outputs = as_list(op(*inputs))
        return [*outputs, *torch.autograd.grad(outputs, leaves, list(grads))]

    def graph() -> State:
        cotangents = [g.detach().requires_grad_() for g in grads]
        first = torch.autograd.grad(as_list(op(*inputs)), leaves[:penalised], cotangents, create_graph=True)
        return list(first), [*leaves, *cotangents], [g.detach() for g in first]

    def double_backward(state: State) -> list[Tensor | None]:
        first, all_leaves, cotangents = state
        return list(torch.autograd.grad(first, all_leaves, cotangents, allow_unused=True))

    made = (Call(forward), Call(backward), Call(double_backward, graph))
    return dict(zip(PASSES, made if second else made[:2]))


def results_of(call: Call, indices: Sequence[int] | None = None) -> dict[str, Tensor]:
    """What a pass gives, by place; of some samples only, where `indices` are given."""
    found: Sequence[Any] = call.run(call.prepare())
    chosen = {str(i): x.detach() for i, x in enumerate(found) if x is not None}
    return chosen if indices is None else {name: x[list(indices)] for name, x in chosen.items()}


def wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Leaves of the same numbers in float64."""
    return [x.detach().double().requires_grad_(x.requires_grad) for x in tensors]


def samples(tensors: Sequence[Tensor], indices: Sequence[int]) -> list[Tensor]:
    """Leaves of some samples."""
    return [x.detach()[list(indices)].requires_grad_(x.requires_grad) for x in tensors]


def check(found: Results, exact: Results, plain: Results) -> tuple[dict[str, float], list[str]]:
    """(relative errors, a sentence for each result that is wrong). What vanishes in float64 must be next to nothing."""
    missing = [f"{name}: missing" for name, x in exact.items() if name not in found and float(x.norm()) > 1e-6]
    there = {name: x for name, x in found.items() if name in exact and float(exact[name].norm()) > 1e-6}
    errors, wrong = correctness.failures(there, exact, {name: plain.get(name, x) for name, x in there.items()})
    for name, x in found.items():
        # Beside tensors of unit variance.
        if name not in there and not float(x.double().norm()) <= 1e-3 * x.numel() ** 0.5:
            wrong.append(f"{name}: norm {float(x.double().norm()):.2g} where it vanishes")
    return errors, missing + wrong
