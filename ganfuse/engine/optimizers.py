"""Optimisers as values: what to build, before the parameters are known. Equal settings compare equal."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Adam"]

_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class Adam:
    """Makes `torch.optim.Adam` (Kingma & Ba 2015), in its fused form where PyTorch has it for the parameters.

    Calling it with parameters gives the optimiser: `Adam(lr=1e-4, betas=(0.0, 0.9))(network.parameters())`.
    """

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not self.lr >= 0.0:
            raise ValueError(f"lr: expected a learning rate of at least 0, got {self.lr!r}")
        if len(self.betas) != 2 or not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas: expected two numbers with 0 <= beta < 1, got {self.betas!r}")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.Adam:
        params = list(params)
        fused = all(p.is_floating_point() and p.device.type in _FUSED_DEVICES for p in params)
        return torch.optim.Adam(
            params, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=fused
        )
