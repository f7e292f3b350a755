"""bias_act, pixel_norm and minibatch_stddev with the real compiler: every type, both layouts, CUDA graphs."""

import functools

import pytest
import torch

from ganfuse.kernels import bias_act, minibatch_stddev, pixel_norm
from tests.kernels.derivative_checks import check, lay_out, numbers

pytestmark = pytest.mark.gpu

OPS = {
    "lrelu": functools.partial(bias_act, act="lrelu", clamp=2.0),
    "swish": functools.partial(bias_act, act="swish"),
    "tanh": functools.partial(bias_act, act="tanh"),
    "softplus": functools.partial(bias_act, act="softplus"),
    "elu": functools.partial(bias_act, act="elu"),
    "pixel_norm": pixel_norm,
    "minibatch_stddev": minibatch_stddev,
}
SHAPES = ((4, 24, 16, 16), (4, 96, 33, 31), (8, 512, 4, 4), (2, 64, 128, 128))


def _inputs(name, shape, dtype, layout="nchw"):
    x = lay_out(numbers(shape, torch.float64, 0).to(dtype).cuda(), layout)
    if name in ("pixel_norm", "minibatch_stddev"):
        return (x,)
    return x, numbers(shape[1:2], torch.float64, 1).to(dtype).cuda().requires_grad_()


def _both(name):
    return (functools.partial(OPS[name], backend=b) for b in ("triton", "reference"))


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_derivatives(name, shape, dtype, layout):
    check(*_both(name), _inputs(name, shape, dtype, layout))


@pytest.mark.parametrize("name", OPS)
def test_auto_takes_triton_and_is_deterministic(name):
    inputs = _inputs(name, SHAPES[3], torch.bfloat16)
    results = []
    for backend in ("auto", "triton", "triton"):
        y = OPS[name](*inputs, backend=backend)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), inputs)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("name", OPS)
def test_cuda_graph(name):
    inputs = _inputs(name, SHAPES[0], torch.float32)

    def step():
        y = OPS[name](*inputs, backend="triton")
        return (y, *torch.autograd.grad(y.square().sum(), inputs))

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
