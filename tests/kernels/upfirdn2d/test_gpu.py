"""With the real compiler: every type, both layouts, 64-bit offsets, CUDA graphs."""

import pytest
import torch

from ganfuse.kernels import setup_filter, upfirdn2d, upsample2d
from tests.kernels.derivative_checks import check
from tests.kernels.upfirdn2d.problems import PROBLEMS, Problem, call, image

pytestmark = pytest.mark.gpu

LARGE = {
    "blur 33": Problem((4, 4), padding=(1, 1, 1, 1), shape=(4, 96, 33, 33)),
    "up 64": Problem((4, 4), (2, 2), padding=(2, 1, 2, 1), gain=4.0, shape=(2, 64, 64, 64)),
    "down 64": Problem((4, 4), down=(2, 2), padding=(1, 1, 1, 1), shape=(2, 64, 64, 64)),
    "tiny": Problem((4, 4), padding=(2, 2, 2, 2), shape=(8, 512, 4, 4)),
    "image": Problem((12,), (2, 2), padding=(6, 5, 6, 5), gain=4.0, shape=(4, 3, 70, 50)),
}


@pytest.mark.parametrize("name", [*PROBLEMS, *LARGE])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "slice"])
def test_derivatives(name, dtype, layout):
    problem = (PROBLEMS | LARGE)[name]
    ours, plain = (call(problem, backend, "cuda") for backend in ("triton", "reference"))
    check(ours, plain, (image(problem, dtype, layout, "cuda"),))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_auto_takes_triton_and_is_deterministic(layout):
    x = image(LARGE["down 64"], torch.bfloat16, layout, "cuda")
    results = []
    for backend in ("auto", "triton", "triton"):
        y = call(LARGE["down 64"], backend, "cuda")(x)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), x)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_float64_is_the_reference():
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, device="cuda")
    f = setup_filter([1, 2, 1], device="cuda")
    torch.testing.assert_close(upsample2d(x, f), upsample2d(x, f, backend="reference"))


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_more_elements_than_32_bits_count(format):
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        pytest.skip("needs 24 GiB of free GPU memory")
    x = torch.zeros(9, 64, 2048, 2048, dtype=torch.float16, device="cuda").to(memory_format=format)
    x[-1, -1, -2:, -2:] = 1
    y = upfirdn2d(x, torch.ones(2, 2, device="cuda"), padding=1, backend="triton")
    assert y[-1, -1, -3:, -3:].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    assert y[-1, -1].sum() == 16
    assert not y[:-1].any()


def test_cuda_graph():
    x = image(LARGE["up 64"], torch.float32, "channels_last", "cuda")
    f = call(LARGE["up 64"], "triton", "cuda")

    def step():
        y = f(x)
        return (y, *torch.autograd.grad(y.square().sum(), x))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.add_(1)
    graph.replay()
    for a, b in zip(captured, step(), strict=True):
        torch.testing.assert_close(a, b)
