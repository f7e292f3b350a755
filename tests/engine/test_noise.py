"""Noise: shares of a batch see what the whole batch sees."""

import pytest
import torch

from ganfuse.engine.noise import Noise, Shard


def generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_shares_together_are_the_whole(count):
    def draws(noise, n):
        return (
            noise.normal(n, 5, dtype=torch.float64),
            noise.uniform(n, 1, 2),
            noise.integers(7, n),
            noise.beta(1.0, 1.0, n),
            noise.beta(0.4, 2.0, n),
        )

    whole = draws(Noise(generator()), 8)
    shares = [draws(Noise(generator(), Shard(index, count)), 8 // count) for index in range(count)]
    for drawn, parts in zip(whole, zip(*shares)):
        assert torch.equal(drawn, torch.cat(parts))


def test_micro_batches_of_a_share_are_shares_of_the_whole():
    assert Shard(1, 2).split(3) == [Shard(3, 6), Shard(4, 6), Shard(5, 6)]
    assert Shard().split(1) == [Shard()]


def test_shared_draws_are_the_same_everywhere():
    assert len({float(Noise(generator(), Shard(i, 4)).shared().uniform(1)) for i in range(4)}) == 1


def test_distributions():
    noise = Noise(generator())
    beta = noise.beta(2.0, 3.0, 20_000)
    assert float(beta.mean()) == pytest.approx(0.4, abs=0.01)
    assert float(beta.var()) == pytest.approx(0.04, abs=0.002)
    uniform, integers = noise.uniform(5000), noise.integers(4, 5000)
    assert 0.0 <= float(uniform.min()) < 0.01 < 0.99 < float(uniform.max()) < 1.0
    assert integers.unique().tolist() == [0, 1, 2, 3]
    assert float(noise.normal(20_000).std()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 3), (0, 0)])
def test_impossible_shards(index, count):
    with pytest.raises(ValueError, match="index: expected 0 <= index <"):
        Shard(index, count)
