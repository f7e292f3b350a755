"""Every memory layout gives the same numbers, in the layout of the input, and NaN around the inputs stays there."""

import itertools

import pytest
import torch

from ganfuse.kernels import feature_attention
from tests.kernels.feature_attention.problems import LAYOUTS, Problem, arrange, check, derivatives, make_inputs, ours

PROBLEM = Problem(2, 8, 12, (3, 4), (4, 3))
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_inputs_in_one_layout(backend, layout):
    check(ours(backend), ours("reference"), make_inputs(PROBLEM, torch.float64, layout))


# Every pair of neighbours in turn, rather than all 343 mixes.
MIXES = [(a, LAYOUTS[(i + 1 + j) % 7], LAYOUTS[(i + 3 * j) % 7]) for i, a in enumerate(LAYOUTS) for j in (0, 2)]


@pytest.mark.parametrize("mix", MIXES, ids=" | ".join)
def test_mixed_layouts(backend, mix):
    check(ours(backend), ours("reference"), make_inputs(PROBLEM, torch.float64, mix))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_slices_of_one_convolution(backend, layout):
    """BigGAN-style: query, key and value are channels of one tensor, and gradients meet in it."""
    both = arrange(torch.randn(2, 8 + 8 + 12, 3, 4, dtype=torch.float64), layout).detach().requires_grad_()

    def penalty(which):
        output = feature_attention(*both.split((8, 8, 12), 1), backend=which)
        (gradient,) = torch.autograd.grad(output.sin().sum(), both, create_graph=True)
        return gradient, torch.autograd.grad(gradient.square().sum(), both)[0]

    for actual, expected in zip(penalty(backend), penalty("reference")):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def _expanded(x, how):
    if how == "everywhere":
        return x.new_full((), 0.7).expand(x.shape)
    if how == "over batch":
        return x[:1].expand_as(x)
    if how == "over channels":
        return x[:, :1].expand_as(x)
    if how == "over rows":
        return x[:, :, :1].expand_as(x)
    return arrange(x, how)


@pytest.mark.parametrize(
    "how", ["everywhere", "over batch", "over channels", "over rows", "tokens first", "rows slice", "channels_last"]
)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_grad_output_and_cotangents_in_any_layout(backend, layout, how):
    inputs = make_inputs(PROBLEM, torch.float64, layout)
    x = torch.randn(2, 12, 3, 4, dtype=torch.float64)

    def gradients(which):
        grad_output = _expanded(x, how).detach().requires_grad_()
        first = torch.autograd.grad(ours(which)(*inputs), inputs, grad_output, create_graph=True)
        cotangents = [_expanded(torch.sin(1 + g.detach()), how) for g in inputs]
        return [*first, *torch.autograd.grad(first, (grad_output, *inputs), cotangents)]

    for actual, expected in zip(gradients(backend), gradients("reference")):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", LAYOUTS[:4])
@pytest.mark.parametrize("problem", [PROBLEM, Problem(1, 3, 5, (2, 5), (2, 5))], ids=str)
def test_layout_of_the_output_and_of_gradients_is_that_of_the_input(backend, problem, layout):
    format = FORMATS[layout.removesuffix(" slice")]
    for name, result in derivatives(ours(backend), make_inputs(problem, torch.float64, layout)):
        assert result.is_contiguous(memory_format=format), name


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_output_is_a_tensor_of_its_own(backend, layout):
    inputs = [x.detach() for x in make_inputs(PROBLEM, torch.float64, layout)]
    before = [x.clone() for x in inputs]
    output = ours(backend)(*inputs)
    assert not output._is_view()
    expected = output + 1
    assert torch.equal(output.add_(1), expected)
    assert all(map(torch.equal, inputs, before))
    assert output.untyped_storage().nbytes() == output.numel() * output.element_size()


def test_output_changed_in_place_before_backward_raises(backend):
    """The backward reads the output; with PyTorch's fused attention it is the same. Never a wrong gradient."""
    inputs = make_inputs(PROBLEM)
    output = ours(backend)(*inputs)
    output.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(output.square().sum(), inputs)


def test_inputs_are_never_written(backend):
    inputs = make_inputs(PROBLEM)
    versions = [x._version for x in inputs]
    before = [x.detach().clone() for x in inputs]
    list(derivatives(ours(backend), inputs))
    assert all(map(torch.equal, inputs, before))
    assert [x._version for x in inputs] == versions


@pytest.mark.parametrize("shapes", list(itertools.product([(1, 1), (1, 5), (5, 1)], repeat=2)), ids=str)
@pytest.mark.parametrize("layout", ["channels_last slice", "rows slice"])
def test_degenerate_grids(backend, shapes, layout):
    """Where a side is 1 its stride means nothing."""
    problem = Problem(2, 3, 1 if shapes[0] == (1, 1) else 4, *shapes)
    inputs = make_inputs(problem, torch.float64, layout)
    for x in inputs:
        if 1 in x.shape[2:]:
            strides = [7777 if size == 1 else stride for size, stride in zip(x.shape, x.stride())]
            x.data = x.data.as_strided(x.shape, strides)
    check(ours(backend), ours("reference"), inputs, order=1)
