"""The latest losses of every turn, and the watch for losses that are not finite."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ganfuse.engine.sharded_tensors import is_sharded, own_part

__all__ = [
    "LossRecord",
    "NonFiniteError",
    "NonFiniteGradientError",
    "NonFiniteLossError",
    "NonFiniteWeightError",
    "require_finite_weights",
]


class NonFiniteError(RuntimeError):
    """Training has produced NaN or infinity and was stopped."""


class NonFiniteLossError(NonFiniteError):
    """A loss is NaN or infinite.

    Attributes:
        turn, step, value: which loss, when, and what it was.
        checkpoint: the newest checkpoint from before, or None.
    """

    def __init__(self, turn: str, step: int, value: float, checkpoint: Path | None) -> None:
        self.turn, self.step, self.value, self.checkpoint = turn, step, value, checkpoint
        super().__init__(f"the loss of turn {turn!r} became {value} at step {step}; {_last_good(checkpoint)}")


class NonFiniteGradientError(NonFiniteError):
    """A gradient is NaN or infinite, though the loss is not.

    Attributes:
        turn, step: where and when.
        checkpoint: the newest checkpoint from before, or None.
    """

    def __init__(self, turn: str, step: int, checkpoint: Path | None) -> None:
        self.turn, self.step, self.checkpoint = turn, step, checkpoint
        super().__init__(f"a gradient of turn {turn!r} is not finite at step {step}; {_last_good(checkpoint)}")


class NonFiniteWeightError(NonFiniteError):
    """A weight is NaN or infinite, so that no checkpoint was written.

    Attributes:
        name, step: which tensor, and when that was noticed.
        checkpoint: the newest checkpoint from before, or None.
    """

    def __init__(self, name: str, step: int, checkpoint: Path | None) -> None:
        self.name, self.step, self.checkpoint = name, step, checkpoint
        super().__init__(f"{name} is no longer finite at step {step}; not saved; {_last_good(checkpoint)}")


class LossRecord:
    """Keeps what the turns report, as numbers, under "turn/entry".

    On the CPU every loss and gradient is looked at when it comes, before it does harm. On other devices that would
    stall the queue at every turn, so they wait on the device until `flush`, which costs one transfer for all of them.

    Attributes:
        latest: the newest known value of each entry.
        checkpoint: the newest checkpoint, for the message of errors.
        skipped: how many steps of an optimiser were left out since they were not finite.

    Args:
        device: of the losses.
        largest: the largest of a scalar in all processes; asked where gradients are sharded over them.
    """

    def __init__(self, device: torch.device, largest: Callable[[Tensor], Tensor] | None = None) -> None:
        self._largest = largest
        self.latest: dict[str, float] = {}
        self.checkpoint: Path | None = None
        self.skipped = 0
        self._deferred = device.type != "cpu"
        self._pending: list[tuple[int, str, str, Tensor, bool]] = []

    def add(
        self,
        step: int,
        turn: str,
        values: Mapping[str, Tensor],
        parameters: Sequence[nn.Parameter] = (),
        *,
        judge: bool = True,
        skip: bool = False,
    ) -> bool:
        """Takes the scalars of a turn, and looks at the gradients of the parameters.

        Args:
            step, turn: where the scalars come from.
            values: the scalars.
            parameters: whose gradients must be finite.
            judge: whether numbers that are not finite matter (loss scaling tries out where they begin).
            skip: answer False to what is not finite, in place of an error. On a GPU this waits for the device.

        Returns:
            Whether the optimiser may step.

        Raises:
            NonFiniteError: see `flush`.
        """
        scalars = {key: value.detach().reshape(()) for key, value in values.items()}
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None] if judge else []
        if gradients:
            scalars[_PEAK] = _largest_magnitude(gradients, self._largest)
        if skip and judge:
            kept = [value for key, value in scalars.items() if _must_be_finite(key)]
            if not bool(torch.isfinite(torch.stack([value.float() for value in kept])).all()):
                self.skipped += 1
                return False
        self._pending.extend((step, turn, key, value, judge and _must_be_finite(key)) for key, value in scalars.items())
        if not self._deferred:
            self.flush()
        return True

    def forget_pending(self) -> None:
        """Drops what was not flushed yet: it belongs to steps that are undone."""
        self._pending = []

    def flush(self) -> None:
        """Makes `latest` current.

        Raises:
            NonFiniteLossError: the first loss since the last flush that is not finite.
            NonFiniteGradientError: likewise a gradient.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        # On the CPU reading scalars one by one is faster than stacking them.
        numbers = (
            torch.stack([value.float() for _, _, _, value, _ in pending]).tolist()
            if self._deferred
            else [value.item() for _, _, _, value, _ in pending]
        )
        for (step, turn, key, _, judged), number in zip(pending, numbers):
            if judged and not math.isfinite(number):
                if key == _PEAK:
                    raise NonFiniteGradientError(turn, step, self.checkpoint)
                raise NonFiniteLossError(turn, step, number, self.checkpoint)
            if key != _PEAK:
                self.latest[f"{turn}/{key}"] = number


# The largest gradient of a turn: looked at, not logged.
_PEAK = "largest gradient"


def _must_be_finite(key: str) -> bool:
    return key in ("loss", _PEAK) or key.startswith("loss/")


def _largest_magnitude(tensors: Sequence[Tensor], largest: Callable[[Tensor], Tensor] | None) -> Tensor:
    """Finite exactly where all numbers are; NaN or infinite where one is, in any process that has a part of them."""
    sharded = any(map(is_sharded, tensors))
    parts = [own_part(tensor) for tensor in tensors]
    peaks = _peaks([part for part in parts if part.numel()])
    peak = torch.stack(peaks).amax() if peaks else parts[0].new_zeros(())
    return largest(peak) if sharded and largest is not None else peak


def _peaks(tensors: list[Tensor]) -> list[Tensor]:
    """max |x| of each, NaN where there is one."""
    if any(tensor.device.type != "cpu" for tensor in tensors):
        return list(torch._foreach_norm(tensors, math.inf))
    # On a CPU PyTorch's maximum norm takes sixteen times as long, 3 % of a step of CycleGAN.
    extremes = [torch.aminmax(_in_order_of_memory(tensor)) for tensor in tensors]
    return [torch.maximum(high, -low) for low, high in extremes]


def _in_order_of_memory(tensor: Tensor) -> Tensor:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor.permute(0, 2, 3, 1) if last else tensor


def require_finite_weights(
    game: nn.Module, step: int, checkpoint: Path | None, largest: Callable[[Tensor], Tensor] | None = None
) -> None:
    """Raises NonFiniteWeightError if a parameter or buffer is NaN or infinite. One synchronisation for all.

    `largest`: of each number in all processes; given where weights are sharded over them.
    """
    tensors = {key: value for key, value in game.state_dict().items() if value.is_floating_point() and value.numel()}
    if not tensors:
        return
    # max |w| is finite exactly where all are (a norm could overflow), and NaN where one is.
    parts = [own_part(value.detach()) for value in tensors.values()]
    peaks = torch.stack(
        [part.abs().amax().double().cpu() if part.numel() else torch.zeros(()).double() for part in parts]
    )
    if largest is not None:
        peaks = largest(peaks)
    bad = (~torch.isfinite(peaks)).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteWeightError(list(tensors)[bad[0]], step, checkpoint)


def _last_good(checkpoint: Path | None) -> str:
    return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint from before"
