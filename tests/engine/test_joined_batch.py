"""Layers that compare the samples of a batch see those of all processes, to second derivatives."""

import datetime

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ganfuse import MinibatchDiscrimination, MinibatchStdDev
from ganfuse.engine.ema import EMA
from ganfuse.engine.moving_average import MovingAverage
from ganfuse.engine.noise import Noise, Shard
from ganfuse.engine.processes import synchronise_statistics
from ganfuse.engine.replay_pool import ReplayPool

pytestmark = pytest.mark.slow

COUNT = 2
BATCH = 8


def layers():
    torch.manual_seed(0)
    return {
        "std": (MinibatchStdDev(4, 2), (4, 3, 3)),
        "closeness": (MinibatchDiscrimination(5, 3, 2).double(), (5,)),
    }


def derivatives(layer, x):
    """Output, its gradients, and those of a penalty on the input's gradient, as in R1."""
    x = x.clone().requires_grad_()
    y = layer(x)
    score = (y * y).flatten(1).sum(1)
    (first,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    penalty = first.square().flatten(1).sum(1)
    inputs = [x, *layer.parameters()]
    return [y.detach(), first.detach(), *(g.detach() for g in torch.autograd.grad((score + penalty).sum(), inputs))]


def inputs(shape):
    return torch.randn(BATCH, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def exchanged(pool, shard):
    shown = []
    for step in range(5):
        images = torch.arange(BATCH, dtype=torch.float32).view(-1, 1, 1, 1) + 100 * step
        labels = torch.arange(BATCH) + 100 * step
        own = slice(shard.index * BATCH // shard.count, (shard.index + 1) * BATCH // shard.count)
        noise = Noise(torch.Generator().manual_seed(step), shard)
        shown.append(
            torch.stack([t.flatten().float() for t in pool.exchange_labelled(images[own], labels[own], noise)])
        )
    return torch.stack(shown)


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=COUNT,
        timeout=datetime.timedelta(seconds=120),
    )
    found = {}
    for name, (layer, shape) in layers().items():
        own = inputs(shape).chunk(COUNT)[rank]
        synchronise_statistics(layer)
        found[name] = derivatives(layer, own)
        if rank == 0:
            # As the first process alone watches the discriminator.
            found[f"{name} alone"] = layer.eval()(own)
    pool = ReplayPool(10, (1, 1, 1), labelled=True)
    model = nn.ModuleDict({"pool": pool, "average": MovingAverage(1, decay=0.5)})
    synchronise_statistics(model)
    found["pool"] = exchanged(pool, Shard(rank, COUNT))
    found["stored"] = pool.state_dict()
    # Averages of networks are copies of them, made when they know their processes already.
    assert EMA(model).module["average"].process_group is dist.group.WORLD
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(_worker, args=(str(folder),), nprocs=COUNT)
    return [torch.load(folder / f"{rank}.pt") for rank in range(COUNT)]


@pytest.mark.parametrize("name", ["std", "closeness"])
def test_the_whole_batch_is_compared(found, name):
    layer, shape = layers()[name]
    y, *alone = derivatives(layer, inputs(shape))
    torch.testing.assert_close(torch.cat([part[name][0] for part in found]), y)
    for index, expected in enumerate(alone, start=1):
        parts = [part[name][index] for part in found]
        # Gradients of the inputs belong to their process; those of parameters are parts of a sum.
        joined = torch.cat(parts) if expected.shape[0] == BATCH else torch.stack(parts).sum(0)
        torch.testing.assert_close(joined, expected)


@pytest.mark.parametrize("name", ["std", "closeness"])
def test_in_evaluation_mode_no_process_waits_for_others(found, name):
    layer, shape = layers()[name]
    torch.testing.assert_close(found[0][f"{name} alone"], layer(inputs(shape).chunk(COUNT)[0]))


def test_processes_share_a_pool(found):
    pool = ReplayPool(10, (1, 1, 1), labelled=True)
    alone = exchanged(pool, Shard())
    torch.testing.assert_close(torch.cat([part["pool"] for part in found], dim=2), alone)
    assert (alone[1:] < torch.arange(1, 5).view(-1, 1, 1) * 100).any()
    for part in found:
        torch.testing.assert_close(part["stored"], pool.state_dict())
