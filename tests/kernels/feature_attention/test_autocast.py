"""Under autocast, attention runs in autocast's type, and gradients come back in the inputs'."""

import pytest
import torch

from ganfuse.kernels import feature_attention, scaled_dot_product_attention
from tests.kernels.assertions import assert_as_accurate
from tests.kernels.feature_attention.problems import PROBLEMS, derivatives, exactly, make_inputs, ours


def _dtype(backend):
    # The interpreter computes bfloat16 wrongly.
    return torch.float16 if backend == "triton" else torch.bfloat16


def test_float32_inputs(backend):
    inputs = make_inputs(PROBLEMS["primes"], torch.float32)
    with torch.autocast("cpu", _dtype(backend)):
        named = dict(derivatives(ours(backend), inputs))
        plain = dict(derivatives(ours("reference"), inputs))
    exact = dict(derivatives(ours("reference"), tuple(map(exactly, inputs))))
    assert named["output"].dtype == _dtype(backend)
    assert named["gradient of query"].dtype == torch.float32
    for name, result in named.items():
        assert result.dtype == plain[name].dtype, name
        assert_as_accurate(result, plain[name], exact[name].detach(), name)


def test_mixed_types_become_one(backend):
    q, k, v = (x.detach() for x in make_inputs(PROBLEMS["primes"], torch.float32))
    half = _dtype(backend)
    with pytest.raises(ValueError, match="key must have the type of query"):
        feature_attention(q, k.to(half), v, backend=backend)
    with torch.autocast("cpu", half):
        mixed = feature_attention(q, k.to(half), v, backend=backend)
        assert torch.equal(mixed, feature_attention(q, k, v, backend=backend))
    assert torch.equal(mixed, feature_attention(*(x.to(half) for x in (q, k, v)), backend=backend))


def test_float64_is_left_alone(backend):
    inputs = [x.detach() for x in make_inputs(PROBLEMS["primes"])]
    outside = ours(backend)(*inputs)
    with torch.autocast("cpu", _dtype(backend)):
        inside = ours(backend)(*inputs)
    assert inside.dtype == torch.float64
    assert torch.equal(inside, outside)


def test_token_lists_too(backend):
    q, k, v = (torch.randn(2, n, 4) for n in (5, 7, 7))
    with torch.autocast("cpu", _dtype(backend)):
        assert scaled_dot_product_attention(q, k, v, backend=backend).dtype == _dtype(backend)
        with torch.autocast("cpu", enabled=False):
            assert scaled_dot_product_attention(q, k, v, backend=backend).dtype == torch.float32


def test_penalty_taken_under_autocast_of_a_forward_outside(backend):
    """A layer kept in float32 (autocast off around it) inside a discriminator whose penalty runs under autocast."""
    inputs = make_inputs(PROBLEMS["primes"], torch.float32)

    def penalty(attend):
        output = attend(*inputs)
        with torch.autocast("cpu", _dtype(backend)):
            first = torch.autograd.grad(output, inputs, torch.ones_like(output), create_graph=True)
            return [*first, *torch.autograd.grad(first, inputs, [torch.ones_like(g) for g in first])]

    with_autocast = penalty(ours(backend))
    output = ours(backend)(*inputs)
    first = torch.autograd.grad(output, inputs, torch.ones_like(output), create_graph=True)
    without = [*first, *torch.autograd.grad(first, inputs, [torch.ones_like(g) for g in first])]
    assert all(map(torch.equal, with_autocast, without))
