"""torch.func and the other ways to ask for derivatives: right, or an error."""

import pytest
import torch

from tests.kernels.feature_attention.problems import Problem, make_inputs, ours

INPUTS = Problem(2, 3, 4, (2, 3), (2, 2))


def _penalty(attend, order):
    """A scalar function of the query that holds derivatives up to `order`."""

    def total(q, k, v):
        return attend(q, k, v).sin().sum()

    for _ in range(order):
        total = _squared_gradient(total)
    return total


def _squared_gradient(function):
    return lambda q, k, v: torch.func.grad(function)(q, k, v).square().sum()


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("argnums", [0, 1, 2, (0, 1, 2)])
def test_grad(backend, order, argnums):
    inputs = tuple(x.detach() for x in make_inputs(INPUTS))
    actual = torch.func.grad(_penalty(ours(backend), order), argnums)(*inputs)
    expected = torch.func.grad(_penalty(ours("reference"), order), argnums)(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_third_grad(backend, request):
    reason = "the third derivative calls requires_grad_(), which torch.func forbids"
    request.applymarker(pytest.mark.xfail(strict=True, raises=RuntimeError, reason=reason))
    inputs = tuple(x.detach() for x in make_inputs(INPUTS))
    actual = torch.func.grad(_penalty(ours(backend), 2))(*inputs)
    expected = torch.func.grad(_penalty(ours("reference"), 2))(*inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_vjp(backend):
    inputs = tuple(x.detach() for x in make_inputs(INPUTS))
    results = []
    for which in (backend, "reference"):
        output, pullback = torch.func.vjp(ours(which), *inputs)
        results.append((output, *pullback(torch.cos(output.detach()))))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)


def test_functional_call_penalty_reaches_parameters(backend):
    """R1 through torch.func, trained with .backward(): the two worlds nested."""
    inputs = make_inputs(INPUTS)

    def gradients(which):
        penalty = _penalty(ours(which), 1)(*inputs)
        return torch.autograd.grad(penalty, inputs)

    torch.testing.assert_close(gradients(backend), gradients("reference"), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("transform", ["vmap", "jvp"])
def test_what_is_not_there_raises(backend, transform):
    inputs = tuple(x.detach() for x in make_inputs(INPUTS))
    if transform == "vmap":
        function, arguments = torch.func.vmap(ours(backend)), tuple(x.unsqueeze(0) for x in inputs)
    else:
        function, arguments = torch.func.jvp, (ours(backend), inputs, inputs)
    with pytest.raises((RuntimeError, NotImplementedError), match=transform):
        function(*arguments)


def test_checkpointing(backend):
    inputs = make_inputs(INPUTS)

    def gradients(attend):
        first = torch.autograd.grad(attend(*inputs).sin().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    def checkpointed(*x):
        return torch.utils.checkpoint.checkpoint(ours(backend), *x, use_reentrant=False)

    torch.testing.assert_close(gradients(checkpointed), gradients(ours("reference")), rtol=1e-10, atol=1e-10)


def test_autograd_functional_hessian(backend):
    inputs = tuple(x.detach() for x in make_inputs(Problem(1, 2, 2, (1, 2), (1, 2))))

    def hessian(which):
        return torch.autograd.functional.hessian(lambda *x: ours(which)(*x).sin().sum(), inputs)

    torch.testing.assert_close(hessian(backend), hessian("reference"), rtol=1e-10, atol=1e-10)
