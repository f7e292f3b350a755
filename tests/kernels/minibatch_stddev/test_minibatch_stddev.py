"""The definition against a loop, the kernels against the definition, both doors."""

import functools
import math

import pytest
import torch

from ganfuse.kernels import BackendUnavailableError, minibatch_stddev
from ganfuse.kernels.backend import INTERPRETED
from tests.kernels.derivative_checks import check, check_custom_ops, check_third, lay_out, numbers

# Shape, group_size, num_channels. Values of a feature fill a block of 1024, or part of one, or more.
PROBLEMS = {
    "one group": ((4, 6, 3, 5), 4, 1),
    "several groups": ((8, 3, 4, 4), 4, 1),
    "divisor below": ((6, 6, 3, 5), 4, 2),
    "prime batch": ((5, 4, 2, 2), 4, 1),
    "whole batch": ((6, 4, 2, 3), None, 1),
    "feature of one channel": ((4, 3, 2, 3), 2, 3),
    "several blocks": ((4, 8, 12, 15), 2, 1),
    "whole blocks": ((4, 64, 4, 4), 4, 1),
    "one sample": ((1, 4, 3, 3), 4, 1),
}


@pytest.fixture(params=[pytest.param("triton", marks=pytest.mark.interpreter)])
def backend(request):
    return request.param


def _both(backend, group_size, num_channels):
    f = functools.partial(minibatch_stddev, group_size=group_size, num_channels=num_channels)
    return (functools.partial(f, backend=b) for b in (backend, "reference"))


def _input(shape, dtype=torch.float64, layout="nchw"):
    return (lay_out(numbers(shape, torch.float64, 0).to(dtype), layout),)


@pytest.mark.parametrize(("batch", "group_size", "group"), [(8, 4, 4), (6, 4, 3), (5, 4, 1), (6, None, 6), (2, 4, 2)])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_reference(batch, group_size, group, num_channels):
    x = numbers((batch, 6, 2, 3), torch.float64, 0)
    y = minibatch_stddev(x, group_size, num_channels, backend="reference")
    assert torch.equal(y[:, :6], x)
    per_feature, groups = 6 // num_channels, batch // group
    for i in range(batch):
        mates = [j for j in range(batch) if j % groups == i % groups]
        assert len(mates) == group
        for f in range(num_channels):
            total = 0.0
            for c in range(f * per_feature, (f + 1) * per_feature):
                for h in range(2):
                    for w in range(3):
                        values = [x[j, c, h, w].item() for j in mates]
                        mean = sum(values) / group
                        total += math.sqrt(sum((v - mean) ** 2 for v in values) / group + 1e-8)
            expected = torch.full((2, 3), total / (per_feature * 6), dtype=torch.float64)
            torch.testing.assert_close(y[i, 6 + f], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "slice", "transposed"])
def test_shapes_and_layouts(backend, name, layout):
    shape, group_size, num_channels = PROBLEMS[name]
    check(*_both(backend, group_size, num_channels), _input(shape, layout=layout))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_types(backend, dtype, layout):
    check(*_both(backend, 4, 2), _input((8, 6, 3, 5), dtype, layout))


def test_samples_far_from_zero(backend):
    """Deviations of 1 around 1e4: sums of squares would lose them."""
    x = (1e4 + numbers((4, 3, 4, 4), torch.float64, 0)).float()
    exact = minibatch_stddev(x.double(), backend="reference")
    torch.testing.assert_close(minibatch_stddev(x, backend=backend).double(), exact, rtol=1e-6, atol=0.0)


def test_equal_samples_are_finite(backend):
    x = torch.ones(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    y = minibatch_stddev(x, backend=backend)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x)
    assert all(t.isfinite().all() for t in (y, g, h))


def test_layout_is_kept(backend):
    (x,) = _input((4, 5, 4, 4), layout="channels_last")
    y = minibatch_stddev(x, backend=backend)
    (g,) = torch.autograd.grad(y.square().sum(), x)
    for t in (y, g):
        assert t.is_contiguous(memory_format=torch.channels_last)


def test_by_finite_differences(backend):
    inputs = _input((4, 2, 2, 2))
    f = functools.partial(minibatch_stddev, group_size=2, backend=backend)
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


def test_third(backend):
    check_third(*_both(backend, 4, 1), _input((4, 3, 2, 2)))


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "slice"])
def test_custom_ops(backend, layout):
    check_custom_ops("minibatch_stddev", _input((4, 4, 3, 3), layout=layout), (4, 2, backend))


def test_compile(backend):
    torch.compiler.reset()
    ours, plain = _both(backend, 4, 1)
    check(torch.compile(ours, fullgraph=True, backend="aot_eager"), plain, _input((4, 4, 3, 3)), order=1)


@pytest.mark.parametrize("which", ["reference", pytest.param("triton", marks=pytest.mark.interpreter)])
def test_empty_batch(which):
    x = torch.randn(0, 3, 4, 4, requires_grad=True)
    y = minibatch_stddev(x, backend=which)
    assert y.shape == (0, 4, 4, 4)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=which == "triton")
    assert g.shape == x.shape


@pytest.mark.parametrize(
    ("x", "arguments", "said"),
    [
        (torch.randn(4, 3), (), r"x must have 4 dimensions, got shape \(4, 3\)"),
        (torch.randn(4, 3, 0, 2), (), "no empty dimension but the batch"),
        (torch.randn(4, 3, 2, 2), (0,), "group_size must be a positive whole number or None, got 0"),
        (torch.randn(4, 3, 2, 2), (4, 2), "num_channels must divide x's 3 channels, got 2"),
        (torch.randn(4, 3, 2, 2), (4, 0), "num_channels must divide x's 3 channels, got 0"),
    ],
)
def test_errors(x, arguments, said):
    with pytest.raises(ValueError, match=said):
        minibatch_stddev(x, *arguments)


@pytest.mark.skipif(INTERPRETED, reason="here Triton runs on CPU tensors")
def test_triton_where_it_cannot_run():
    with pytest.raises(BackendUnavailableError, match="need a GPU tensor"):
        minibatch_stddev(torch.randn(2, 3, 2, 2), backend="triton")
