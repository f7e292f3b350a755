"""Exponential moving averages of weights (Polyak averaging, as in Karras et al. 2018 and Brock et al. 2019)."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ganfuse.engine.game import EMATarget
from ganfuse.engine.sharded_tensors import own_part

__all__ = ["EMA", "averaged_weights", "detached_copy"]


class EMA:
    """The exponential moving average of a module's parameters, as a module of its own, in evaluation mode.

    After update t = 1, 2, …, each parameter is `decay_t · average + (1 − decay_t) · value`. Without warm-up `decay_t`
    is `decay`; with it `min(decay, (1 + t)/(10 + t))`, which forgets the random initial weights within some tens of
    steps. With a half-life h in images, `decay_t` is ½^(n/h) for a batch of n, and h is at most `ramp_up` times the
    images seen (Karras et al. 2020, arXiv 2006.06676, appendix). Buffers (running statistics, counters) are copied.

    Args:
        module: whose weights are averaged; it is copied.
        decay: 0 ≤ decay < 1.
        warmup: see above.
        half_life: in images; replaces decay and warm-up.
        ramp_up: see above; None: h is constant.
        start: the average is a copy of the weights until update number `start` (Brock et al. 2019: 20,000).

    Attributes:
        module: the averaged module.
        updates: t, how many updates it has seen.
    """

    def __init__(
        self,
        module: nn.Module,
        decay: float = 0.999,
        *,
        warmup: bool = True,
        half_life: float | None = None,
        ramp_up: float | None = None,
        start: int = 0,
    ) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay: expected 0 <= decay < 1, got {decay!r}")
        self.decay = decay
        self.warmup = warmup
        self.half_life = half_life
        self.ramp_up = ramp_up
        self.start = start
        self.updates = 0
        self.module = detached_copy(module).eval().requires_grad_(False)

    @classmethod
    def of(cls, target: EMATarget, game: nn.Module) -> "EMA":
        """The average that a game asks for."""
        return cls(
            game.get_submodule(target.module),
            target.decay,
            warmup=target.warmup,
            half_life=target.half_life,
            ramp_up=target.ramp_up,
            start=target.start,
        )

    def current_decay(self, images: int = 0, batch_size: int = 1) -> float:
        """The decay of the latest update, after `images` images in batches of `batch_size`."""
        if self.updates <= self.start:
            return 0.0
        if self.half_life is not None:
            half_life = self.half_life if self.ramp_up is None else min(self.half_life, self.ramp_up * images)
            return 0.5 ** (batch_size / max(half_life, 1e-8))  # type: ignore[no-any-return]
        return min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay

    @torch.no_grad()
    def update(self, module: nn.Module, *, images: int = 0, batch_size: int = 1) -> None:
        """Takes in the module's present weights: the module that was given at first, or one built alike.

        Args:
            module: see above.
            images: real images seen so far; only the half-life asks for it.
            batch_size: images since the last update; likewise.
        """
        self.updates += 1
        averages = [own_part(p.data) for p in self.module.parameters()]
        values = [own_part(p.data) for p in module.parameters()]
        if averages:
            torch._foreach_lerp_(averages, values, 1.0 - self.current_decay(images, batch_size))
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


def detached_copy(module: nn.Module) -> nn.Module:
    """A copy without the graphs that PyTorch's spectral normalisation leaves at its modules."""
    # torch.nn.utils.spectral_norm leaves the normalised weight, part of a graph, as an attribute; deepcopy refuses
    # such tensors, so they are given to it ready copied.
    memo: dict[int, object] = {
        id(value): value.detach().clone()
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, memo)
