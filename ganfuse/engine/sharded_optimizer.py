"""Optimisers whose state is spread over the processes of a run (ZeRO-1), on PyTorch's own implementation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.fused_adam import laid_out_as
from ganfuse.engine.game import OptimizerFactory
from ganfuse.engine.processes import Processes
from ganfuse.engine.sharded_tensors import is_sharded, shard_like, whole

__all__ = ["complete_state", "gathered", "load_complete_state", "sharded_optimizer", "step_one_by_one_where_mixed"]


def sharded_optimizer(groups: list[dict[str, Any]], factory: OptimizerFactory) -> torch.optim.Optimizer:
    """An optimiser of which each process keeps and updates a part, and then gives the others its new weights.

    Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (arXiv 1910.02054),
    stage 1. Gradients must already be the same in all processes.
    """
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(groups, optimizer_class=factory)  # type: ignore[arg-type]  # called, never subclassed


def complete_state(optimizer: torch.optim.Optimizer, processes: Processes) -> dict[str, Any]:
    """The optimiser's state. Of a sharded one it is gathered in the first process; the others get an empty dict.

    Likewise the moments of sharded parameters.
    """
    if not hasattr(optimizer, "consolidate_state_dict"):
        state = optimizer.state_dict()
        moments = {
            index: {key: gathered(value, processes) for key, value in entries.items()}
            for index, entries in state["state"].items()
        }
        return {**state, "state": moments}
    optimizer.consolidate_state_dict(to=0)
    return optimizer.state_dict() if processes.is_first else {}


def step_one_by_one_where_mixed(optimizer: torch.optim.Optimizer) -> None:
    """Turns off what works on many tensors at once for groups of whole and sharded parameters: it takes no mixture."""
    for group in optimizer.param_groups:
        if len({is_sharded(parameter) for parameter in group["params"]}) > 1:
            group.update({key: False for key in ("fused", "foreach") if key in group})


def gathered(value: Any, processes: Processes) -> Any:
    """A sharded tensor's whole on the first process's CPU, and nothing in the others; anything else as it is."""
    if not (isinstance(value, Tensor) and is_sharded(value)):
        return value
    complete = whole(value)
    return complete.cpu() if processes.is_first else complete.new_empty(0)


def load_complete_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Loads what `complete_state` gave. Of moments of sharded parameters each process keeps its part.

    Moments get the memory format of their parameters: fused optimisers go through both as they lie in memory, and the
    state may be of a run in another format.
    """
    optimizer.load_state_dict(dict(state))
    step_one_by_one_where_mixed(optimizer)
    # ZeRO steps by another optimiser, of this process's parameters alone.
    stepped: torch.optim.Optimizer = getattr(optimizer, "optim", optimizer)
    for parameter, entries in stepped.state.items():
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value = shard_like(value, parameter)
                entries[key] = value if is_sharded(value) else laid_out_as(parameter, value)
