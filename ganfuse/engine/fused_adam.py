"""PyTorch's fused Adam, handed tensors that lie in memory as it reads them."""

from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.sharded_tensors import is_sharded

__all__ = ["FusedAdam", "laid_out_as"]


class FusedAdam(torch.optim.Adam):
    """`torch.optim.Adam` with ``fused=True``, as fast and as right for channels_last weights as for others.

    PyTorch's kernel for CPUs walks through the memory of a parameter, its gradient and its moments side by side,
    whatever their strides. A gradient or a loaded moment that lies in another order than its parameter is paired with
    the wrong values, without a word; of gradients of channels_last parameters it makes a copy first, which costs as
    much as half the step. Here all four are handed over as contiguous views in the order in which the parameter lies.

    Args:
        params, **settings: see `torch.optim.Adam`.
    """

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, fused=True, **settings)

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        exp_avgs: list[Tensor],
        exp_avg_sqs: list[Tensor],
        *rest: Any,
    ) -> bool:
        # What a group's step works on is collected in these lists; state and gradients stay what they are.
        has_complex: bool = super()._init_group(  # type: ignore[no-untyped-call]
            group, params, grads, exp_avgs, exp_avg_sqs, *rest
        )
        if group["fused"]:
            for i, parameter in enumerate(params):
                if is_sharded(parameter):
                    continue
                for name, moments in (("exp_avg", exp_avgs), ("exp_avg_sq", exp_avg_sqs)):
                    moments[i] = self.state[parameter][name] = laid_out_as(parameter, moments[i])
                if not parameter.is_contiguous():
                    order = _memory_order(parameter)
                    for tensors in (params, grads, exp_avgs, exp_avg_sqs):
                        tensors[i] = tensors[i].permute(order)
                grads[i] = grads[i].contiguous()
        return has_complex


def laid_out_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment as it should lie beside its parameter: itself if it does.

    One that comes with a checkpoint may be of a run in another memory format.
    """
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _memory_order(x: Tensor) -> tuple[int, ...]:
    """The permutation that makes a dense tensor contiguous."""
    strides = x.stride()
    return tuple(sorted(range(x.dim()), key=lambda dim: (-strides[dim], -x.shape[dim])))
