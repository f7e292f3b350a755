"""Parameters that are put back into a range after every optimiser step, whoever trains and with whatever optimiser.

The clip belongs after the step, as in the papers that prescribe it: clamping in the forward instead stops the gradient
of a value that has left the range, which then never comes back, and leaves checkpoints and averages of weights with
values that the network never used. So that no training loop has to know of it, PyTorch's own hook for all optimisers
does it: `torch.optim.Optimizer.step` of any subclass clips what it has just moved.
"""

import weakref
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


class UnitIntervalParameter(nn.Module):
    """Base of layers with a parameter `rho` that stays in [0, 1].

    Weights that are loaded, or moved by anything but a `torch.optim.Optimizer`, are taken as they are; `clip` is for
    training loops that write parameters themselves.
    """

    rho: nn.Parameter

    def __init__(self) -> None:
        super().__init__()
        _watch(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Copies and unpickled layers come this way, not through __init__.
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        _watch(self)

    def clip(self) -> None:
        """Puts rho into [0, 1]."""
        with torch.no_grad():
            self.rho.clamp_(0.0, 1.0)


_layers: "weakref.WeakSet[UnitIntervalParameter]" = weakref.WeakSet()
_registered = False


def _watch(layer: UnitIntervalParameter) -> None:
    global _registered
    if not _registered:
        register_optimizer_step_post_hook(_clip_moved)
        _registered = True
    _layers.add(layer)


@torch.no_grad()
def _clip_moved(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    watched = {id(layer.rho): layer.rho for layer in _layers}
    if not watched:
        return
    moved = [p for group in optimizer.param_groups for p in group["params"] if id(p) in watched]
    if moved:
        torch._foreach_clamp_min_(moved, 0.0)
        torch._foreach_clamp_max_(moved, 1.0)
