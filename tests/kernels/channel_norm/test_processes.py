"""Two processes with parts of a batch, of unequal sizes, against one process with all of it."""

import datetime

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ganfuse.kernels import batch_norm_act
from tests.kernels.feature_attention.problems import numbers

PARTS = (slice(0, 3), slice(3, 4))
# "noise" has shared parameters and, after them, noise whose strength is the gain once more.
CASES = [("relu", "shared"), ("silu", "own"), ("leaky_relu", "noise")]


def _inputs(parameters, dtype):
    # The same numbers in either type. The parts' means are apart from each other and from zero.
    x = numbers((4, 5, 3, 4), torch.float32, 0)
    x = (x + torch.tensor([8.0, 8.0, 9.0, 10.0]).view(4, 1, 1, 1)).to(dtype)
    shape = (4, 5) if parameters == "own" else (5,)
    return x, numbers(shape, torch.float32, 1).to(dtype), numbers(shape, torch.float32, 2).to(dtype)


def results(backend, activation, parameters, dtype, part=slice(0, 4), group=None):
    """All that training computes, on one part of the batch."""
    x, gain, bias = _inputs(parameters, dtype)
    x = x[part].clone().requires_grad_()
    gain, bias = ((p[part] if p.ndim == 2 else p).clone().requires_grad_() for p in (gain, bias))
    mean, var = torch.zeros(5, dtype=dtype), torch.ones(5, dtype=dtype)
    options = {"training": True, "activation": activation, "backend": backend, "process_group": group}
    if parameters == "noise":
        options |= {"noise": numbers((1, 1, 3, 4), torch.float32, 4).to(dtype), "noise_strength": gain}
    y = batch_norm_act(x, gain, bias, mean, var, **options)
    weights = numbers((4, 5, 3, 4), torch.float32, 3).to(dtype)[part]
    first = torch.autograd.grad((y * weights).sin().sum(), (x, gain, bias), create_graph=True)
    loss = first[0].square().sum() + (y * weights).cos().sum()
    second = torch.autograd.grad(loss, (x, gain, bias))
    return [t.detach() for t in (y, mean, var, *first, *second)]


NAMES = ("y", "mean", "var", "dx", "dgain", "dbias", "d2x", "d2gain", "d2bias")


def _collectives(backend):
    """How often processes wait for each other in the forward and in the backward."""
    counts = {"all_gather": 0, "all_reduce": 0}
    originals = {name: getattr(dist, name) for name in counts}

    def counted(name):
        def run(*arguments, **options):
            counts[name] += 1
            return originals[name](*arguments, **options)

        return run

    x, gain, bias = (t.requires_grad_() for t in _inputs("shared", torch.float32))
    for name in counts:
        setattr(dist, name, counted(name))
    try:
        y = batch_norm_act(
            x, gain, bias, torch.zeros(5), torch.ones(5), training=True, activation="relu", backend=backend,
            process_group=dist.group.WORLD,
        )  # fmt: skip
        forward = dict(counts)
        torch.autograd.grad(y.sum(), (x, gain, bias))
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)
    return forward, {name: counts[name] - forward[name] for name in counts}


def _worker(rank, folder, backends):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60)
    )
    made = {
        (backend, *case, str(dtype)): results(backend, *case, dtype, PARTS[rank], dist.group.WORLD)
        for backend in backends
        for case in CASES
        for dtype in (torch.float32, torch.float64)
    }
    made |= {("collectives", backend): _collectives(backend) for backend in backends if backend != "reference"}
    torch.save(made, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory):
    from ganfuse.kernels.backend import INTERPRETED

    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(_worker, args=(str(folder), ("triton",) if INTERPRETED else ("reference", "eager")), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.fixture(params=["reference", "eager", pytest.param("triton", marks=pytest.mark.interpreter)])
def backend(request):
    from ganfuse.kernels.backend import INTERPRETED

    if INTERPRETED and request.param != "triton":
        pytest.skip("the processes run with the interpreter alone here")
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_two_processes_equal_one(by_rank, backend, case, dtype):
    key = (backend, *case, str(dtype))
    expected = results("reference", *case, torch.float64)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for name, first, second, e in zip(NAMES, by_rank[0][key], by_rank[1][key], expected):
        if name in ("mean", "var"):
            assert torch.equal(first, second), f"{name} differs between the processes"
            joined = first
        elif first.ndim == 1:
            joined = first + second
        else:
            joined = torch.cat([first, second])
        error = (joined.double() - e).abs().max() / e.abs().max()
        assert error < tolerance, f"{name}: {error:.3g}"


def test_one_collective_each_way(by_rank, backend):
    if backend == "reference":
        pytest.skip("the definition sums step by step")
    for made in by_rank:
        forward, backward = made["collectives", backend]
        assert forward == {"all_gather": 1, "all_reduce": 0}
        assert backward == {"all_gather": 0, "all_reduce": 1}


def test_joining_parts_keeps_the_variance_and_skips_empty_ones(monkeypatch):
    from ganfuse.kernels.channel_norm import processes

    parts = [1e4 + torch.randn(n, 3) for n in (7, 0, 5)]
    joined = torch.cat(parts).double()
    rows = []
    for part in parts:
        mean = part.mean(0)
        rows.append(torch.cat([mean, (part - mean).square().sum(0), torch.tensor([float(len(part))])]))
    monkeypatch.setattr(processes.dist, "get_world_size", lambda group: 3)
    monkeypatch.setattr(processes.dist, "all_gather", lambda out, mine, group: [o.copy_(r) for o, r in zip(out, rows)])
    mean, squares, count = processes.gather_moments(rows[0][:3], rows[0][3:6], 7, None)
    assert count == 12
    torch.testing.assert_close(mean.double(), joined.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(squares.double() / 12, joined.var(0, correction=0), rtol=1e-3, atol=0)
