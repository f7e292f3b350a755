"""On a GPU: the same bits twice, graphs, compilation, no synchronisation, memory, addresses beyond 2^31."""

import pytest
import torch

from ganfuse.kernels import feature_attention
from tests.kernels.assertions import assert_as_accurate
from tests.kernels.feature_attention.problems import Problem, derivatives, make_inputs, ours

pytestmark = pytest.mark.gpu

SAGAN = Problem(2, 32, 128, (32, 32), (16, 16))
BF16 = torch.bfloat16


def _all(inputs, grad_output, cotangents):
    """Output, gradients and second gradients, from given vectors: no random numbers, no copies between devices."""
    output = feature_attention(*inputs, backend="triton")
    first = torch.autograd.grad(output, inputs, grad_output, create_graph=True)
    return (output, *first, *torch.autograd.grad(first, (grad_output, *inputs), cotangents))


def _vectors(inputs):
    grad_output = torch.randn_like(feature_attention(*inputs)).requires_grad_()
    return grad_output, [torch.randn_like(x) for x in inputs]


def test_auto_is_triton_here(caplog):
    inputs = make_inputs(SAGAN, BF16, "channels_last", "cuda")
    assert torch.equal(ours("auto")(*inputs), ours("triton")(*inputs))
    assert "falling back" not in caplog.text


@pytest.mark.parametrize("problem", [SAGAN, Problem(3, 20, 44, (33, 31), (17, 19))], ids=["SAGAN", "ragged"])
def test_same_bits_again(problem):
    inputs = make_inputs(problem, BF16, "channels_last", "cuda")
    once = dict(derivatives(ours("triton"), inputs))
    for _ in range(3):
        torch.randn(1 << 20, device="cuda")  # moves the allocator along
        for name, again in derivatives(ours("triton"), inputs):
            assert torch.equal(again, once[name]), name


