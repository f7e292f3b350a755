"""bfloat16 maps on CPUs, which are read and written as they are, beside the definition and float64."""

import pytest
import torch

from ganfuse.kernels import batch_norm_act
from ganfuse.kernels.channel_norm import eager_narrow
from tests.kernels.assertions import assert_as_accurate
from tests.kernels.channel_norm.problems import Problem, call, make_inputs

NORMS = ("batch", "given", "instance", "instance unbiased", "group", "mix")
# A sample of 2¹⁴ elements and some more, in rows of odd length.
SHAPE = (3, 12, 37, 39)


@pytest.fixture
def used(monkeypatch):
    """The names of what was called of `NarrowMap`."""
    calls = []

    def spy_on(name):
        call = getattr(eager_narrow.NarrowMap, name)
        monkeypatch.setattr(eager_narrow.NarrowMap, name, lambda *args: calls.append(name) or call(*args))

    for name in ("affine", "scaled", "batch_norm_backward"):
        spy_on(name)
    return calls


def results(problem, backend, inputs, grad):
    y = call(problem, backend)(*inputs)
    return [y, *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


def check(problem, inputs, grad=None):
    """Maps are as accurate as by the definition, which computes in float32 and rounds once.

    Gradients of parameters are sums in float32, of what is rounded to bfloat16 once where activations bend.
    """
    if grad is None:
        grad = torch.randn(problem.shape, generator=torch.Generator().manual_seed(5)).bfloat16()
    exact = results(problem, "reference", [t.detach().double().requires_grad_() for t in inputs], grad)
    definition = results(problem, "reference", inputs, grad)
    ours = results(problem, "eager", inputs, grad)
    format = torch.channels_last if problem.layout == "channels_last" else torch.contiguous_format
    for name, mine, theirs, right in zip(("y", "x"), ours, definition, exact):
        assert mine.is_contiguous(memory_format=format)
        assert_as_accurate(mine, theirs, right, name)
    rounding = torch.finfo(torch.bfloat16).eps if problem.activation in ("leaky_relu", "silu") else 3e-5
    for mine, theirs, right in zip(ours[2:], definition[2:], exact[2:], strict=True):
        assert mine.dtype == theirs.dtype
        error, allowed = ((t.double() - right).norm() for t in (mine, theirs))
        assert error <= 3 * allowed + rounding * right.norm()


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("parameters", ["shared", "own", "none", "bias"])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "silu"])
@pytest.mark.parametrize("norm", NORMS)
def test_values_and_derivatives(norm, activation, parameters, layout, used):
    problem = Problem(norm, SHAPE, parameters, activation, layout)
    check(problem, make_inputs(problem, torch.bfloat16, torch.float32))
    assert "affine" in used
    assert ("batch_norm_backward" if norm == "batch" and parameters != "own" else "scaled") in used


def with_map(problem, x):
    return [x.detach().requires_grad_(), *make_inputs(problem, torch.bfloat16, torch.float32)[1:]]


@pytest.mark.parametrize("parameters", ["shared", "own"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("norm", ["batch", "instance", "group", "mix"])
@pytest.mark.parametrize(("mean", "near"), [(30.0, True), (3000.0, False)])
def test_means_far_from_zero(norm, layout, parameters, mean, near, used):
    """From some size on they are subtracted first."""
    problem = Problem(norm, SHAPE, parameters, "relu", layout)
    x = make_inputs(problem, torch.bfloat16)[0].float() + mean
    check(problem, with_map(problem, x.bfloat16()))
    assert bool(used) == near


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_constant_channels(norm, layout):
    problem = Problem(norm, SHAPE, "own", "none", layout)
    x = make_inputs(problem, torch.bfloat16)[0].detach().clone()
    x[:, 3], x[:, 5] = 0.0, 7.0
    check(problem, with_map(problem, x))


@pytest.mark.parametrize("parameters", ["shared", "own"])
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_maps_with_gaps(norm, layout, parameters, used):
    """Slices of wider maps, and a gradient that is one number."""
    problem = Problem(norm, SHAPE, parameters, "relu", layout)
    wide = make_inputs(Problem(norm, (3, 20, 37, 39), layout=layout), torch.bfloat16)[0]
    grad = torch.tensor(0.5, dtype=torch.bfloat16).expand(SHAPE)
    check(problem, with_map(problem, wide[:, 4:16]), grad)
    assert used


def test_parameters_in_bfloat16(used):
    """As a linear layer makes them under autocast."""
    problem = Problem("batch", SHAPE, "own", "relu", "channels_last")
    check(problem, make_inputs(problem, torch.bfloat16))
    assert used


@pytest.mark.parametrize("norm", ["batch", "given"])
def test_small_samples_in_channels_last_are_copied(norm, used):
    """Calls for each of them would cost more; numbers of channels alone need only one."""
    for parameters in ("own", "shared"):
        problem = Problem(norm, (6, 8, 9, 8), parameters, "relu", "channels_last")
        check(problem, make_inputs(problem, torch.bfloat16, torch.float32))
        assert bool(used) == (parameters == "shared" and norm == "batch")


def test_running_statistics_keep_their_type():
    x = torch.randn(5, 32, 64, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last)
    mean, var = torch.zeros(32), torch.ones(32)
    batch_norm_act(x, None, None, mean, var, training=True, momentum=1.0, backend="eager")
    torch.testing.assert_close(mean, x.float().mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(var, x.float().var((0, 2, 3)), rtol=1e-4, atol=1e-5)
