"""Exponential moving averages of weights (Polyak averaging, as in Karras et al. 2018 and Brock et al. 2019)."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["EMA", "averaged_weights"]


class EMA:
    """The exponential moving average of a module's parameters, as a module of its own, in evaluation mode.

    After update t = 1, 2, …, each parameter is `decay_t · average + (1 − decay_t) · value`. Without warm-up `decay_t`
    is `decay`; with it `min(decay, (1 + t)/(10 + t))`, which forgets the random initial weights within some tens of
    steps. Buffers (running statistics, counters) are copied.

    Args:
        module: whose weights are averaged; it is copied.
        decay: 0 ≤ decay < 1.
        warmup: see above.

    Attributes:
        module: the averaged module.
        updates: t, how many updates it has seen.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999, *, warmup: bool = True) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay: expected 0 <= decay < 1, got {decay!r}")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self.module = _detached_copy(module).eval().requires_grad_(False)

    def current_decay(self) -> float:
        """The decay of the latest update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Takes in the module's present weights: the module that was given at first, or one built alike."""
        self.updates += 1
        averages = [p.data for p in self.module.parameters()]
        values = [p.data for p in module.parameters()]
        if averages:
            torch._foreach_lerp_(averages, values, 1.0 - self.current_decay())
        buffers = list(self.module.buffers())
        if buffers:
            torch._foreach_copy_(buffers, list(module.buffers()))

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged module's state. The number of updates is kept beside it, in `updates`."""
        return self.module.state_dict()


@contextmanager
def averaged_weights(game: nn.Module, averages: Mapping[str, EMA]) -> Iterator[None]:
    """Inside, the named submodules of the game are their averages; afterwards they are the trained ones again."""
    trained = {name: game.get_submodule(name) for name in averages}
    try:
        for name, average in averages.items():
            _set_submodule(game, name, average.module)
        yield
    finally:
        for name, module in trained.items():
            _set_submodule(game, name, module)


def _set_submodule(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(root.get_submodule(parent), attribute, module)


def _detached_copy(module: nn.Module) -> nn.Module:
    # torch.nn.utils.spectral_norm leaves the normalised weight, part of a graph, as an attribute; deepcopy refuses
    # such tensors, so they are given to it ready copied.
    memo = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, memo)
