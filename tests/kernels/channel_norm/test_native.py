"""What `auto` takes on CPUs for small maps: PyTorch's own normalisation, where it is right to, and mended."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from ganfuse.kernels import Prologue, batch_norm_act, group_norm_act, instance_norm_act, use_backend
from ganfuse.kernels.channel_norm import mended, native, small
from tests.kernels.channel_norm.problems import NORMS, Problem, call, check, derivatives, make_inputs

ENTRIES = ("batch_norm", "evaluated_batch_norm", "group_norm", "layer_instance_norm")


@pytest.fixture
def results(monkeypatch):
    """Whether each call since was taken; None in their place for calls that were handed back."""
    seen = []

    def spied(original):
        def run(*arguments, **options):
            y = original(*arguments, **options)
            seen.append(None if y is None else True)
            return y

        return run

    for name in ENTRIES:
        monkeypatch.setattr(native, name, spied(getattr(native, name)))
    return seen


@pytest.fixture
def large(monkeypatch):
    """Every map counts as one whose second derivatives are those of our passes."""
    monkeypatch.setattr(mended, "_LARGE_BATCH", 1)
    monkeypatch.setattr(mended, "_LARGE_GROUP", 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    norm=st.sampled_from(NORMS),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 19), st.integers(1, 6), st.integers(2, 7)),
    parameters=st.sampled_from(["shared", "own", "none", "gain", "bias"]),
    activation=st.sampled_from(["none", "relu", "leaky_relu", "silu"]),
    layout=st.sampled_from(["nchw", "channels_last", "nchw slice", "channels_last slice"]),
)
def test_all_derivatives(norm, shape, parameters, activation, layout):
    check(Problem(norm, shape, parameters, activation, layout), "auto")


@pytest.mark.parametrize("norm", NORMS)
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
@pytest.mark.parametrize("norm", NORMS)
def test_single_precision(norm, layout, results):
    problem = Problem(norm, (3, 6, 5, 7), "own", "relu", layout)
    check(problem, "auto", make_inputs(problem, torch.float32))
    assert True in results
    x = make_inputs(problem, torch.float32)[0]
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for name, result in derivatives(call(problem, "auto"), make_inputs(problem, torch.float32), order=1):
        assert result.shape != x.shape or result.is_contiguous(memory_format=format), name


@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "group", "mix"])
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
@pytest.mark.parametrize("norm", NORMS)
def test_constant_maps(norm, value):
    problem = Problem(norm, (2, 4, 3, 3), "own", "silu")
    _, *rest = make_inputs(problem, torch.float32)
    for name, result in derivatives(
        call(problem, "auto"), (torch.full(problem.shape, value, requires_grad=True), *rest)
    ):
        assert torch.isfinite(result).all(), name


def test_what_is_not_taken(results):
    x, vector = torch.randn(2, 4, 6, 6), torch.rand(4)
    instance_norm_act(x, vector, vector, backend="eager")
    with use_backend("eager"):
        group_norm_act(x, 2, vector, vector)
    instance_norm_act(x, vector, vector, noise=torch.randn(1, 1, 6, 6), noise_strength=vector)
    instance_norm_act(x, vector, vector, prologue=Prologue(bias=vector))
    instance_norm_act(x.half(), vector, vector)
    instance_norm_act(x[:0], vector, vector)
    instance_norm_act(torch.randn(1, 65, 128, 128), None, None)
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


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("parameters", ["shared", "own", "none", "gain"])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "silu"])
@pytest.mark.parametrize("norm", NORMS)
def test_second_derivatives_in_passes(norm, activation, parameters, layout, large, results):
    check(Problem(norm, (3, 6, 4, 5), parameters, activation, layout), "auto")
    assert results == [True]


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_third_derivatives_behind_our_passes(norm, large, results):
    test_third_derivatives(norm, results)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("parameters", ["shared", "own", "none", "bias"])
@pytest.mark.parametrize("activation", ["none", "relu", "leaky_relu", "silu"])
@pytest.mark.parametrize("norm", ["batch", "given", "instance", "group", "mix"])
def test_bfloat16(norm, activation, parameters, layout, results):
    """Statistics, parameters and second derivatives are in float32: as accurate as the definition, which is too."""
    problem = Problem(norm, (6, 8, 9, 8), parameters, activation, layout)
    check(problem, "auto", make_inputs(problem, torch.bfloat16, torch.float32))
    assert True in results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", ["batch", "given", "row", "group", "mix"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_limits(kind, own, channels_last, dtype):
    """Maps up to the limit are taken, larger ones not."""
    limits = small._MOST_NARROW if dtype == torch.bfloat16 else small._MOST_ELEMENTS
    most = getattr(limits[kind], ("own_" if own else "") + ("channels_last" if channels_last else "nchw"))
    parameters = torch.ones((2, 2) if own else (2,)).to(torch.float64 if dtype == torch.float64 else torch.float32)
    for size, expected in ((most // 4, True), (most // 4 + 1, False)):
        x = torch.empty(2, 2, size, 1, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
        options = kind, "auto", x, parameters, parameters, 1e-5, "relu", 0.2
        assert small.taken(*options) is expected


def test_either_side_of_the_limit_of_fused_derivatives():
    """One map just below and one just above, where the second derivatives change hands."""
    for channels in (15, 16, 17):
        problem = Problem("batch", (16, channels, 16, 16), "shared", "relu")
        assert mended.is_fused("batch", make_inputs(problem)[0]) is (channels >= 16)
        check(problem, "auto")


@pytest.mark.parametrize("parameters", ["shared", "own", "none"])
def test_third_derivatives_of_a_gain_that_depends_on_the_map(parameters, results):
    """x reaches the loss twice, and so do the gradients' graphs."""
    norm = call(Problem("batch", (3, 4, 2, 3), parameters, "silu"), "auto")
    definition = call(Problem("batch", (3, 4, 2, 3), parameters, "silu"), "reference")
    x = make_inputs(Problem("batch", (3, 4, 2, 3)))[0]

    def fourth(run):
        mean = x.mean((2, 3)) if parameters == "own" else x.mean((0, 2, 3))
        given = () if parameters == "none" else (mean.sin(), mean.cos())
        total = run(x, *given).sin().sum()
        for _ in range(4):
            (gradient,) = torch.autograd.grad(total, x, create_graph=True)
            total = gradient.square().sum()
        return gradient

    torch.testing.assert_close(fourth(norm), fourth(definition), rtol=1e-7, atol=1e-7)
    assert results == [True]


