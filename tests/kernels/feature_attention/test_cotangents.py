"""Only some inputs need gradients, only some gradients are used, grad_output comes in every form."""

import itertools

import pytest
import torch

from tests.kernels.feature_attention.problems import Problem, make_inputs, ours

PROBLEM = Problem(1, 4, 6, (3, 4), (2, 3))
SUBSETS = [s for n in (1, 2, 3) for s in itertools.combinations(range(3), n)]


def _inputs(differentiable):
    return tuple(x.requires_grad_(i in differentiable) for i, x in enumerate(make_inputs(PROBLEM)))


def _close(actual, expected):
    for a, e in zip(actual, expected, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("needed", SUBSETS, ids=str)
def test_r1_when_only_some_inputs_need_gradients(backend, needed):
    inputs = _inputs(needed)
    leaves = [inputs[i] for i in needed]

    def penalty(which):
        first = torch.autograd.grad(ours(which)(*inputs).sin().sum(), leaves, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)]

    _close(penalty(backend), penalty("reference"))


@pytest.mark.parametrize("used", SUBSETS, ids=str)
def test_only_some_gradients_enter_the_penalty(backend, used):
    inputs = _inputs((0, 1, 2))

    def penalty(which):
        first = torch.autograd.grad(ours(which)(*inputs).sin().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(first[i].square().sum() for i in used), inputs)

    _close(penalty(backend), penalty("reference"))


@pytest.mark.parametrize("used", SUBSETS, ids=str)
@pytest.mark.parametrize("wanted", [(), (0,), (1,), (2,)], ids=str)
def test_constant_or_wanted_grad_output(backend, used, wanted):
    """grad_output alone (a loss linear in the output), or with one input; never anything that was not asked for."""
    inputs = _inputs((0, 1, 2))
    grad_output = torch.randn(1, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    leaves = [grad_output, *(inputs[i] for i in wanted)]

    def gradients(which):
        first = torch.autograd.grad(ours(which)(*inputs), inputs, grad_output, create_graph=True)
        second = torch.autograd.grad(sum(first[i].square().sum() for i in used), leaves, allow_unused=True)
        # dv does not depend on v: None from the definition's graph, zeros or None from ours.
        return [torch.zeros_like(x) if g is None else g for g, x in zip(second, leaves)]

    _close(gradients(backend), gradients("reference"))


def test_penalty_on_a_linear_head(backend):
    """grad_output is a constant that requires no gradient, as in R1 of a sum."""
    inputs = _inputs((0, 1, 2))

    def penalty(which):
        first = torch.autograd.grad(ours(which)(*inputs).sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    _close(penalty(backend), penalty("reference"))


def test_one_key_has_no_gradient(backend):
    """The output does not depend on q and k where there is one key; nothing divides zero by zero."""
    inputs = make_inputs(Problem(1, 4, 6, (3, 4), (1, 1)))
    first = torch.autograd.grad(ours(backend)(*inputs).sin().sum(), inputs, create_graph=True)
    assert first[0].abs().max() < 1e-15
    assert first[1].abs().max() < 1e-14
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    assert all(torch.isfinite(g).all() for g in second)


def test_no_graph_when_nothing_requires_gradients(backend):
    inputs = [x.detach() for x in make_inputs(PROBLEM)]
    assert not ours(backend)(*inputs).requires_grad
    with torch.no_grad():
        assert not ours(backend)(*make_inputs(PROBLEM)).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(ours(backend)(*inputs), ours("reference")(*inputs))


def test_first_gradient_of_a_graph_kept_is_the_same_again(backend):
    inputs = make_inputs(PROBLEM)
    total = ours(backend)(*inputs).sin().sum()
    once = torch.autograd.grad(total, inputs, retain_graph=True)
    _close(torch.autograd.grad(total, inputs), once)
