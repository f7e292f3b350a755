"""The definition, in plain PyTorch; differentiable to any order."""

import torch
from torch import Tensor


def power_iterations(
    weight: Tensor, u: Tensor, v: Tensor | None, dim: int, n_power_iterations: int, eps: float, first: str
) -> tuple[Tensor, Tensor]:
    """u and v after steps of the power method on W, rows along `dim` (Miyato et al. 2018, algorithm 1).

    A product that vanishes has no direction, and 0 would stay 0 for ever after: then u and v stay as they were.
    """
    matrix = weight.movedim(dim, 0).flatten(1)
    v = torch.zeros_like(matrix[0]) if v is None else v
    start = u, v
    for _ in range(n_power_iterations):
        if first == "v":
            v = _unit(matrix.t() @ u, eps)
            product = matrix @ v
            u = _unit(product, eps)
        else:
            u = _unit(matrix @ v, eps)
            product = matrix.t() @ u
            v = _unit(product, eps)
    found = torch.linalg.vector_norm(product) > 0
    return torch.where(found, u, start[0]), torch.where(found, v, start[1])


def normalise(
    weight: Tensor, u: Tensor, v: Tensor, dim: int, eps: float, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """W / σ in `dtype`, and σ = uᵀWv with u and v constant; σ = eps for a weight of zeros."""
    sigma = torch.dot(u, torch.mv(weight.movedim(dim, 0).flatten(1), v))
    sigma = torch.where(sigma == 0, eps, sigma)
    return (weight / sigma).to(dtype or weight.dtype), sigma


def _unit(x: Tensor, eps: float) -> Tensor:
    unit: Tensor = x / torch.linalg.vector_norm(x).clamp_min(eps)
    return unit
