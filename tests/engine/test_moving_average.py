import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ganfuse.engine.moving_average import MovingAverage
from ganfuse.engine.processes import synchronise_statistics


def test_mean_over_all_that_was_observed():
    average = MovingAverage(2, decay=0.75).double()
    values = torch.randn(5, 2, dtype=torch.float64)
    average.observe(values[:2])
    average.observe(values[2:])
    assert not average.value.any()
    average.update()
    torch.testing.assert_close(average.value, 0.25 * values.mean(0))
    more = torch.randn(3, 2, dtype=torch.float64)
    average.observe(more)
    average.update()
    torch.testing.assert_close(average.value, 0.75 * 0.25 * values.mean(0) + 0.25 * more.mean(0))


def test_nothing_observed_changes_nothing():
    average = MovingAverage(decay=0.5)
    average.value.fill_(3.0)
    average.update()
    assert average.value == 3.0


def test_state_between_observation_and_update_is_kept():
    first, second = MovingAverage(2, decay=0.5), MovingAverage(2, decay=0.5)
    first.observe(torch.ones(3, 2))
    second.load_state_dict(first.state_dict())
    first.update(), second.update()
    assert torch.equal(first.value, second.value)
    assert first.value.tolist() == [0.5, 0.5]


def test_half_types_are_summed_in_the_averages_type():
    average = MovingAverage(decay=0.0)
    average.observe(torch.full((1000,), 0.1, dtype=torch.bfloat16))
    average.update()
    torch.testing.assert_close(average.value, torch.tensor(0.1, dtype=torch.bfloat16).float())


def test_what_is_not_finite_is_left_out():
    average = MovingAverage(2, decay=0.5)
    average.observe(torch.tensor([[1.0, 2.0], [float("nan"), 3.0], [3.0, float("inf")], [5.0, 6.0]]))
    average.update()
    # Half the mean of the two rows that are finite.
    assert average.value.tolist() == [1.5, 2.0]
    average.observe(torch.full((3, 2), float("nan")))
    average.update()
    assert average.value.tolist() == [1.5, 2.0]
    average.observe(torch.empty(0, 2))
    average.update()
    assert average.value.tolist() == [1.5, 2.0]


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = nn.ModuleDict({"average": MovingAverage(2, decay=0.5)})
    synchronise_statistics(model)
    # Rows 0..3 are one process's share, row 4 the other's.
    rows = torch.arange(10.0).view(5, 2)
    model["average"].observe(rows[:4] if rank == 0 else rows[4:])
    model["average"].update()
    torch.save(model["average"].value, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_mean_over_all_processes(tmp_path):
    mp.spawn(_worker, args=(str(tmp_path),), nprocs=2)
    for rank in range(2):
        # Half the mean of 0, 2, .., 8 and of 1, 3, .., 9.
        assert torch.load(tmp_path / f"{rank}.pt").tolist() == [2.0, 2.5]


def test_no_gradients_and_no_parameters():
    average = MovingAverage(3, decay=0.5)
    average.observe(torch.ones(2, 3, requires_grad=True))
    average.update()
    assert not average.value.requires_grad
    assert not list(average.parameters())


def test_errors():
    with pytest.raises(ValueError, match=r"decay: expected 0 <= decay < 1, got 1\.0"):
        MovingAverage(decay=1.0)
