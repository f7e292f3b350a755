"""Layers that compare the samples of a batch, when several processes hold parts of it."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ganfuse.kernels.channel_norm.processes import all_reduce_sum

__all__ = ["join_batch", "own_rows"]


def join_batch(x: Tensor, group: Any) -> Tensor:
    """The whole batch, (B·P, ...), of which each of P processes has (B, ...), in the order of ranks.

    Differentiable to any order for the sum of the processes' losses.

    Args:
        x: this process's part; parts are of one size.
        group: the processes; None: this one alone.
    """
    if group is None:
        return x
    rank, count = dist.get_rank(group), dist.get_world_size(group)
    before, after = (x.new_zeros(x.shape[0] * others, *x.shape[1:]) for others in (rank, count - rank - 1))
    # Adding zeros is exact; and its derivatives are those of a sum.
    return all_reduce_sum(torch.cat([before, x, after]), group)


def own_rows(joined: Tensor, group: Any) -> Tensor:
    """This process's part of what was computed for the whole batch."""
    if group is None:
        return joined
    size = joined.shape[0] // dist.get_world_size(group)
    return joined[dist.get_rank(group) * size :][:size]
