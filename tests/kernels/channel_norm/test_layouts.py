"""Maps laid out in memory in every way, expanded gradients, outputs of their own."""

import pytest
import torch

from ganfuse.kernels import layout
from tests.kernels.channel_norm.problems import Problem, call, check, derivatives, make_inputs
from tests.kernels.feature_attention.problems import LAYOUTS, arrange

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("norm", ["batch", "mix"])
@pytest.mark.parametrize("how", LAYOUTS)
def test_every_layout(backend, how, norm):
    check(Problem(norm, (2, 6, 3, 4), "own", "silu", how), backend)


@pytest.mark.parametrize("how", ["everywhere", "over batch", "over channels", "tokens first", "channels_last", "nchw"])
@pytest.mark.parametrize("x_layout", FORMATS)
def test_grad_output_and_cotangents_in_any_layout(backend, x_layout, how):
    problem = Problem("batch", (2, 6, 3, 4), "own", "leaky_relu", x_layout)
    values = torch.randn(problem.shape, dtype=torch.float64)

    def laid_out():
        if how == "everywhere":
            return values.new_full((), 0.7).expand(values.shape)
        if how.startswith("over"):
            axis = ("over batch", "over channels").index(how)
            return values.narrow(axis, 0, 1).expand_as(values)
        return arrange(values, how)

    def gradients(which):
        inputs = make_inputs(problem)
        grad_output = laid_out().detach().requires_grad_()
        first = torch.autograd.grad(call(problem, which)(*inputs), inputs, grad_output, create_graph=True)
        h = laid_out().sin()
        return [*first, *torch.autograd.grad(first[0], (grad_output, *inputs[:2]), h)]

    for actual, expected in zip(gradients(backend), gradients("reference")):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 1, 3, 4), (3, 5, 1, 1)])
def test_results_have_the_layout_of_x(backend, shape, how):
    for name, result in derivatives(
        call(Problem("batch", shape), backend), make_inputs(Problem("batch", shape, layout=how))
    ):
        if result.ndim == 4:
            assert result.is_contiguous(memory_format=FORMATS[how]), name


@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
def test_output_may_be_changed_in_place(backend, activation):
    """`out.add_(skip)`: the backward needs x, not the output."""
    problem = Problem("instance", (2, 3, 4, 4), "shared", activation)
    inputs = make_inputs(problem)
    output = call(problem, backend)(*inputs)
    assert not output._is_view()
    expected = torch.autograd.grad(call(problem, "reference")(*inputs).sin().sum(), inputs)
    gradient = call(problem, "reference")(*inputs).cos().detach()
    output.mul_(2.0)
    for actual, e in zip(torch.autograd.grad(output, inputs, gradient / 2), expected):
        torch.testing.assert_close(actual, e)


def test_inputs_are_never_written(backend):
    problem = Problem("mix", (2, 6, 3, 4), "own", "silu")
    inputs = make_inputs(problem)
    before = [(x.detach().clone(), x._version) for x in inputs]
    list(derivatives(call(problem, backend), inputs))
    assert all(torch.equal(x, b) and x._version == v for x, (b, v) in zip(inputs, before))


def test_views_are_in_place_where_they_can_be():
    x = torch.empty(2, 8, 4, 4)
    for map, last in ((x, False), (x.to(memory_format=torch.channels_last), True), (x[:, 2:5], False)):
        assert layout.is_channels_last(map) is last
        assert layout.view(map, last).tensor is map
    crop = x[:, :, 1:, 1:]
    assert layout.view(crop, False).tensor.is_contiguous()
    assert layout.view(x[:, :, :1, :1].expand_as(x), True).tensor.is_contiguous(memory_format=torch.channels_last)
    assert layout.alignment_unit(24, 40) == 8
    assert layout.alignment_unit(33) == 1