def test_gradients_in_batches_are_right_or_refused():
    """Their nodes are out of reach, so that third derivatives could not be mended: no second ones, either."""
    x = make_inputs(Problem("batch", (4, 3, 4, 4)))[0]
    cotangents = torch.randn(5, *x.shape, dtype=x.dtype)
    y, expected = (batch_norm_act(x, None, None, None, None, training=True, backend=b) for b in ("auto", "reference"))
    actual, right = (
        torch.autograd.grad(t, x, cotangents, is_grads_batched=True, create_graph=True)[0] for t in (y, expected)
    )
    torch.testing.assert_close(actual, right)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(actual.square().sum(), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointed(dtype, large, results):
    """Activation checkpointing lets nobody read twice what is saved: such calls are done in passes."""
    x = make_inputs(Problem("batch", (4, 3, 4, 4)), dtype)[0]

    def penalty(run):
        (gradient,) = torch.autograd.grad(run(x).float().square().sum(), x, create_graph=True)
        return torch.autograd.grad(gradient.float().square().sum(), x)[0]

    def norm(t):
        return batch_norm_act(t, None, None, None, None, training=True, activation="silu")

    found = penalty(lambda t: checkpoint(norm, t, use_reentrant=False))
    assert not results
    with use_backend("eager"):
        torch.testing.assert_close(found, penalty(norm))


@pytest.mark.parametrize("mean", [0.5, 1e4])
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_running_statistics_move_once(dtype, x_dtype, mean):
    """Whoever computes the norm: also where a mean far from zero has it handed back."""
    x = (torch.randn(5, 3, 4, 4) + mean).to(x_dtype)
    buffers = [[torch.full((3,), 0.5, dtype=dtype), torch.ones(3, dtype=dtype)] for _ in range(2)]
    for pair, backend in zip(buffers, ("auto", "reference")):
        batch_norm_act(x, None, None, *pair, training=True, momentum=0.3, backend=backend)
    for ours, theirs in zip(*buffers):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


def test_running_statistics_may_move_before_the_backward():
    """As in a discriminator that sees real images, then generated ones, of any sizes."""
    x, large_x = torch.randn(4, 3, 5, 5, requires_grad=True), torch.randn(64, 3, 64, 64)
    mean, var = torch.zeros(3), torch.ones(3)
    first = batch_norm_act(x, None, None, mean, var, training=True)
    version = mean._version
    batch_norm_act(large_x, None, None, mean, var, training=True)
    batch_norm_act(x, None, None, mean, var, training=True)
    # Who saved them knows that they have changed.
    assert mean._version >= version + 2
    (gradient,) = torch.autograd.grad(first.sin().sum(), x)
    again = batch_norm_act(x, None, None, None, None, training=True, backend="reference")
    torch.testing.assert_close(gradient, torch.autograd.grad(again.sin().sum(), x)[0])


def test_only_bias_requires_grad():
    x, bias = torch.randn(4, 3, 5, 5), torch.zeros(3, requires_grad=True)
    y = batch_norm_act(x, None, bias, None, None, training=True, activation="silu")
    (gradient,) = torch.autograd.grad(y.sin().sum(), bias, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), bias)
    with use_backend("reference"):
        y = batch_norm_act(x, None, bias, None, None, training=True, activation="silu")
        (expected,) = torch.autograd.grad(y.sin().sum(), bias, create_graph=True)
        torch.testing.assert_close(second, torch.autograd.grad(expected.sum(), bias)[0])


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 7), (3, 4, 2, 3, 2)])
def test_other_numbers_of_dimensions(shape, results):
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = batch_norm_act(x, None, None, None, None, training=True, activation="relu")
    assert results == [True]
    assert y.shape == x.shape
    expected = batch_norm_act(x, None, None, None, None, training=True, activation="relu", backend="reference")
    torch.testing.assert_close(y, expected)
    gradients = [torch.autograd.grad(t.sin().sum(), x)[0] for t in (y, expected)]
    torch.testing.assert_close(*gradients)


