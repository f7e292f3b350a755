"""scaled_bias_act and modulated_conv2d with the real compiler: every type, both layouts, CUDA graphs."""

import functools
import math

import pytest
import torch

from ganfuse.kernels import modulated_conv2d, setup_filter
from ganfuse.kernels.scaled_bias_act import scaled_bias_act
from tests.kernels.assertions import assert_as_accurate
from tests.kernels.derivative_checks import check, lay_out, numbers

pytestmark = pytest.mark.gpu

SHAPES = ((4, 24, 16, 16), (4, 96, 33, 31), (8, 512, 4, 4), (2, 64, 128, 128))
TYPES = (torch.bfloat16, torch.float16, torch.float32)


def _epilogue_inputs(shape, dtype, layout, small_dtype=torch.float32):
    batch, channels, height, width = shape
    x = lay_out(numbers(shape, torch.float64, 0).to(dtype).cuda(), layout)
    sizes = ((batch, channels), (batch, 1, height, width), (channels,))
    return x, *(numbers(s, torch.float64, 1 + i).to(small_dtype).cuda().requires_grad_() for i, s in enumerate(sizes))


@pytest.mark.parametrize("act", ["lrelu", "linear", "swish"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_epilogue(act, shape, dtype, layout):
    ours, plain = (functools.partial(scaled_bias_act, act=act, backend=b) for b in ("triton", "reference"))
    check(ours, plain, _epilogue_inputs(shape, dtype, layout, dtype))


def _layer_inputs(dtype, layout, inputs=32, outputs=48, side=16, up=1, batch=3):
    x = lay_out(numbers((batch, inputs, side, side), torch.float64, 0).to(dtype).cuda(), layout)
    sizes = ((outputs, inputs, 3, 3), (batch, inputs), (batch, 1, side * up, side * up), (outputs,))
    return x, *(
        (numbers(s, torch.float64, 1 + i) / (math.sqrt(9 * inputs) if i == 0 else 1)).float().cuda().requires_grad_()
        for i, s in enumerate(sizes)
    )


def _layer(up=1, **options):
    f = setup_filter([1, 3, 3, 1], device="cuda")

    def run(x, weight, styles, noise, b):
        return modulated_conv2d(
            x, weight, styles, noise, up, padding=1, resample_filter=f, flip_weight=up == 1, bias=b, act="linear",
            clamp=256.0, **options,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_layer(up, dtype, layout):
    """Values and first gradients, in the type of the maps."""
    inputs = _layer_inputs(dtype, layout, up=up)
    exact = tuple(t.detach().double().requires_grad_() for t in inputs)
    results = []
    for run, given in (
        (_layer(up), inputs), (_layer(up, backend="reference"), inputs), (_layer(up, backend="reference"), exact),
    ):  # fmt: skip
        y = run(*given)
        grad = torch.linspace(-1, 1, y.numel(), device="cuda").view(y.shape).to(y.dtype)
        results.append((y, *torch.autograd.grad(y, given, grad)))
    for i, (actual, plain, truth) in enumerate(zip(*results, strict=True)):
        assert_as_accurate(actual.to(dtype), plain.to(dtype), truth.detach(), f"result {i}", factor=3.0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(64, 64, 32), (512, 512, 4), (24, 40, 33), (256, 3, 16)], ids=str)
def test_implicit_gemm(dtype, size):
    inputs, outputs, side = size
    given = _layer_inputs(dtype, "channels_last", inputs, outputs, side)
    with torch.no_grad():
        y = _layer(form="implicit_gemm")(*given)
        plain = _layer(backend="reference")(*given)
        exact = _layer(backend="reference")(*(t.double() for t in given))
    assert_as_accurate(y, plain, exact, factor=3.0)


def test_second_derivatives_in_float32():
    """A path-length penalty through the forms, beside the definition in float64."""
    inputs = _layer_inputs(torch.float32, "channels_last", 8, 6, 8)

    def penalty(run, dtype):
        given = tuple(t.detach().to(dtype).requires_grad_() for t in inputs)
        y = run(*given)
        (gradient,) = torch.autograd.grad(y.square().sum(), given[2], create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), given[:3])

    exact = penalty(_layer(backend="reference"), torch.float64)
    plain = penalty(_layer(backend="reference"), torch.float32)
    for form in ("scaled", "grouped", "implicit_gemm"):
        for a, p, e in zip(penalty(_layer(form=form), torch.float32), plain, exact):
            # Convolutions may round to tf32, by one algorithm or another.
            assert_as_accurate(a, p, e, form, factor=8.0)


def test_cuda_graph():
    inputs = _layer_inputs(torch.bfloat16, "channels_last", up=2)
    run = _layer(2)

    def step():
        y = run(*inputs)
        return (y, *torch.autograd.grad(y.float().square().sum(), inputs))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        inputs[0].add_(1)
    graph.replay()
    for a, b in zip(captured, step(), strict=True):
        torch.testing.assert_close(a, b)
