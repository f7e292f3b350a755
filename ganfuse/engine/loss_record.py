"""The latest losses of every turn, and the watch for losses that are not finite."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["LossRecord", "NonFiniteError", "NonFiniteLossError", "NonFiniteWeightError", "require_finite_weights"]


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

    On the CPU every loss is looked at when it comes, before it does harm. On other devices that would stall the queue
    at every turn, so losses wait on the device until `flush`, which costs one transfer for all of them.

    Attributes:
        latest: the newest known value of each entry.
        checkpoint: the newest checkpoint, for the message of errors.
    """

    def __init__(self, device: torch.device) -> None:
        self.latest: dict[str, float] = {}
        self.checkpoint: Path | None = None
        self._deferred = device.type != "cpu"
        self._pending: list[tuple[int, str, str, Tensor]] = []

    def add(self, step: int, turn: str, values: Mapping[str, Tensor]) -> None:
        """Takes the scalars of a turn."""
        self._pending.extend((step, turn, key, value.detach().reshape(())) for key, value in values.items())
        if not self._deferred:
            self.flush()

    def flush(self) -> None:
        """Makes `latest` current.

        Raises:
            NonFiniteLossError: the first loss since the last flush that is not finite.
        """
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        # On the CPU reading scalars one by one is faster than stacking them.
        numbers = (
            torch.stack([value.float() for *_, value in pending]).tolist()
            if self._deferred
            else [value.item() for *_, value in pending]
        )
        for (step, turn, key, _), number in zip(pending, numbers):
            if key == "loss" and not math.isfinite(number):
                raise NonFiniteLossError(turn, step, number, self.checkpoint)
            self.latest[f"{turn}/{key}"] = number


def require_finite_weights(game: nn.Module, step: int, checkpoint: Path | None) -> None:
    """Raises NonFiniteWeightError if a parameter or buffer is NaN or infinite. One synchronisation for all."""
    tensors = {key: value for key, value in game.state_dict().items() if value.is_floating_point() and value.numel()}
    if not tensors:
        return
    # max |w| is finite exactly where all are (a norm could overflow), and NaN where one is.
    peaks = torch.stack([value.detach().abs().amax().double().cpu() for value in tensors.values()])
    bad = (~torch.isfinite(peaks)).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteWeightError(list(tensors)[bad[0]], step, checkpoint)


def _last_good(checkpoint: Path | None) -> str:
    return f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint from before"
