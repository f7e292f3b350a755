"""Minibatch discrimination (Salimans et al. 2016, "Improved Techniques for Training GANs", arXiv 1606.03498)."""

from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.layers.joined_batch import join_batch, own_rows
from ganfuse.engine.layers.process_group import InProcessGroup
from ganfuse.engine.precision import at_least_float32

__all__ = ["MinibatchDiscrimination", "pairwise_l1"]

# Largest number of coordinate differences that are held at a time.
_CHUNK = 2**22


class MinibatchDiscrimination(InProcessGroup, nn.Module):
    """Appends how close each sample is to the others of its batch, so that a discriminator sees a lack of variety.

    Section 3.2: with M_i = f(x_i) T, a matrix (num_kernels, kernel_dim) for each sample, the appended features are
    o(x_i)_b = Σ_j exp(−‖M_ib − M_jb‖₁), over the others, j ≠ i, as in its authors' code. Memory grows with B², not with
    B² · kernel_dim. Real and generated samples go through it in batches of their own.

    Each micro-batch compares the samples that it has.

    Args:
        in_features: length of f(x).
        num_kernels: features to append.
        kernel_dim: coordinates that each compares.

    Attributes:
        process_group: the processes that hold parts of one batch in training; None: this one alone. The trainer sets
            it. In evaluation mode a batch is of one process.

    Raises:
        ValueError: for arguments out of range, and inputs that are not (B, in_features).
    """

    def __init__(self, in_features: int, num_kernels: int = 100, kernel_dim: int = 5) -> None:
        super().__init__()
        for key, value in (("in_features", in_features), ("num_kernels", num_kernels), ("kernel_dim", kernel_dim)):
            if value < 1:
                raise ValueError(f"{key} must be at least 1, got {value!r}")
        self.in_features = in_features
        self.num_kernels = num_kernels
        self.kernel_dim = kernel_dim
        self.out_features = in_features + num_kernels
        self.process_group = None
        self.weight = nn.Parameter(torch.empty(in_features, num_kernels * kernel_dim))
        nn.init.normal_(self.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_features) → (B, in_features + num_kernels)."""
        if x.dim() != 2 or x.shape[1] != self.in_features:
            raise ValueError(f"x: expected (B, {self.in_features}), got {tuple(x.shape)}")
        group = self.process_group if self.training else None
        projected = join_batch(at_least_float32(x @ self.weight), group)
        kernels = projected.view(-1, self.num_kernels, self.kernel_dim).transpose(0, 1)
        closeness = torch.exp(-pairwise_l1(kernels))
        # Each sample's distance to itself is 0.
        appended = own_rows((closeness.sum(2) - 1.0).t(), group)
        return torch.cat([x, appended.to(x.dtype)], dim=1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, num_kernels={self.num_kernels}, kernel_dim={self.kernel_dim}"


def pairwise_l1(points: Tensor) -> Tensor:
    """‖p_i − p_j‖₁ for all pairs: (K, N, C) → (K, N, N), without holding the (K, N, N, C) differences.

    Differentiable any number of times; the distance's own second derivative is 0 almost everywhere.
    """
    distances: Tensor = _PairwiseL1.apply(points)  # type: ignore[no-untyped-call]
    return distances


# With S_ijc = sign(p_ic − p_jc): the distance's gradient, and the derivative of that gradient, are the two linear maps
# below, each the other's adjoint. So every order of derivatives is made of them.


class _PairwiseL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, points: Tensor) -> Tensor:
        ctx.save_for_backward(points)
        parts = [(points[:, rows, None] - points[:, None]).abs().sum(3) for rows in _chunks(points)]
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (points,) = ctx.saved_tensors
        return _ToPoints.apply(points, gradients[0])  # type: ignore[no-untyped-call]


class _ToPoints(torch.autograd.Function):
    """g (K, N, N) → Σ_j (g_ij + g_ji) S_ijc, (K, N, C)."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, pairs: Tensor) -> Tensor:
        ctx.save_for_backward(points)
        both = pairs + pairs.transpose(1, 2)
        parts = [
            torch.einsum("kij,kijc->kic", both[:, rows], _signs(points, rows).to(both.dtype))
            for rows in _chunks(points)
        ]
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (points,) = ctx.saved_tensors
        return None, _ToPairs.apply(points, gradients[0])  # type: ignore[no-untyped-call]


class _ToPairs(torch.autograd.Function):
    """h (K, N, C) → Σ_c S_ijc (h_ic − h_jc), (K, N, N)."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, moved: Tensor) -> Tensor:
        ctx.save_for_backward(points)
        parts = [
            (_signs(points, rows).to(moved.dtype) * (moved[:, rows, None] - moved[:, None])).sum(3)
            for rows in _chunks(points)
        ]
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (points,) = ctx.saved_tensors
        return None, _ToPoints.apply(points, gradients[0])  # type: ignore[no-untyped-call]


def _signs(points: Tensor, rows: slice) -> Tensor:
    return torch.sign(points[:, rows, None] - points[:, None])


def _chunks(points: Tensor) -> list[slice]:
    """Rows i such that their differences to all j stay within the limit; at least one chunk, for an empty batch too."""
    kernels, count, size = points.shape
    rows = max(1, _CHUNK // max(1, kernels * count * size))
    return [slice(start, start + rows) for start in range(0, max(count, 1), rows)]
