"""The processes of a distributed run (started by `torchrun`), or the single one of any other."""

import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganfuse.engine.augment import AdaptiveAugment
from ganfuse.engine.layers import BatchNormAct2d, ConditionalBatchNorm2d, MinibatchDiscrimination, MinibatchStdDev
from ganfuse.engine.moving_average import MovingAverage
from ganfuse.engine.noise import Shard
from ganfuse.engine.rendezvous import rendezvous
from ganfuse.engine.replay_pool import ReplayPool
from ganfuse.engine.sharded_tensors import is_sharded

__all__ = ["Processes", "synchronise_statistics"]


_SYNCHRONISED = (
    BatchNormAct2d,
    ConditionalBatchNorm2d,
    MinibatchDiscrimination,
    MinibatchStdDev,
    AdaptiveAugment,
    MovingAverage,
    ReplayPool,
)


class Processes:
    """What the trainer asks of the other processes. Alone, every method is the identity.

    Attributes:
        rank: number of this process.
        count: how many there are.
    """

    _restarted = False

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.count = dist.get_world_size() if together else 1

    @classmethod
    def join(cls, device: str | torch.device = "auto") -> "Processes":
        """All processes that `torchrun` has started with this one, over NCCL for GPUs and gloo for CPUs.

        Joins them if that was not done yet. Without `torchrun`, this process alone.
        """
        started = dist.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized()
        if started and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            gpu = str(device).startswith("cuda") or (str(device) == "auto" and torch.cuda.is_available())
            if gpu:
                torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            store, rank, count, Processes._restarted = rendezvous()
            dist.init_process_group("nccl" if gpu else "gloo", store=store, rank=rank, world_size=count)
        return cls()

    @staticmethod
    def leave() -> None:
        """Parts from the other processes, if they were joined."""
        if dist.is_available() and dist.is_initialized():
            # Nobody tears down connections that another one still waits on.
            dist.barrier()
            dist.destroy_process_group()

    @staticmethod
    def was_restarted() -> bool:
        """Whether `torchrun` has started the processes again, because one had failed or the machines have changed.

        Known when they have been joined: each machine counts only the failures of its own processes.
        """
        return Processes._restarted or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0

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
            # Sharded networks average theirs themselves.
            if parameter.grad is not None and not is_sharded(parameter.grad):
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

    def largest(self, value: Tensor) -> Tensor:
        """The largest of each number in all processes; infinite where one of them is NaN."""
        if self.count > 1:
            # What a maximum makes of NaN differs between libraries.
            value = value.detach().nan_to_num(nan=math.inf, posinf=math.inf)
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return value

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

    @contextmanager
    def first_one_first(self) -> Iterator[None]:
        """Inside, the first process works before the others do: it downloads, they find what it has downloaded."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wait(self) -> None:
        """Until all processes have come here."""
        if self.count > 1:
            dist.barrier()


def synchronise_statistics(model: nn.Module) -> None:
    """Makes whatever depends on the other samples of a batch, or on earlier ones, look at those of all processes.

    Batch normalisation, minibatch statistics, replay pools, moving averages, and what adapts an augmentation. That
    concerns the layers of this library. PyTorch's own cannot be differentiated twice when they are synchronised,
    so they are left as they are, with a warning.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    foreign = []
    for name, module in model.named_modules():
        if isinstance(module, _SYNCHRONISED):
            if module.process_group is None:
                module.process_group = dist.group.WORLD
        elif isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
            foreign.append(name)
    if foreign:
        warnings.warn(
            f"{foreign[0]} and {len(foreign) - 1} more layers of torch.nn normalise over the batch of one process; "
            "ganfuse.BatchNormAct2d.from_torch makes layers of them that normalise over that of all",
            stacklevel=2,
        )
