"""The fast form on CPUs: layer by layer, with the backward in closed form. Batching layers does not pay there."""

from typing import Any

import torch
from torch import Tensor

from ganfuse.kernels.autograd import PositionalFunction
from ganfuse.kernels.spectral_normalize import in_parts, reference
from ganfuse.kernels.spectral_normalize.layout import as_matrix, is_channels_last, to_matrix_order, to_stored_order
from ganfuse.kernels.weight_gradients import weight_gradients_disabled


def power_iterations(
    weight: Tensor, u: Tensor, v: Tensor | None, dim: int, n_power_iterations: int, eps: float, first: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.power_iterations`, and the σ that comes with them; the weight is read where it lies."""
    matrix, channels = as_matrix(weight, dim)
    transposed = matrix.t()
    left, right = u, u.new_zeros(matrix.shape[1]) if v is None else to_matrix_order(v, channels)
    start = right
    for _ in range(n_power_iterations):
        if first == "v":
            right = torch.mv(transposed, left)
            right = right.div_(torch.linalg.vector_norm(right).clamp_min(eps))
            product = torch.mv(matrix, right)
            norm = torch.linalg.vector_norm(product)
            left = product / norm.clamp_min(eps)
        else:
            left = torch.mv(matrix, right)
            left = left.div_(torch.linalg.vector_norm(left).clamp_min(eps))
            product = torch.mv(transposed, left)
            norm = torch.linalg.vector_norm(product)
            right = product / norm.clamp_min(eps)
    found = norm > 0
    left, right = torch.where(found, left, u), torch.where(found, right, start)
    return left, to_stored_order(right, channels), norm.clamp_min(eps)


def stored_sigma(weight: Tensor, u: Tensor, v: Tensor, dim: int, eps: float) -> Tensor:
    """σ = uᵀWv for the vectors as they are; eps for a weight of zeros."""
    matrix, channels = as_matrix(weight, dim)
    sigma = torch.dot(u, torch.mv(matrix, to_matrix_order(v, channels)))
    return torch.where(sigma == 0, eps, sigma)


def normalise(
    weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, dim: int, dtype: torch.dtype | None
) -> tuple[Tensor, Tensor]:
    """(W / σ, σ), differentiable to any order, for σ = uᵀWv computed already and u, v constant."""
    normalised: Tensor
    normalised, sigma = _Normalise.apply(weight, u, v, sigma, dim, dtype or weight.dtype)
    return normalised, sigma


class _Normalise(PositionalFunction):
    """(W, u, v, σ) → (W / σ in some type, σ), where σ = uᵀWv is a function of W and u, v are constants.

    σ is an output so that a second derivative finds its dependence on W: where there may be one, the backward is plain
    PyTorch on W and σ, hence differentiable to any order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor, dim: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        return in_parts.divided(weight, sigma, dtype), sigma.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        weight, u, v, _, ctx.dim, _ = inputs
        ctx.save_for_backward(weight, u, v, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, None, None, None, None, None]:
        if weight_gradients_disabled():
            return None, None, None, None, None, None
        grad_normalised, grad_sigma = grads
        weight, u, v, sigma = ctx.saved_tensors
        shape = weight.shape
        left = u.view(*[1] * ctx.dim, -1, *[1] * (len(shape) - ctx.dim - 1))
        right = v.view(*shape[: ctx.dim], 1, *shape[ctx.dim + 1 :])
        grad = None
        if grad_normalised is not None and in_parts.takes_gradient(weight, ctx.dim):
            grad = in_parts.gradient(grad_normalised, weight, u, v, sigma)
        elif grad_normalised is not None:
            grad_normalised = grad_normalised.to(weight.dtype)
            inner = _inner_product(grad_normalised, weight) / sigma
            grad = torch.addcmul(grad_normalised, left * -inner, right)
            grad = grad / sigma if torch.is_grad_enabled() else grad.div_(sigma)
        if grad_sigma is not None:
            through_sigma = grad_sigma * left * right
            grad = through_sigma if grad is None else grad + through_sigma
        return grad, None, None, None, None, None


def _inner_product(a: Tensor, b: Tensor) -> Tensor:
    if is_channels_last(b):
        a, b = a.movedim(1, -1), b.movedim(1, -1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


def normalise_one(
    weight: Tensor,
    u: Tensor,
    v: Tensor | None,
    dim: int,
    dtype: torch.dtype | None,
    n_power_iterations: int,
    eps: float,
    first: str,
    *,
    closed_form: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Normalised weight, σ, and the u and v that they were made with, which are nobody else's.

    Args:
        n_power_iterations: 0 takes u and v as they are.
        closed_form: False takes the definition: for ``backend="reference"``, exports, and compilers (they fuse its
            operations) where no gradient is asked for; see `compiled` for where one is.
    """
    if weight.numel() == 0:
        v = u.new_zeros(0) if v is None else v.clone()
        return weight.to(dtype or weight.dtype, copy=True), u.new_zeros(()), u.clone(), v
    with torch.no_grad():
        constant = weight.detach()
        if n_power_iterations and closed_form:
            u, v, sigma = power_iterations(constant, u, v, dim, n_power_iterations, eps, first)
        elif n_power_iterations:
            u, v = reference.power_iterations(constant, u, v, dim, n_power_iterations, eps, first)
        else:
            assert v is not None
            # Copies, because the next training forward writes the buffers that this graph would hold.
            u, v = u.clone(), v.clone()
            sigma = stored_sigma(constant, u, v, dim, eps)
    if closed_form:
        return *normalise(weight, u, v, sigma, dim, dtype), u, v
    return *reference.normalise(weight, u, v, dim, eps, dtype), u, v
