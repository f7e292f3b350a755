"""Every implementation against the definition: shapes, layouts, types, derivatives, both doors."""

import functools

import pytest
import torch

from ganfuse.kernels import BackendUnavailableError, pixel_norm
from ganfuse.kernels.backend import INTERPRETED
from tests.kernels.derivative_checks import check, check_custom_ops, check_third, lay_out, numbers

SHAPES = {
    "map": (2, 5, 4, 5),
    "24 channels": (2, 24, 4, 4),
    "several blocks of channels": (1, 40, 9, 8),
    "several blocks of pixels": (2, 3, 13, 11),
    "one pixel": (3, 7, 1, 1),
    "latents": (3, 7),
    "sequence": (2, 6, 5),
    "volume": (1, 4, 2, 3, 2),
}


@pytest.fixture(params=["eager", pytest.param("triton", marks=pytest.mark.interpreter)])
def backend(request):
    return request.param


def _both(backend, **options):
    return (functools.partial(pixel_norm, backend=b, **options) for b in (backend, "reference"))


def _input(shape, dtype=torch.float64, layout="nchw"):
    return (lay_out(numbers(shape, torch.float64, 0).to(dtype), layout),)


def test_reference():
    x = torch.tensor([[[3.0, 0.0], [4.0, 1.0]]], dtype=torch.float64)
    y = pixel_norm(x, eps=0.5, backend="reference")
    expected = x / torch.tensor([[[(12.5 + 0.5) ** 0.5, 1.0]]], dtype=torch.float64)
    torch.testing.assert_close(y, expected, rtol=1e-14, atol=0.0)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "slice", "transposed"])
def test_shapes_and_layouts(backend, name, layout):
    if len(SHAPES[name]) != 4 and layout != "nchw":
        pytest.skip("layouts are of 4 dimensions")
    check(*_both(backend), _input(SHAPES[name], layout=layout))
    check(*_both(backend, eps=0.3), _input(SHAPES[name], layout=layout))


@pytest.mark.parametrize("name", ["map", "several blocks of channels"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_types(backend, name, dtype, layout):
    if dtype == torch.bfloat16 and backend == "triton":
        pytest.skip("the interpreter computes bfloat16 wrongly; compiled kernels are tested on GPUs")
    check(*_both(backend), _input(SHAPES[name], dtype, layout))


def test_layout_is_kept(backend):
    (x,) = _input((2, 5, 4, 5), layout="channels_last")
    y = pixel_norm(x, backend=backend)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    for t in (y, g):
        assert t.is_contiguous(memory_format=torch.channels_last)


def test_zeros_and_large_values_are_finite(backend):
    x = torch.zeros(1, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    y = pixel_norm(x, backend=backend)
    (g,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), x)
    assert all(t.isfinite().all() for t in (y, g, h))
    half = pixel_norm(torch.full((1, 4, 2, 2), 1000.0, dtype=torch.float16), backend=backend)
    torch.testing.assert_close(half, torch.ones_like(half))


def test_by_finite_differences(backend):
    inputs = _input((2, 3, 2, 3))
    f = functools.partial(pixel_norm, backend=backend)
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


def test_third(backend):
    check_third(*_both(backend), _input((2, 3, 2, 3)))


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "slice"])
def test_custom_ops(backend, layout):
    check_custom_ops("pixel_norm", _input((2, 3, 4, 5), layout=layout), (1e-8, backend))


def test_compile(backend):
    torch.compiler.reset()
    ours, plain = _both(backend)
    check(torch.compile(ours, fullgraph=True, backend="aot_eager"), plain, _input((2, 3, 4, 5)), order=1)


def test_empty_batch(backend):
    x = torch.randn(0, 3, 4, 4, requires_grad=True)
    (g,) = torch.autograd.grad(pixel_norm(x, backend=backend).sum(), x, create_graph=True)
    assert torch.autograd.grad(g.sum(), x)[0].shape == x.shape


@pytest.mark.parametrize(
    ("x", "options", "said"),
    [
        (torch.randn(3), {}, r"x must have at least 2 dimensions, got shape \(3,\)"),
        (torch.randn(2, 0, 4), {}, "no empty dimension but the batch"),
        (torch.zeros(2, 3, dtype=torch.int32), {}, "got int32"),
        (torch.randn(2, 3), {"eps": 0.0}, "eps must be more than 0, got 0.0"),
        (torch.randn(2, 3), {"eps": float("nan")}, "eps must be more than 0, got nan"),
    ],
)
def test_errors(x, options, said):
    with pytest.raises(ValueError, match=said):
        pixel_norm(x, **options)


@pytest.mark.skipif(INTERPRETED, reason="here Triton runs on CPU tensors")
def test_triton_where_it_cannot_run():
    with pytest.raises(BackendUnavailableError, match="need a GPU tensor"):
        pixel_norm(torch.randn(2, 3), backend="triton")


def test_meta_tensors():
    assert pixel_norm(torch.empty(2, 3, 4, 4, device="meta")).shape == (2, 3, 4, 4)
