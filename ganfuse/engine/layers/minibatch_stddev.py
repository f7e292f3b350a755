"""The minibatch standard deviation layer (Karras et al. 2018, "Progressive Growing of GANs", section 3)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ganfuse.engine.layers.joined_batch import join_batch, own_rows
from ganfuse.engine.layers.process_group import InProcessGroup
from ganfuse.kernels import minibatch_stddev


class MinibatchStdDev(InProcessGroup, nn.Module):
    """Appends how much the samples of a group differ, as constant channels, so that a discriminator sees variety.

    Args:
        group_size: samples in a group; a batch that it does not divide is split into groups of its largest divisor
            below. None: the whole batch is one group.
        num_channels: channels to append, each for an equal share of the input's.

    Attributes:
        process_group: the processes that hold parts of one batch in training; None: this one alone. The trainer sets
            it. In evaluation mode a batch is of one process.
        parts: of a batch, that are taken for batches of their own; see `compare_within`.

    Raises:
        ValueError: for arguments out of range, and an input that is not (B, C, H, W) with C divisible by num_channels.
    """

    def __init__(self, group_size: int | None = 4, num_channels: int = 1) -> None:
        super().__init__()
        if group_size is not None and group_size < 1:
            raise ValueError(f"group_size must be at least 1 or None, got {group_size!r}")
        if num_channels < 1:
            raise ValueError(f"num_channels must be at least 1, got {num_channels}")
        self.group_size = group_size
        self.num_channels = num_channels
        self.process_group = None
        self.parts = 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C + num_channels, H, W)."""
        if self.parts == 1 or x.shape[0] == 0:
            return self._compared(x)
        return torch.cat([self._compared(part) for part in x.chunk(self.parts)])

    def _compared(self, x: Tensor) -> Tensor:
        group = self.process_group if self.training else None
        return own_rows(minibatch_stddev(join_batch(x, group), self.group_size, self.num_channels), group)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}, num_channels={self.num_channels}"


@contextmanager
def compare_within(model: nn.Module, parts: int) -> Iterator[None]:
    """Inside, batches of `model` are so many equal ones, one behind the other, and samples are compared within each.

    For a discriminator that sees real and generated images in one batch as if it saw them in two.
    """
    layers = [module for module in model.modules() if isinstance(module, MinibatchStdDev)]
    before = [layer.parts for layer in layers]
    for layer in layers:
        layer.parts = parts
    try:
        yield
    finally:
        for layer, number in zip(layers, before):
            layer.parts = number
