"""Derivatives against finite differences, and those beyond the second against the definition."""

import functools

import pytest
import torch

from ganfuse.kernels import scaled_dot_product_attention
from tests.kernels.feature_attention.problems import Problem, make_inputs, ours

SMALL = {
    "square": Problem(2, 3, 4, (2, 3), (2, 3)),
    "pooled": Problem(1, 4, 2, (4, 5), (2, 3)),
    "two tiles": Problem(1, 2, 3, (5, 7), (3, 6)),
}


@pytest.mark.parametrize("name", SMALL)
def test_first(backend, name):
    assert torch.autograd.gradcheck(ours(backend, 0.8), make_inputs(SMALL[name]), fast_mode=True)


@pytest.mark.parametrize("name", SMALL)
def test_second(backend, name):
    assert torch.autograd.gradgradcheck(ours(backend, 0.8), make_inputs(SMALL[name]), fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "keys"), [(3, 20), (35, 5)])
def test_causal(backend, queries, keys):
    q, k, v = (
        torch.randn(2, n, c, dtype=torch.float64, requires_grad=True) for n, c in ((queries, 3), (keys, 3), (keys, 4))
    )
    attend = functools.partial(scaled_dot_product_attention, is_causal=True, backend=backend)
    assert torch.autograd.gradcheck(attend, (q, k, v), fast_mode=True)
    assert torch.autograd.gradgradcheck(attend, (q, k, v), fast_mode=True)


def _chain(attend, inputs, orders):
    """Gradients of every order, each of a nonlinear function of all the gradients before."""
    total = attend(*inputs).sin().sum()
    for _ in range(orders):
        gradients = torch.autograd.grad(total, inputs, create_graph=True)
        total = sum(g.sin().sum() for g in gradients)
        yield gradients


def test_up_to_the_fourth(backend):
    inputs = make_inputs(Problem(1, 2, 3, (2, 2), (2, 1)))
    levels = zip(_chain(ours(backend), inputs, 4), _chain(ours("reference"), inputs, 4))
    for order, (actual, expected) in enumerate(levels, 1):
        for name, a, e in zip(("query", "key", "value"), actual, expected):
            assert torch.allclose(a, e, rtol=1e-8, atol=1e-8), f"{name}, order {order}"


def test_third_without_a_graph_beyond(backend):
    """create_graph=False at the third level, as an optimiser of a second-order penalty has it."""
    inputs = make_inputs(Problem(1, 2, 3, (2, 2), (2, 1)))

    def third(attend):
        *_, (total,) = ((sum(g.square().sum() for g in gs),) for gs in _chain(attend, inputs, 2))
        return torch.autograd.grad(total, inputs)

    for a, e in zip(third(ours(backend)), third(ours("reference"))):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)
        assert not a.requires_grad
