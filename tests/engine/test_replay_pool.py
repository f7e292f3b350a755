"""The pool of earlier images."""

import pytest
import torch

from ganfuse.engine.noise import Noise
from ganfuse.engine.replay_pool import ReplayPool


def numbered(*values):
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).clone()


def values(images):
    return images[:, 0, 0, 0].tolist()


def test_fills_first_then_returns_new_or_swaps():
    pool, noise = ReplayPool(3, (1, 2, 2)), Noise(torch.Generator().manual_seed(0))
    assert values(pool.exchange(numbered(1, 2), noise)) == [1, 2]
    assert int(pool.filled) == 2
    assert values(pool.exchange(numbered(3), noise)) == [3]
    held, kept, swapped = {1.0, 2.0, 3.0}, 0, 0
    for new in range(10, 210):
        (shown,) = values(pool.exchange(numbered(new), noise))
        if shown == new:
            kept += 1
        else:
            assert shown in held
            held = held - {shown} | {float(new)}
            swapped += 1
        assert set(values(pool.images)) == held
    assert 75 < kept < 125
    assert kept + swapped == 200


def test_the_coin_is_tossed_for_each_image_of_a_batch():
    pool, noise = ReplayPool(8, (1, 2, 2)), Noise(torch.Generator().manual_seed(0))
    pool.exchange(numbered(*range(8)), noise)
    shown = values(pool.exchange(numbered(*range(100, 140)), noise))
    assert 8 < sum(value >= 100 for value in shown) < 40
    assert any(value < 100 for value in shown)


def test_what_is_stored_and_shown_is_cut_from_graph_and_memory():
    pool, noise = ReplayPool(2, (1, 2, 2)), Noise(torch.Generator().manual_seed(0))
    weight = torch.ones((), requires_grad=True)
    images = numbered(1, 2) * weight
    shown = pool.exchange(images, noise)
    assert not shown.requires_grad
    images.data.zero_()
    assert values(pool.images) == [1, 2]
    for new in range(3, 12):
        shown = pool.exchange(numbered(new), noise)
        before = values(shown)
        pool.images.zero_()
        assert values(shown) == before


def test_a_loaded_pool_goes_on_as_the_saved_one():
    pool, noise = ReplayPool(3, (1, 2, 2)), Noise(torch.Generator().manual_seed(0))
    pool.exchange(numbered(1, 2), noise)
    other = ReplayPool(3, (1, 2, 2))
    other.load_state_dict(pool.state_dict())
    draws = [Noise(torch.Generator().manual_seed(5)) for _ in range(2)]
    new = numbered(*range(3, 30))
    assert torch.equal(pool.exchange(new, draws[0]), other.exchange(new, draws[1]))
    assert torch.equal(pool.images, other.images)


def test_capacity_zero_gives_back_what_comes():
    images = numbered(1, 2)
    assert torch.equal(ReplayPool(0, (1, 2, 2)).exchange(images, Noise()), images)


def test_bad_arguments():
    with pytest.raises(ValueError, match="capacity: expected a number of images of at least 0, got -1"):
        ReplayPool(-1, (1, 2, 2))
    with pytest.raises(ValueError, match=r"the pool holds images of shape \(1, 2, 2\), got \(3, 2, 2\)"):
        ReplayPool(3, (1, 2, 2)).exchange(torch.zeros(1, 3, 2, 2), Noise())


def test_labels_go_with_their_images():
    pool, noise = ReplayPool(4, (1, 2, 2), labelled=True), Noise(torch.Generator().manual_seed(0))
    older = 0
    for start in range(0, 60, 6):
        numbers = torch.arange(start, start + 6)
        images, labels = pool.exchange_labelled(numbered(*numbers.tolist()), numbers, noise)
        assert values(images) == labels.tolist()
        assert values(pool.images) == pool.labels.tolist()
        older += int((labels < start).sum())
    assert older > 10
    assert "labels" in pool.state_dict()
    assert "labels" not in ReplayPool(4, (1, 2, 2)).state_dict()
    with pytest.raises(ValueError, match="exchange_labelled"):
        pool.exchange(numbered(1), noise)
    with pytest.raises(ValueError, match="labelled=True"):
        ReplayPool(4, (1, 2, 2)).exchange_labelled(numbered(1), torch.zeros(1, dtype=torch.int64), noise)
