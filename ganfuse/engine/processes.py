"""The processes of a distributed run (started by `torchrun`), or the single one of any other."""

from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganfuse.engine.noise import Shard

__all__ = ["Processes"]


class Processes:
    """What the trainer asks of the other processes. Alone, every method is the identity.

    Attributes:
        rank: number of this process.
        count: how many there are.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    @property
    def shard(self) -> Shard:
        """This process's part of every batch."""
        return Shard(self.rank, self.count)

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Makes each gradient the mean over all processes, one message per type of number.

        After the backward pass, not during it: hooks that reduce while a second-order backward is still adding to the
        gradients are what makes wrappers fail with gradient penalties.
        """
        if self.count == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None:
                by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            flat /= self.count
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            torch._foreach_copy_(gradients, [part.view(g.shape) for part, g in zip(parts, gradients)])

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The mean over all processes of each scalar."""
        if self.count == 1 or not values:
            return dict(values)
        stacked = torch.stack([value.detach().reshape(()).double() for value in values.values()])
        dist.all_reduce(stacked)
        return dict(zip(values, stacked / self.count))

    def first_set(self, flags: Sequence[bool], device: torch.device) -> int | None:
        """The index of the first flag that is set in any process; None if none is."""
        if self.count > 1:
            seen = torch.tensor(flags, dtype=torch.float32, device=device)
            dist.all_reduce(seen, dist.ReduceOp.MAX)
            flags = [bool(flag) for flag in seen.tolist()]
        return next((index for index, flag in enumerate(flags) if flag), None)

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the tensors of the first one, in place."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            dist.barrier()
