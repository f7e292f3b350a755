"""Running statistics of batch norms: their update, and when a kernel may make it by the way."""

import torch
from torch import Tensor

from ganfuse.kernels.channel_norm.allocation import Attributes, accumulator
from ganfuse.kernels.weight_gradients import functorch_is_active


class RunningStatistics:
    """The running mean and variance that a training call moves.

    Attributes:
        mean, var: (C,). momentum: in ``running += momentum · (batch − running)``.
        updated: whether it has been done.
    """

    def __init__(self, mean: Tensor, var: Tensor, momentum: float) -> None:
        self.mean, self.var, self.momentum = mean, var, momentum
        self.updated = False

    def is_usual(self, dtype: torch.dtype, channels: int) -> bool:
        """Whether both are plain (C,) tensors of that type on a CPU."""
        mean, var = self.mean, self.var
        if type(mean) is not Tensor or type(var) is not Tensor or not (mean.dtype == dtype == var.dtype):
            return False
        return mean.shape == (channels,) and var.shape == (channels,) and mean.is_cpu and var.is_cpu

    def may_be_written(self, x: Tensor) -> bool:
        """Whether a kernel of the forward of x may do it.

        Not where `torch.compile` traces, whose ops must not write their inputs unannounced; nor under torch.func, which
        hands out wrappers; and only what the kernel keeps its sums in.
        """
        if torch.compiler.is_compiling() or functorch_is_active():
            return False
        same = accumulator(x.dtype) == self.mean.dtype == self.var.dtype == torch.float32
        return same and self.mean.is_contiguous() and self.var.is_contiguous()

    def update(self, moments: Tensor) -> None:
        """By `moments`, the (3, C) of `allocation.fake_forward`."""
        self.updated = True
        mean, var = self.mean, self.var
        with torch.no_grad():
            if mean.dtype != moments.dtype or var.dtype != moments.dtype:
                mean.lerp_(moments[0].to(mean.dtype), self.momentum)
                var.lerp_(moments[1].to(var.dtype), self.momentum)
            else:
                torch._foreach_lerp_([mean, var], [moments[0], moments[1]], self.momentum)

    def was_written(self) -> None:
        """To be called by who wrote the buffers behind autograd's back."""
        self.updated = True
        torch.autograd.graph.increment_version((self.mean, self.var))


class UpdatingAttributes(Attributes):
    """Attributes of a call that also hands its running statistics to the launcher.

    Not as inputs of the op: autograd would keep those, and then refuse a backward after the next update.
    """

    running: RunningStatistics | None = None

    @classmethod
    def of(cls, attributes: Attributes, running: RunningStatistics) -> "UpdatingAttributes":
        made = cls(*attributes)
        made.running = running
        return made
