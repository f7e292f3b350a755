"""Adam with small moments for huge matrices."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LeanAdam"]

# Values that are worked on at a time: the temporary tensors have this many.
_CHUNK = 1 << 23


class LeanAdam(torch.optim.Optimizer):
    """`torch.optim.Adam`, but for matrices of at least `min_size` values, whose moments take 2 bytes a value, not 8.

    Of such a matrix the second moment is kept as its means over rows and over columns, whose outer product stands for
    it (Shazeer & Stern 2018, "Adafactor", arXiv 1804.04235, section 3); the first moment is kept in bfloat16. All else
    is Adam's (Kingma & Ba 2015, arXiv 1412.6980): bias correction, and `weight_decay` as an L2 penalty on the gradient.
    The gradient of a linear layer that is used by a few samples is a sum of as many outer products; of one alone the
    means lose nothing. Smaller matrices and all other parameters have Adam's own moments in their own type.

    Args:
        params: parameters, or groups of them.
        lr, betas, eps, weight_decay: as in `torch.optim.Adam`.
        min_size: number of values from which on a matrix is huge.

    Raises:
        ValueError: values out of range, and sparse gradients.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        min_size: int = 1 << 24,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if not value >= 0.0:
                raise ValueError(f"{name}: expected a number of at least 0, got {value!r}")
        if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"betas: expected two numbers with 0 <= beta < 1, got {betas!r}")
        if min_size < 1:
            raise ValueError(f"min_size: expected a positive number of values, got {min_size!r}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "min_size": min_size}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step along the gradients that are there."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    raise ValueError("params: LeanAdam does not take sparse gradients")
                state = self.state[parameter]
                if not state:
                    self._begin(parameter, state, group)
                state["step"] += 1
                move = _move_factored if "row" in state else _move_plain
                move(parameter, parameter.grad, state, group)
        return loss

    def load_state_dict(self, state_dict: Any) -> None:
        """As any optimiser's; the halved moments stay halved."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            if "row" in state:
                # PyTorch gives loaded states the parameter's type.
                state["exp_avg"] = state["exp_avg"].to(torch.bfloat16)

    @staticmethod
    def _begin(parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = torch.zeros((), dtype=torch.float32)
        if parameter.dim() == 2 and parameter.numel() >= group["min_size"]:
            state["exp_avg"] = torch.zeros_like(parameter, dtype=torch.bfloat16)
            state["row"] = parameter.new_zeros(parameter.shape[0])
            state["column"] = parameter.new_zeros(parameter.shape[1])
        else:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)


def _corrections(state: dict[str, Any], group: dict[str, Any]) -> tuple[float, float]:
    steps = float(state["step"])
    return 1.0 - group["betas"][0] ** steps, 1.0 - group["betas"][1] ** steps


def _move_plain(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    if group["weight_decay"]:
        grad = grad.add(parameter, alpha=group["weight_decay"])
    first, second = state["exp_avg"], state["exp_avg_sq"]
    first.lerp_(grad, 1.0 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
    correction1, correction2 = _corrections(state, group)
    denominator = second.div(correction2).sqrt_().add_(group["eps"])
    parameter.addcdiv_(first, denominator, value=-float(group["lr"]) / correction1)


def _move_factored(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    beta1, beta2 = group["betas"]
    rows, columns = parameter.shape
    height = max(1, _CHUNK // columns)
    chunks = [slice(start, start + height) for start in range(0, rows, height)]

    def decayed(part: slice) -> Tensor:
        return grad[part].add(parameter[part], alpha=group["weight_decay"])

    column_mean = torch.zeros_like(state["column"])
    row, column = state["row"], state["column"]
    for part in chunks:
        squares = decayed(part).square_()
        row[part].mul_(beta2).add_(squares.mean(1), alpha=1.0 - beta2)
        column_mean += squares.sum(0)
    column.mul_(beta2).add_(column_mean.div_(rows), alpha=1.0 - beta2)
    correction1, correction2 = _corrections(state, group)
    # A matrix whose gradients are all zero so far has no mean to divide by, and does not move.
    scaled = row / row.mean().clamp_min(torch.finfo(row.dtype).tiny) / correction2
    for part in chunks:
        # Rounded once for the next step: what moves the weights now has all its digits.
        first = state["exp_avg"][part].to(parameter.dtype).lerp_(decayed(part), 1.0 - beta1)
        state["exp_avg"][part] = first
        denominator = torch.outer(scaled[part], column).sqrt_().add_(group["eps"])
        parameter[part].addcdiv_(first, denominator, value=-float(group["lr"]) / correction1)
