"""Statistics of one batch that several processes hold parts of, of unequal sizes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def resolve(name: str) -> Any:
    """The process group of that name; None for "", this process alone."""
    if not name:
        return None
    find: Any = dist.distributed_c10d._resolve_process_group
    return find(name)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = x.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        # Each process's loss depends on the total, hence on each process's x.
        return _AllReduceSum.apply(grads[0], ctx.group), None  # type: ignore[no-untyped-call]


def all_reduce_sum(x: Tensor, group: Any) -> Tensor:
    """The sum of the processes' `x`; differentiable to any order for the sum of the processes' losses."""
    total: Tensor = _AllReduceSum.apply(x, group)  # type: ignore[no-untyped-call]
    return total


def gather_moments(mean: Tensor, squares: Tensor, count: float, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, centred square sum and count of the joined batch, from those of each process's part.

    One all-gather; combined by Chan et al. 1979 in the order of ranks, so that all processes get the same bits. Sums
    of x and x² in an all-reduce would lose the variance of channels whose mean is large.

    Args:
        mean, squares: (C,) of this process's part. count: its elements per channel, the same for all channels.
    """
    mine = torch.cat([mean, squares, mean.new_tensor([count])])
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, mine, group=group)
    channels = mean.shape[0]
    total_mean, total_squares, total = parts[0][:channels], parts[0][channels:-1], parts[0][-1]
    for part in parts[1:]:
        n = part[-1]
        both = total + n
        # A process without samples has a mean that means nothing.
        delta = torch.where(n > 0, part[:channels] - total_mean, 0.0)
        share = n / both.clamp(min=1)
        total_mean = torch.where(total > 0, total_mean + delta * share, part[:channels])
        total_squares = total_squares + part[channels:-1] + torch.where(total > 0, delta.square() * total * share, 0.0)
        total = both
    return total_mean, total_squares, total
