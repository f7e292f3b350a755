"""Optimisers as values: what to build, before the parameters are known. Equal settings compare equal.

Calling one with parameters, or with groups of them as `torch.optim` takes them, gives the optimiser:
`Adam(lr=1e-4, betas=(0.0, 0.9))(network.parameters())`. Each is in its fused form where PyTorch has it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ganfuse.engine.checks import is_number
from ganfuse.engine.fused_adam import FusedAdam
from ganfuse.engine.lean_adam import LeanAdam

__all__ = ["SGD", "Adam", "RMSprop"]

_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class Adam:
    """`torch.optim.Adam` (Kingma & Ba 2015, arXiv 1412.6980); weight_decay is the L2 penalty on the gradient.

    `lean` keeps small moments of huge matrices, see `ganfuse.engine.lean_adam.LeanAdam`.
    """

    lr: float
    betas: Sequence[float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    lean: bool = False

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_weights(eps=self.eps, weight_decay=self.weight_decay)
        two = isinstance(self.betas, Sequence) and len(self.betas) == 2
        if not (two and all(is_number(beta) and 0.0 <= beta < 1.0 for beta in self.betas)):
            raise ValueError(f"betas: expected two numbers with 0 <= beta < 1, got {self.betas!r}")
        # A whole number, such as YAML's 0, beside a fraction is refused by PyTorch.
        object.__setattr__(self, "betas", (float(self.betas[0]), float(self.betas[1])))

    def __call__(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        params = list(params)
        betas = (self.betas[0], self.betas[1])
        if self.lean:
            return LeanAdam(params, self.lr, betas, self.eps, self.weight_decay)
        adam = FusedAdam if _can_be_fused(params) else torch.optim.Adam
        return adam(params, lr=self.lr, betas=betas, eps=self.eps, weight_decay=self.weight_decay)

    def lazy(self, interval: int) -> "Adam":
        """The settings for a player whose loss has a regulariser every `interval` steps, in a turn of its own.

        Karras et al. 2020 (StyleGAN2, arXiv 1912.04958, appendix B): with c = k/(k + 1) the learning rate is c·lr and
        the moments decay by β^c, since k steps of the run are k + 1 of the optimiser.

        Raises:
            ValueError: interval is not positive.
        """
        if interval < 1:
            raise ValueError(f"interval: expected a positive number of steps, got {interval!r}")
        share = interval / (interval + 1.0)
        betas = (self.betas[0] ** share, self.betas[1] ** share)
        return replace(self, lr=self.lr * share, betas=betas)


@dataclass(frozen=True)
class RMSprop:
    """`torch.optim.RMSprop` (Tieleman & Hinton 2012). Keras and TensorFlow mean alpha=0.9 and eps=1e-7."""

    lr: float
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_weights(eps=self.eps, weight_decay=self.weight_decay)
        if not (is_number(self.alpha) and 0.0 <= self.alpha < 1.0):
            raise ValueError(f"alpha: expected a number with 0 <= alpha < 1, got {self.alpha!r}")

    def __call__(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(
            params, lr=self.lr, alpha=self.alpha, eps=self.eps, weight_decay=self.weight_decay, foreach=True
        )


@dataclass(frozen=True)
class SGD:
    """`torch.optim.SGD`."""

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self.lr)
        _check_weights(momentum=self.momentum, weight_decay=self.weight_decay)

    def __call__(self, params: Iterable[Any]) -> torch.optim.Optimizer:
        params = list(params)
        return torch.optim.SGD(
            params, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=_can_be_fused(params)
        )


def _check_rate(lr: float) -> None:
    if not (is_number(lr) and lr >= 0.0):
        raise ValueError(f"lr: expected a learning rate of at least 0, got {lr!r}")


def _check_weights(**weights: float) -> None:
    for key, value in weights.items():
        if not (is_number(value) and value >= 0.0):
            raise ValueError(f"{key}: expected a number of at least 0, got {value!r}")


def _can_be_fused(params: list[Any]) -> bool:
    parameters: list[nn.Parameter] = []
    for entry in params:
        parameters += entry["params"] if isinstance(entry, Mapping) else [entry]
    return all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in parameters)
