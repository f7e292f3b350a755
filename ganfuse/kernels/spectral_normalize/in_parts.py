"""W / σ and its gradient on CPUs, some rows at a time.

A large weight and its gradient do not stay in a cache between passes, and half types pass through copies in float32,
which would be new memory each time. So all that is done to a part is done while it is in the cache.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ganfuse.kernels.spectral_normalize.layout import as_matrix, to_matrix_order
from ganfuse.kernels.weight_gradients import functorch_is_active

# Numbers of a weight in a part: with their gradient and what comes of both, about a MiB.
_PART = 2**17


def takes_gradient(weight: Tensor, dim: int) -> bool:
    """Whether `gradient` does: on CPUs, of large weights whose rows lie one after the other, once.

    Once, because what it computes is not differentiable again. Of small weights the calls cost more than the traffic.
    """
    if weight.device.type != "cpu" or weight.numel() < _PART or dim != 0:
        return False
    return as_matrix(weight, 0)[0].is_contiguous() and not (torch.is_grad_enabled() or functorch_is_active())


def divided(weight: Tensor, sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """W / σ, rounded to `dtype` once, in the weight's memory format."""
    if dtype == weight.dtype:
        return weight / sigma
    if weight.device.type != "cpu" or weight.numel() < _PART or functorch_is_active():
        return (weight / sigma).to(dtype)
    result = torch.empty_like(weight, dtype=dtype)
    for part in _parts(weight):
        result[part].copy_(weight[part] / sigma)
    return result


def gradient(grad: Tensor, weight: Tensor, u: Tensor, v: Tensor, sigma: Tensor) -> Tensor:
    """(G − ⟨G, W⟩ / σ · u vᵀ) / σ, in the weight's type and memory format.

    Args:
        grad: G, of any floating type.
        weight: with rows along its first dimension, one that `takes_gradient` says yes to.
        u, v, sigma: as they are stored.
    """
    if grad.stride() != weight.stride():
        grad = torch.empty_like(weight, dtype=grad.dtype).copy_(grad)
    result = torch.empty_like(weight)
    (given, channels), (matrix, _), (written, _) = (as_matrix(x, 0) for x in (grad, weight, result))
    v = to_matrix_order(v, channels)
    parts = list(_parts(matrix))
    inner = sum(torch.dot(given[part].to(weight.dtype).view(-1), matrix[part].view(-1)).item() for part in parts)
    reciprocal = 1.0 / sigma.item()
    for part in parts:
        written[part].copy_(given[part]).addr_(u[part], v, beta=reciprocal, alpha=-inner * reciprocal**2)
    return result


def _parts(x: Tensor) -> Iterator[slice]:
    size = max(1, _PART // max(1, x[0].numel()))
    return (slice(start, start + size) for start in range(0, x.shape[0], size))
