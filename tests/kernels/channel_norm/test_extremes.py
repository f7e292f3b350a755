"""Means far from zero, variances of zero, maps of one element."""

import functools

import pytest
import torch

from ganfuse.kernels import batch_norm_act, instance_norm_act, layer_instance_norm_act
from tests.kernels.channel_norm.problems import NORMS, Problem, call, derivatives, make_inputs

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "group", "mix"])
def test_mean_ten_thousand_deviations_from_zero(backend, norm, layout):
    problem = Problem(norm, (2, 4, 9, 15), "shared")
    x, *rest = make_inputs(problem, torch.float32)
    x = (1e4 + torch.randn(x.shape)).to(memory_format=FORMATS[layout]).requires_grad_()
    exact = call(problem, "reference")(x.detach().double(), *(p.detach().double() for p in rest))
    error = (call(problem, backend)(x, *rest).double() - exact).abs().max()
    assert error < 1e-3 * exact.std()
    # What is to be avoided does fail here, so that the test can.
    naive = x.detach().square().mean((2, 3)) - x.detach().mean((2, 3)).square()
    assert (naive - x.detach().double().var((2, 3), correction=0)).abs().max() > 0.1


@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
@pytest.mark.parametrize("norm", NORMS)
def test_constant_maps(backend, norm, value):
    problem = Problem(norm, (2, 4, 3, 3), "own", "silu")
    _, *rest = make_inputs(problem, torch.float32)
    x = torch.full(problem.shape, value, requires_grad=True)
    for name, result in derivatives(call(problem, backend), (x, *rest)):
        assert torch.isfinite(result).all(), name


@pytest.mark.parametrize("norm", NORMS)
def test_third_derivatives_of_constant_maps(backend, norm):
    x, *rest = make_inputs(Problem(norm, (2, 4, 3, 3), "own", "silu"), torch.float32)
    leaves = (torch.full_like(x, 3.0).requires_grad_(), *rest)
    total = call(Problem(norm, (2, 4, 3, 3), "own", "silu"), backend)(*leaves).sin().sum()
    for order in range(3):
        gradients = torch.autograd.grad(total, leaves, create_graph=order < 2)
        total = sum(g.square().sum() for g in gradients)
    assert all(torch.isfinite(g).all() for g in gradients)


def test_one_position_gives_the_bias(backend):
    x, gain, bias = (torch.randn(s, requires_grad=True) for s in ((4, 3, 1, 1), (4, 3), (4, 3)))
    for unbiased in (False, True):
        y = instance_norm_act(x, gain, bias, unbiased=unbiased, backend=backend)
        torch.testing.assert_close(y[:, :, 0, 0], bias)
        for _, result in derivatives(
            functools.partial(instance_norm_act, unbiased=unbiased, backend=backend), (x, gain, bias)
        ):
            assert torch.isfinite(result).all()
    rho = torch.full((3,), 0.25)
    y = layer_instance_norm_act(x, rho, None, None, backend=backend)
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True)
    torch.testing.assert_close(y, 0.75 * (x - mean) / (var + 1e-5).sqrt())


@pytest.mark.parametrize("norm", ["mix", "mix biased"])
def test_derivatives_at_one_position(backend, norm):
    problem = Problem(norm, (4, 6, 1, 1), "own", "silu")
    inputs = make_inputs(problem)
    actual, expected = (list(derivatives(call(problem, which), inputs)) for which in (backend, "reference"))
    for (name, a), (_, e) in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("layout", FORMATS)
def test_empty_batch(backend, layout):
    x = torch.empty((0, 4, 3, 3)).to(memory_format=FORMATS[layout]).requires_grad_()
    gain = torch.ones(4, requires_grad=True)
    y = instance_norm_act(x, gain, None, activation="relu", backend=backend)
    on_x, on_gain = torch.autograd.grad(y.sum(), (x, gain))
    assert y.shape == on_x.shape == x.shape
    assert torch.equal(on_gain, torch.zeros(4))


def test_not_a_number_is_not_hidden(backend):
    x = torch.randn(2, 3, 4, 4)
    x[1, 2, 0, 0] = float("nan")
    for activation in ("none", "relu", "leaky_relu", "silu"):
        y = instance_norm_act(x, None, None, activation=activation, backend=backend)
        assert torch.isnan(y[1, 2]).all()
        assert torch.isfinite(y[0]).all()
        assert torch.isfinite(y[1, :2]).all()


@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 7), (2, 3, 2, 3, 2)])
def test_other_numbers_of_dimensions(backend, shape):
    x = torch.randn(shape, dtype=torch.float64)
    gain, bias = torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    y = batch_norm_act(x, gain, bias, None, None, training=True, backend=backend)
    torch.testing.assert_close(y, torch.nn.functional.batch_norm(x, None, None, gain, bias, training=True))
