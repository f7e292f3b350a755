"""What `auto` takes on CPUs for small maps: PyTorch's own normalisation, where it is right to."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ganfuse.kernels import Prologue, batch_norm_act, group_norm_act, instance_norm_act, use_backend
from ganfuse.kernels.channel_norm import native
from tests.kernels.channel_norm.problems import NORMS, Problem, call, check, derivatives, make_inputs

TAKEN = tuple(norm for norm in NORMS if norm != "batch")


@pytest.fixture
def results(monkeypatch):
    """Whether each call since was taken; None in their place for calls that were handed back."""
    seen = []
    original = native.channel_norm

    def spied(*arguments):
        y = original(*arguments)
        seen.append(None if y is None else True)
        return y

    monkeypatch.setattr(native, "channel_norm", spied)
    return seen


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    norm=st.sampled_from(TAKEN),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 19), st.integers(1, 6), st.integers(2, 7)),
    parameters=st.sampled_from(["shared", "own", "none", "gain", "bias"]),
    activation=st.sampled_from(["none", "relu", "leaky_relu", "silu"]),
    layout=st.sampled_from(["nchw", "channels_last", "nchw slice", "channels_last slice"]),
)
def test_all_derivatives(norm, shape, parameters, activation, layout):
    check(Problem(norm, shape, parameters, activation, layout), "auto")


@pytest.mark.parametrize("norm", TAKEN)
def test_third_derivatives(norm, results):
    problem = Problem(norm, (2, 6, 2, 3), "own", "silu")

    def third(which):
        inputs = make_inputs(problem)
        total = call(problem, which)(*inputs).sin().sum()
        for _ in range(3):
            gradients = torch.autograd.grad(total, inputs, create_graph=True)
            total = sum(g.square().sum() for g in gradients)
        return gradients

    actual = third("auto")
    assert results == [True]
    for a, e in zip(actual, third("reference")):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("norm", TAKEN)
def test_single_precision(norm, layout, results):
    problem = Problem(norm, (3, 6, 5, 7), "own", "relu", layout)
    check(problem, "auto", make_inputs(problem, torch.float32))
    assert True in results
    x = make_inputs(problem, torch.float32)[0]
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for name, result in derivatives(call(problem, "auto"), make_inputs(problem, torch.float32), order=1):
        assert result.shape != x.shape or result.is_contiguous(memory_format=format), name


@pytest.mark.parametrize("norm", ["instance", "layer", "group", "mix"])
def test_means_far_from_zero_are_handed_back(norm, results):
    problem = Problem(norm, (2, 4, 9, 15), "shared")
    x, *rest = make_inputs(problem, torch.float32)
    x = (1e4 + torch.randn(x.shape)).requires_grad_()
    exact = call(problem, "reference")(x.detach().double(), *(p.detach().double() for p in rest))
    y = call(problem, "auto")(x, *rest)
    assert results == [None]
    assert (y.double() - exact).abs().max() < 1e-3 * exact.std()
    torch.testing.assert_close(y, call(problem, "eager")(x, *rest), rtol=0, atol=0)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e4])
@pytest.mark.parametrize("norm", TAKEN)
def test_constant_maps(norm, value):
    problem = Problem(norm, (2, 4, 3, 3), "own", "silu")
    _, *rest = make_inputs(problem, torch.float32)
    for name, result in derivatives(
        call(problem, "auto"), (torch.full(problem.shape, value, requires_grad=True), *rest)
    ):
        assert torch.isfinite(result).all(), name


def test_what_is_not_taken(results):
    x, vector = torch.randn(2, 4, 6, 6), torch.rand(4)
    batch_norm_act(x, vector, vector, None, None, training=True)
    instance_norm_act(x, vector, vector, backend="eager")
    with use_backend("eager"):
        group_norm_act(x, 2, vector, vector)
    instance_norm_act(x, vector, vector, noise=torch.randn(1, 1, 6, 6), noise_strength=vector)
    instance_norm_act(x, vector, vector, prologue=Prologue(bias=vector))
    instance_norm_act(x.bfloat16(), vector, vector)
    instance_norm_act(x[:0], vector, vector)
    instance_norm_act(torch.randn(1, 64, 128, 128), None, None)
    torch.func.vjp(lambda x: instance_norm_act(x, vector, vector), x)
    assert not results
    instance_norm_act(x, vector, vector)
    assert results == [True]


def test_the_output_may_be_changed_in_place(results):
    """As where our own passes run: codebases add to what a layer gives them."""
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    for activation in ("none", "relu", "leaky_relu", "silu"):
        plain = instance_norm_act(x, None, None, activation=activation)
        (expected,) = torch.autograd.grad(plain.square().sum(), x)
        y = instance_norm_act(x, None, None, activation=activation)
        assert y._base is None
        (actual,) = torch.autograd.grad(y, x, 2 * y.detach().add_(1).sub_(1).clone())
        torch.testing.assert_close(actual, expected)
        y = instance_norm_act(x, None, None, activation=activation)
        grad = 2 * y.detach().clone()
        y.add_(1)
        torch.testing.assert_close(torch.autograd.grad(y, x, grad)[0], expected)
    assert all(results)


def test_buffers_may_move_between_forward_and_backward():
    """Evaluation, then a training call on the same buffers, then the backward of the first."""
    x, mean, var = torch.randn(4, 3, 5, 5, requires_grad=True), torch.zeros(3), torch.ones(3)
    y = batch_norm_act(x, None, None, mean, var, training=False)
    batch_norm_act(x, None, None, mean, var, training=True)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, torch.full_like(x, (1 + 1e-5) ** -0.5))