def test_cuda_graph():
    """Forward, backward and double backward captured once, replayed on other numbers."""
    inputs = make_inputs(SAGAN, BF16, "channels_last", "cuda")
    grad_output, cotangents = _vectors(inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            _all(inputs, grad_output, cotangents)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _all(inputs, grad_output, cotangents)
    for seed in range(2):
        torch.manual_seed(seed)
        with torch.no_grad():
            for x in (*inputs, grad_output, *cotangents):
                x.copy_(torch.randn_like(x))
        graph.replay()
        replayed = [x.detach().clone() for x in captured]
        for actual, expected in zip(replayed, _all(inputs, grad_output, cotangents)):
            assert torch.equal(actual, expected)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_inductor(layout):
    inputs = make_inputs(SAGAN, BF16, layout, "cuda")
    torch.compiler.reset()

    def layer(q, k, v):
        return feature_attention(q, k, v, backend="triton").float().square() + 1

    compiled = torch.compile(layer, fullgraph=True)
    for actual, expected in zip(
        torch.autograd.grad(compiled(*inputs).sum(), inputs), torch.autograd.grad(layer(*inputs).sum(), inputs)
    ):
        torch.testing.assert_close(actual, expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(compiled(*inputs), layer(*inputs), rtol=2e-2, atol=2e-2)


def test_second_derivative_through_a_compiled_function_raises_or_is_right():
    inputs = make_inputs(SAGAN, torch.float32, "channels_last", "cuda")
    torch.compiler.reset()

    def penalty(attend):
        first = torch.autograd.grad(attend(*inputs).square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    expected = penalty(ours("triton"))
    try:
        actual = penalty(torch.compile(ours("triton"), fullgraph=True))
    except RuntimeError:
        return
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_no_synchronisation():
    inputs = make_inputs(SAGAN, BF16, "channels_last", "cuda")
    vectors = _vectors(inputs)
    _all(inputs, *vectors)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _all(inputs, *vectors)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_vjp_of_torch_func():
    inputs = tuple(x.detach() for x in make_inputs(SAGAN, BF16, "channels_last", "cuda"))
    output, pullback = torch.func.vjp(ours("triton"), *inputs)
    leaves = tuple(x.clone().requires_grad_() for x in inputs)
    expected = torch.autograd.grad(ours("triton")(*leaves), leaves, torch.ones_like(output))
    for actual, gradient in zip(pullback(torch.ones_like(output)), expected):
        assert torch.equal(actual, gradient)


def test_another_stream():
    inputs = make_inputs(SAGAN, BF16, "channels_last", "cuda")
    expected = ours("triton")(*inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        actual = ours("triton")(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(actual, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_a_device_that_is_not_current():
    inputs = make_inputs(SAGAN, BF16, "channels_last", "cuda:1")
    here = make_inputs(SAGAN, BF16, "channels_last", "cuda:0")
    assert torch.equal(ours("triton")(*inputs).cpu(), ours("triton")(*here).cpu())


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_memory_is_proportional_to_the_positions(layout):
    """64×64 positions, 64 samples: one N×M matrix in bfloat16 would be 2 GiB."""
    inputs = make_inputs(Problem(64, 16, 64, (64, 64), (64, 64)), BF16, layout, "cuda")
    vectors = _vectors(inputs)
    matrix = 64 * 4096 * 4096 * 2
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    results = _all(inputs, *vectors)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < matrix / 4, f"{extra / 2**20:.0f} MiB"
    assert all(torch.isfinite(x).all() for x in results)


def _needs_memory(gib):
    if torch.cuda.mem_get_info()[0] < gib * 2**30:
        pytest.skip(f"needs {gib} GiB of free GPU memory")


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_tensors_of_more_than_two_billion_elements(layout):
    """Values of 2^31 elements and more: the last sample must be what it is alone."""
    _needs_memory(16)
    batch = 2**31 // (128 * 64 * 64) + 3
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format

    def maps(channels, side):
        shape = (batch, channels, side, side)
        empty = torch.empty(shape, device="cuda", dtype=BF16, memory_format=format)
        return empty.normal_().requires_grad_()

    q, k, v = maps(16, 4), maps(16, 64), maps(128, 64)
    assert v.numel() > 2**31
    output = feature_attention(q, k, v, backend="triton")
    gradients = torch.autograd.grad(output, (q, k, v), torch.ones_like(output))
    for i in (0, batch - 1):
        alone = tuple(x.detach()[i : i + 1].requires_grad_() for x in (q, k, v))
        expected = feature_attention(*alone, backend="triton")
        assert torch.equal(output[i : i + 1], expected)
        for whole, one in zip(gradients, torch.autograd.grad(expected, alone, torch.ones_like(expected))):
            assert torch.equal(whole[i : i + 1], one)


def test_more_than_two_billion_elements_between_rows():
    """A slice whose pitch makes the offset of its last row pass 2^31."""
    _needs_memory(12)
    wide = torch.empty(1, 32, 32, 2**21 + 2**12, device="cuda", dtype=BF16)
    query = wide[..., :16].normal_().permute(0, 3, 1, 2)
    assert query.stride(3) * 1023 > 2**31
    k, v = (torch.randn(1, 4, 4, c, device="cuda", dtype=BF16).permute(0, 3, 1, 2) for c in (16, 32))
    leaf = query.detach().requires_grad_()
    output = feature_attention(leaf, k, v, backend="triton")
    packed = query.detach().contiguous().requires_grad_()
    expected = feature_attention(packed, k, v, backend="reference")
    exact = feature_attention(packed.double(), k.double(), v.double(), backend="reference")
    assert_as_accurate(output, expected, exact.detach())
    (actual,) = torch.autograd.grad(output.sum(), leaf)
    (gradient,) = torch.autograd.grad(feature_attention(packed, k, v, backend="triton").sum(), packed)
    torch.testing.assert_close(actual, gradient, rtol=2e-2, atol=1e-2)
