"""Moving averages of what a network computes, such as the mean latent w of StyleGAN or the mean length of its paths."""

import torch
from torch import Tensor, nn

from ganfuse.engine.layers.process_group import InProcessGroup

__all__ = ["MovingAverage"]


class MovingAverage(InProcessGroup, nn.Module):
    """value ← decay · value + (1 − decay) · mean of what was observed since the last update.

    The mean is taken over all micro-batches and processes, so that it does not depend on how a batch was divided. What
    is not finite is left out: a step that overflows in float16 is undone by the loss scaling, and would stay in an
    average for good. All of the state is in the state dict, and nothing waits for the device.

    Args:
        shape: of one value.
        decay: 0 ≤ decay < 1.
        process_group: over whose processes the mean is taken; None means this process alone. May be set later.

    Attributes:
        value: buffer, the average, 0 at first.

    Raises:
        ValueError: decay is out of range.
    """

    value: Tensor
    _sum: Tensor
    _count: Tensor

    def __init__(
        self,
        *shape: int,
        decay: float,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay: expected 0 <= decay < 1, got {decay!r}")
        self.decay = decay
        self.process_group = process_group
        self.register_buffer("value", torch.zeros(shape))
        self.register_buffer("_sum", torch.zeros(shape))
        self.register_buffer("_count", torch.zeros(()))

    @torch.no_grad()
    def observe(self, values: Tensor) -> None:
        """Takes note of values, (N, *shape), each of which counts only if all of it is finite."""
        wide = values.detach().to(self._sum.dtype)
        finite = wide.isfinite().reshape(len(wide), self._sum.numel()).all(1)
        kept = finite.view(-1, *[1] * self._sum.dim())
        self._sum += torch.where(kept, wide, 0.0).sum(0)
        self._count += finite.sum()

    @torch.no_grad()
    def update(self) -> None:
        """Moves the value, unless nothing was observed."""
        sums = torch.cat([self._sum.reshape(-1), self._count.reshape(1)])
        if self.process_group is not None:
            torch.distributed.all_reduce(sums, group=self.process_group)
        count = sums[-1]
        mean = (sums[:-1] / count.clamp(min=1.0)).view_as(self.value)
        self.value.copy_(torch.where(count > 0, torch.lerp(mean, self.value, self.decay), self.value))
        self._sum.zero_()
        self._count.zero_()

    def extra_repr(self) -> str:
        return f"{', '.join(map(str, self.value.shape))}, decay={self.decay}".lstrip(", ")