def test_parameters_are_of_any_type(results):
    x = torch.randn(3, 4, 5, 5)
    gain, bias = torch.rand(4, dtype=torch.bfloat16, requires_grad=True), torch.rand(3, 4, requires_grad=True)
    y, expected = (
        batch_norm_act(x, gain, bias, None, None, training=True, backend=backend) for backend in ("auto", "reference")
    )
    assert results == [True]
    torch.testing.assert_close(y, expected)
    for actual, right in zip(*(torch.autograd.grad(t.sum(), (gain, bias)) for t in (y, expected)), strict=True):
        torch.testing.assert_close(actual, right)


def test_wrong_arguments_are_refused():
    x, vector = torch.randn(2, 4, 6, 6), torch.ones(4)
    for gain in (torch.ones(3), torch.ones(3, 4), torch.ones(2, 4, 1), torch.ones(4, dtype=torch.int64), 1.0):
        with pytest.raises(ValueError, match="gain"):
            batch_norm_act(x, gain, vector, None, None, training=True)
    for running in ((torch.ones(3), vector), (vector, None), (vector, torch.ones(5))):
        with pytest.raises(ValueError, match="running"):
            batch_norm_act(x, vector, vector, *running, training=True)
    with pytest.raises(ValueError, match="momentum"):
        batch_norm_act(x, vector, vector, vector, vector, training=True, momentum=1.5)
    with pytest.raises(ValueError, match="eps"):
        batch_norm_act(x, vector, vector, None, None, training=True, eps=-1.0)
    with pytest.raises(ValueError, match="activation"):
        batch_norm_act(x, vector, vector, None, None, training=True, activation="gelu")
    with pytest.raises(ValueError, match="more than one value"):
        batch_norm_act(x[:1, :, :1, :1], vector, vector, None, None, training=True)
    with pytest.raises(ValueError, match="more than one value"):
        batch_norm_act(x[:0], vector, vector, None, None, training=True)
    with pytest.raises(ValueError, match="num_groups"):
        group_norm_act(x, 3, vector, vector)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parameters", ["shared", "own", "none"])
@pytest.mark.parametrize("side", [15, 17])
def test_single_channels_of_channels_last_maps(side, parameters, dtype, results):
    """Copied where large or bfloat16, read across elsewhere: results and gradients are channels_last."""
    problem = Problem("instance", (2, 32, side, side), parameters, "relu", "channels_last")
    inputs = make_inputs(problem, dtype, torch.float32)
    assert (inputs[0].numel() > native._READ_ACROSS) is (side == 17)
    check(problem, "auto", inputs)
    y = call(problem, "auto")(*inputs)
    for made in (y, *torch.autograd.grad(y.sum(), inputs[:1])):
        assert made.is_contiguous(memory_format=torch.channels_last)
        assert made._base is None
    assert set(results) == {True}
