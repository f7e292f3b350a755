"""Derivatives against finite differences, and the third against the definition."""

import pytest
import torch

from tests.kernels.channel_norm.problems import Problem, call, make_inputs

KINDS = ("batch", "given", "instance unbiased", "group", "mix")


@pytest.mark.parametrize("activation", [pytest.param("leaky_relu", marks=pytest.mark.slow), "silu"])
@pytest.mark.parametrize("norm", KINDS)
def test_first_and_second(backend, norm, activation):
    parameters, layout = ("own", "channels_last") if activation == "silu" else ("shared", "nchw")
    problem = Problem(norm, (2, 6, 2, 3), parameters, activation, layout)
    function, inputs = call(problem, backend), make_inputs(problem)
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@pytest.mark.parametrize("parameters", ["own", "none"])
@pytest.mark.parametrize("norm", KINDS)
def test_third(backend, norm, parameters):
    problem = Problem(norm, (2, 6, 2, 3), parameters, "silu")

    def third(which):
        inputs = make_inputs(problem)
        total = call(problem, which)(*inputs).sin().sum()
        for _ in range(3):
            gradients = torch.autograd.grad(total, inputs, create_graph=True)
            total = sum(g.square().sum() for g in gradients)
        return gradients

    for actual, expected in zip(third(backend), third("reference")):
        torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-8)


def test_gradient_penalty_without_parameters_gradients(backend):
    """WGAN-GP's shape: only x's gradient is asked for, then only the parameters' of its norm."""
    problem = Problem("batch", (3, 4, 2, 3), "shared", "leaky_relu")

    def penalty(which):
        x, gain, bias = make_inputs(problem)
        (gradient,) = torch.autograd.grad(call(problem, which)(x, gain, bias).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), (gain, bias))

    for actual, expected in zip(penalty(backend), penalty("reference")):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
