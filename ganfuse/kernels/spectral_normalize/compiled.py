"""The form for compiled graphs without kernels: the definition, but for u and v, which come out of one opaque op.

A graph must hold u and v as they were in its forward. Compilers choose for themselves what a backward computes again,
and PyTorch's partitioner (2.13; pytorch/pytorch#197039) does so from inputs that the forward has written since: here,
from the buffers u and v after their step. Gradients are silently wrong then, and a second forward before the backward
makes them an error. What comes out of a custom op is kept instead, and is nobody's buffer.
"""

from typing import Any

import torch
from torch import Tensor

from ganfuse.kernels.spectral_normalize import eager, reference

_NAME = "ganfuse::spectral_normalize_vectors"


def normalise_one(
    weight: Tensor, u: Tensor, v: Tensor | None, dim: int, dtype: torch.dtype | None, n_power_iterations: int,
    eps: float, first: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`eager.normalise_one`, to be traced by a compiler, which fuses what is differentiable, and that twice."""
    with torch.no_grad():
        op = torch.ops.ganfuse.spectral_normalize_vectors
        u, v = op(weight.detach(), u, v, dim, n_power_iterations, eps, first)
    return *reference.normalise(weight, u, v, dim, eps, dtype), u, v


torch.library.define(
    _NAME,
    "(Tensor weight, Tensor u, Tensor? v, int dim, int n_power_iterations, float eps, str first) -> (Tensor, Tensor)",
)


@torch.library.impl(_NAME, "default")
def _run_vectors(
    weight: Tensor, u: Tensor, v: Tensor | None, dim: int, n_power_iterations: int, eps: float, first: str
) -> tuple[Tensor, Tensor]:
    if n_power_iterations == 0:
        assert v is not None
        return u.clone(), v.clone()
    return eager.power_iterations(weight, u, v, dim, n_power_iterations, eps, first)[:2]


def _fake_vectors(weight: Tensor, u: Tensor, v: Tensor | None, dim: int, *_: Any) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), u.new_empty(weight.numel() // weight.shape[dim])


torch.library.register_fake(_NAME)(_fake_vectors)
