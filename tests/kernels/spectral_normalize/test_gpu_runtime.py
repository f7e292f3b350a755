"""On a GPU: the same bits twice, CUDA graphs, compilation, no synchronisation, launches, other streams and devices."""

import pytest
import torch
from torch.autograd import DeviceType

from ganfuse.kernels import spectral_normalize
from tests.kernels.spectral_normalize.test_gpu_accuracy import make

pytestmark = pytest.mark.gpu


def turn(batch, dtype=torch.bfloat16, backend="triton"):
    """Forward with its update, backward, and the backward of that, without random numbers."""
    normalised, sigmas = spectral_normalize(batch.weights, batch.us, batch.vs, dtype=dtype, backend=backend)
    grads = [w.detach().to(n.dtype).requires_grad_() for w, n in zip(batch.weights, normalised)]
    first = torch.autograd.grad(normalised, batch.weights, grads, create_graph=True)
    second = torch.autograd.grad(first, (*grads, *batch.weights), [w.detach() for w in batch.weights])
    return [*normalised, *sigmas, *first, *second]


def equal(some, others):
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_auto_is_triton_here(caplog):
    results = [turn(make("BigGAN-128 D", torch.float32), backend=backend) for backend in ("auto", "triton")]
    assert equal(*results)
    assert "falling back" not in caplog.text


def test_same_bits_again():
    once = make("BigGAN-128 G", torch.float32)
    expected = [turn(once) for _ in range(2)]
    for _ in range(2):
        torch.randn(1 << 20, device="cuda")  # moves the allocator along
        again = make("BigGAN-128 G", torch.float32)
        assert all(equal(turn(again), e) for e in expected)
        assert equal(again.us + again.vs, once.us + once.vs)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_cuda_graph(dtype):
    """Captured once, replayed as the weights change: u and v move with each replay, as they do without a graph."""
    batch, plain = make("BigGAN-128 D", torch.float32), make("BigGAN-128 D", torch.float32)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            turn(batch, dtype)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = turn(batch, dtype)
    for vectors, others in ((batch.us, plain.us), (batch.vs, plain.vs)):
        for mine, other in zip(vectors, others):
            mine.copy_(other)
    for seed in range(3):
        torch.manual_seed(seed)
        with torch.no_grad():
            for mine, other in zip(batch.weights, plain.weights):
                mine.add_(0.1 * torch.randn_like(mine))
                other.copy_(mine)
        graph.replay()
        assert equal(captured, turn(plain, dtype)), f"replay {seed}"
        assert equal(batch.us + batch.vs, plain.us + plain.vs)
    # Calls beside the graph do not disturb what it reads.
    for model in ("BigGAN-128 G", "BigGAN-128 D"):
        turn(make(model, torch.float32))
    with torch.no_grad():
        for other, mine in zip(plain.us + plain.vs, batch.us + batch.vs):
            other.copy_(mine)
    graph.replay()
    assert equal(captured, turn(plain, dtype))


def test_a_graph_captured_without_a_run_before():
    """What is not in memory yet is an error that says so, or works: never a graph of nothing."""
    batch, plain = make("BigGAN-128 D", torch.float32), make("BigGAN-128 D", torch.float32)
    turn(make("BigGAN-128 G", torch.float32))  # compiles what can be compiled
    turn(make("BigGAN-128 D", torch.float32))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = turn(batch)
    graph.replay()
    assert equal(captured, turn(plain))


def test_no_synchronisation():
    batch = make("BigGAN-128 D", torch.float32)
    for _ in range(2):
        turn(batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        turn(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_launches_of_a_whole_model():
    """What really runs: kernels of a step, those of PyTorch among them."""
    batch = make("BigGAN-128 D", torch.float32)
    grads = [w.detach().clone() for w in batch.weights]

    def step():
        with torch.profiler.record_function("marker forward"):
            normalised, _ = spectral_normalize(batch.weights, batch.us, batch.vs, backend="triton")
            torch.cuda.synchronize()
        with torch.profiler.record_function("marker backward"):
            torch.autograd.grad(normalised, batch.weights, grads)
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        step()
    names = [
        event.name
        for event in profiler.events()
        if event.device_type == DeviceType.CUDA and not event.name.startswith(("marker", "Memcpy", "Memset"))
    ]
    assert len(names) <= 6 + 4, names
    assert sum("spectral" in name for name in names) == 6 + 3, names


def test_inductor():
    batch, plain = make("BigGAN-128 D", torch.float32), make("BigGAN-128 D", torch.float32)
    torch.compiler.reset()

    def layers(weights, us, vs):
        return [n.square() for n in spectral_normalize(weights, us, vs, backend="triton")[0]]

    compiled = torch.compile(layers, fullgraph=True)
    for function, some in ((compiled, batch), (layers, plain)):
        sum(n.sum() for n in function(some.weights, some.us, some.vs)).backward()
    for a, b in zip(batch.weights, plain.weights):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.us, plain.us, rtol=1e-5, atol=1e-6)


def test_another_stream():
    batch, plain = make("BigGAN-128 D", torch.float32), make("BigGAN-128 D", torch.float32)
    expected = turn(plain)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        actual = turn(batch)
    torch.cuda.current_stream().wait_stream(stream)
    assert equal(actual, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_tensors_on_a_device_that_is_not_current():
    here = make("BigGAN-128 D", torch.float32)
    there = make("BigGAN-128 D", torch.float32)
    there = there._replace(
        weights=[w.detach().to("cuda:1").requires_grad_() for w in there.weights],
        us=[u.to("cuda:1") for u in there.us],
        vs=[v.to("cuda:1") for v in there.vs],
    )
    assert equal([x.cpu() for x in turn(there)], [x.cpu() for x in turn(here)])
