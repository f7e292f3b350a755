"""Optimisers whose state is spread over the processes of a run (ZeRO-1), on PyTorch's own implementation."""

from typing import Any

import torch

from ganfuse.engine.game import OptimizerFactory
from ganfuse.engine.processes import Processes

__all__ = ["complete_state", "sharded_optimizer"]


def sharded_optimizer(groups: list[dict[str, Any]], factory: OptimizerFactory) -> torch.optim.Optimizer:
    """An optimiser of which each process keeps and updates a part, and then gives the others its new weights.

    Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models" (arXiv 1910.02054),
    stage 1. Gradients must already be the same in all processes.
    """
    from torch.distributed.optim import ZeroRedundancyOptimizer

    return ZeroRedundancyOptimizer(groups, optimizer_class=factory)  # type: ignore[arg-type]  # called, never subclassed


def complete_state(optimizer: torch.optim.Optimizer, processes: Processes) -> dict[str, Any]:
    """The optimiser's state. Of a sharded one it is gathered in the first process; the others get an empty dict."""
    if not hasattr(optimizer, "consolidate_state_dict"):
        return optimizer.state_dict()
    optimizer.consolidate_state_dict(to=0)
    return optimizer.state_dict() if processes.is_first else {}
