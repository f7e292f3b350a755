"""Sets of weights of every shape and layout, with their vectors."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# (shape, rows along, memory layout). Interpreted strips are 32 by 128, blocks of vectors 64.
WEIGHTS = {
    "conv": ((5, 3, 3, 3), 0, "contiguous"),
    "conv channels_last": ((6, 5, 3, 2), 0, "channels_last"),
    "conv_transpose": ((3, 5, 4, 2), 1, "contiguous"),
    "conv_transpose channels_last": ((3, 5, 2, 3), 1, "channels_last"),
    "conv1d": ((4, 3, 5), 0, "contiguous"),
    "conv3d": ((3, 2, 2, 3, 2), 0, "channels_last"),
    "linear": ((7, 12), 0, "contiguous"),
    "transposed": ((6, 9), 0, "transposed"),
    "with holes": ((5, 6), 0, "holes"),
    "rows in the middle": ((2, 4, 3), 1, "contiguous"),
    "rows last": ((3, 2, 4), 2, "contiguous"),
    "1x1": ((1, 1), 0, "contiguous"),
    "1xn": ((1, 9), 0, "contiguous"),
    "nx1": ((9, 1), 0, "contiguous"),
    "very wide": ((2, 333), 0, "contiguous"),
    "very tall": ((333, 2), 0, "contiguous"),
    "several strips": ((40, 136), 0, "contiguous"),
    "several strips, unaligned": ((35, 131), 0, "contiguous"),
}


class Batch(NamedTuple):
    """Weights that require grad, and unit vectors that do not."""

    weights: list[Tensor]
    us: list[Tensor]
    vs: list[Tensor]
    dims: list[int]


def arrange(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
    if layout == "transposed":
        return x.t().contiguous().t()
    if layout == "holes":
        return torch.full((x.shape[0], 2 * x.shape[1]), float("nan"), dtype=x.dtype)[:, ::2].copy_(x)
    return x.contiguous()


def make_batch(names=tuple(WEIGHTS), dtype: torch.dtype = torch.float64) -> Batch:
    weights, us, vs, dims = [], [], [], []
    for seed, name in enumerate(names):
        shape, dim, layout = WEIGHTS[name]
        generator = torch.Generator().manual_seed(seed)
        w = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        weights.append(arrange(w, layout).detach().requires_grad_())
        dims.append(dim)
        for vectors, size in ((us, w.shape[dim]), (vs, w.numel() // w.shape[dim])):
            # Not at random: σ = uᵀWv of the stored vectors would be next to nothing, and its derivatives enormous.
            matrix = w.movedim(dim, 0).flatten(1).double()
            u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
            best = u[:, 0] if vectors is us else vh[0]
            noise = torch.randn(size, generator=generator, dtype=torch.float64)
            vectors.append(F.normalize(best + 0.3 * F.normalize(noise, dim=0), dim=0).to(dtype))
    return Batch(weights, us, vs, dims)


def rows_of(weight: Tensor, dim: int) -> Tensor:
    """The weight as a matrix."""
    return weight.movedim(dim, 0).flatten(1)


def derivatives(outputs: list[Tensor], sigmas: list[Tensor], weights: list[Tensor], orders: int) -> list[list[Tensor]]:
    """Gradients of the weights up to an order, each of a nonlinear function of those before, σ included."""
    total = sum((o * o.detach().cos()).sum() + o.pow(3).sum() + s.sin() for o, s in zip(outputs, sigmas))
    found = []
    for order in range(orders):
        gradients = torch.autograd.grad(total, weights, create_graph=order + 1 < orders)
        found.append([g.detach() for g in gradients])
        total = sum(g.sin().sum() for g in gradients)
    return found
