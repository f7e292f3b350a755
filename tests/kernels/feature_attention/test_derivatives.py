"""Values, gradients and gradients of gradients of every shape, against the definition in float64."""

import pytest
import torch

from ganfuse.kernels import feature_attention
from tests.kernels.feature_attention.problems import PROBLEMS, Problem, check, make_inputs, ours

HALF = (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("name", PROBLEMS)
def test_float64(backend, name):
    check(ours(backend), ours("reference"), make_inputs(PROBLEMS[name]))


@pytest.mark.parametrize("scale", [-0.7, 0.0, 2.5, 1 / 3])
def test_scale(backend, scale):
    check(ours(backend, scale), ours("reference", scale), make_inputs(PROBLEMS["primes"]))


@pytest.mark.parametrize("name", ["whole tiles", "primes", "split", "chunks"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
def test_lower_precision(backend, name, dtype):
    if backend == "triton" and dtype == torch.bfloat16:
        pytest.skip("the interpreter computes bfloat16 wrongly; GPU tests cover it")
    check(ours(backend), ours("reference"), make_inputs(PROBLEMS[name], dtype))


@pytest.mark.parametrize("form", ["nchw", "channels_last"])
def test_batch_of_none(backend, form):
    inputs = make_inputs(Problem(0, 4, 6, (3, 5), (2, 3)), torch.float32, form)
    output = feature_attention(*inputs, backend=backend)
    assert output.shape == (0, 6, 3, 5)
    first = torch.autograd.grad(output.sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    for x, g, h in zip(inputs, first, second):
        assert x.shape == g.shape == h.shape


def test_same_tensor_thrice(backend):
    x = make_inputs(PROBLEMS["square"])[0]

    def penalty(which):
        y = feature_attention(x, x, x, backend=which)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), x)[0]

    torch.testing.assert_close(penalty(backend), penalty("reference"), rtol=1e-11, atol=1e-11)


def test_key_made_from_query(backend):
    """Third derivatives must not count the path from query to key twice."""
    q, _, v = make_inputs(PROBLEMS["square"])

    def third(which):
        total = feature_attention(q, torch.tanh(q), v, backend=which).square().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(total, q, create_graph=True)
            total = gradient.sin().sum()
        return gradient

    torch.testing.assert_close(third(backend), third("reference"), rtol=1e-9, atol=1e-9)
