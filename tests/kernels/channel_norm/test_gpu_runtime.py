"""On a GPU: the same bits twice, graphs, compilation, no synchronisation, launches, addresses beyond 2^31."""

import pytest
import torch

from ganfuse.bench.device_probes import count_launches
from ganfuse.bench.timing import Call
from ganfuse.kernels import batch_norm_act, instance_norm_act, layer_instance_norm_act
from tests.kernels.channel_norm.problems import Problem, call, derivatives, make_inputs

pytestmark = pytest.mark.gpu

BF16 = torch.bfloat16
PROBLEMS = {
    "batch": Problem("batch", (8, 64, 64, 64), "own", "relu", "channels_last"),
    "instance, on chip": Problem("instance", (4, 64, 16, 16), "own", "leaky_relu"),
    "instance, split": Problem("instance", (1, 16, 128, 128), "shared", "relu", "channels_last"),
    "adalin": Problem("mix", (2, 64, 32, 32), "own", "relu"),
    "prologue": Problem("instance", (4, 64, 16, 16), "own", "none", "channels_last", "own", "leaky_relu"),
    "noise": Problem("batch", (4, 64, 32, 32), "own", "leaky_relu", "nchw", "own"),
}


@pytest.fixture(params=PROBLEMS)
def problem(request):
    return PROBLEMS[request.param]


def _inputs(problem):
    """Leaves but for the noise, which training does not differentiate for."""
    inputs = make_inputs(problem, BF16, torch.float32, "cuda")
    return [t.detach() if t.ndim == 4 and i > 0 else t for i, t in enumerate(inputs)]


def _all(problem, inputs, grad_output, cotangents):
    """Output, gradients and second gradients from given vectors: no random numbers, no copies between devices."""
    leaves = [t for t in inputs if t.requires_grad]
    output = call(problem, "triton")(*inputs)
    first = torch.autograd.grad(output, leaves, grad_output, create_graph=True)
    return (output, *first, *torch.autograd.grad(first, (grad_output, *leaves), cotangents, allow_unused=True))


def _vectors(inputs):
    grad_output = torch.randn_like(inputs[0]).requires_grad_()
    return grad_output, [torch.randn_like(x) for x in inputs if x.requires_grad]


def test_auto_is_triton_here(problem, caplog):
    inputs = _inputs(problem)
    assert torch.equal(call(problem, "auto")(*inputs), call(problem, "triton")(*inputs))
    assert "falling back" not in caplog.text


def test_same_bits_again(problem):
    inputs = make_inputs(problem, BF16, torch.float32, "cuda")
    once = dict(derivatives(call(problem, "triton"), inputs))
    for _ in range(3):
        torch.randn(1 << 20, device="cuda")  # moves the allocator along
        for name, again in derivatives(call(problem, "triton"), inputs):
            assert torch.equal(again, once[name]), name


def test_cuda_graph(problem):
    """Forward, backward and double backward captured once, replayed on other numbers."""
    inputs = _inputs(problem)
    grad_output, cotangents = _vectors(inputs)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            _all(problem, inputs, grad_output, cotangents)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = _all(problem, inputs, grad_output, cotangents)
    for seed in range(2):
        torch.manual_seed(seed)
        with torch.no_grad():
            for x in (*inputs, grad_output, *cotangents):
                x.copy_(torch.randn_like(x))
        graph.replay()
        replayed = [None if x is None else x.detach().clone() for x in captured]
        for actual, expected in zip(replayed, _all(problem, inputs, grad_output, cotangents)):
            assert (actual is None and expected is None) or torch.equal(actual, expected)


def test_running_statistics_in_a_cuda_graph():
    x, mean, var = (
        torch.randn(8, 16, 8, 8, device="cuda"),
        torch.zeros(16, device="cuda"),
        torch.ones(16, device="cuda"),
    )

    def step():
        return batch_norm_act(x, None, None, mean, var, training=True, momentum=0.5, backend="triton")

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    mean.zero_()
    for times in range(1, 4):
        graph.replay()
        torch.testing.assert_close(mean, x.mean((0, 2, 3)) * (1 - 0.5**times))


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_inductor(layout):
    torch.compiler.reset()
    problem = PROBLEMS["batch"]._replace(layout=layout)
    x, gain, bias = make_inputs(problem, BF16, torch.float32, "cuda")
    mean, var, rho = torch.zeros(64, device="cuda"), torch.ones(64, device="cuda"), torch.rand(64, device="cuda")

    def layer(x, gain, bias):
        y = batch_norm_act(x, gain, bias, mean, var, training=True, activation="relu", backend="triton")
        y = layer_instance_norm_act(y, rho, gain, bias, backend="triton")
        return instance_norm_act(y, gain, None, backend="triton").float().square() + 1

    compiled = torch.compile(layer, fullgraph=True)
    grad = torch.randn(problem.shape, device="cuda")
    results = []
    for function in (compiled, layer):
        mean.zero_()
        y = function(x, gain, bias)
        results.append((y, mean.clone(), *torch.autograd.grad(y, (x, gain, bias), grad)))
    for actual, expected in zip(*results):
        error = (actual.float() - expected.float()).norm() / expected.float().norm()
        assert error < 2e-2


def test_no_synchronisation(problem):
    inputs = _inputs(problem)
    vectors = _vectors(inputs)
    _all(problem, inputs, *vectors)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _all(problem, inputs, *vectors)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_at_most_three_launches_each_way(problem):
    """As the device sees it: ours alone, no copy or cast beside them."""
    inputs = _inputs(problem)
    leaves = [t for t in inputs if t.requires_grad]
    grad = torch.randn_like(inputs[0])
    run = call(problem, "triton")
    calls = {
        "forward": Call(lambda _: run(*inputs)),
        "backward": Call(lambda y: torch.autograd.grad(y, leaves, grad), lambda: run(*inputs)),
    }
    for timed in calls.values():
        timed.run(timed.prepare())
    launches = count_launches(calls, torch.device("cuda"))
    held = "chip" in next(name for name, p in PROBLEMS.items() if p == problem) or problem.prologue
    assert launches["forward"] <= (1 if held else 3)
    assert launches["backward"] <= 3


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_tensors_of_more_than_two_billion_elements(norm, layout):
    """Values of 2^31 elements and more: instance norms of the last sample must be what they are alone."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    batch = 2**31 // (64 * 256 * 256) + 2
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.empty((batch, 64, 256, 256), device="cuda", dtype=BF16, memory_format=format).normal_().requires_grad_()
    assert x.numel() > 2**31
    run = call(Problem(norm, tuple(x.shape), "none", "relu"), "triton")
    y = run(x)
    (gradient,) = torch.autograd.grad(y, x, torch.ones((), device="cuda", dtype=BF16).expand(x.shape))
    last = x.detach()[-1:].clone(memory_format=format).requires_grad_()
    if norm == "instance":
        expected = run(last)
        (of_last,) = torch.autograd.grad(expected, last, torch.ones_like(expected))
        assert (y[-1:].float() - expected.float()).abs().max() < 0.05
        assert (gradient[-1:].float() - of_last.float()).abs().max() < 0.05
    else:
        # Standard normal over billions of values: the batch's statistics are 0 and 1.
        assert (y[-1:].float() - last.detach().float().relu()).abs().max() < 0.1
        assert torch.isfinite(gradient[-1:]).all()
