"""What demodulation divides by, and how half precision is kept from overflowing."""

import math

import torch
from torch import Tensor

from ganfuse.kernels.precision import without_autocast

# Added to the square norm of a sample's weights (Karras et al. 2020, eq. 3).
EPS = 1e-8


def demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    """(B, O) factors ``1 / sqrt(Σ_i styles[b, i]² · Σ_k weight[o, i, k]² + 1e-8)``, in float32 at least.

    The norm of each sample's own weights (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN",
    eq. 3) without making these: one product of a (B, I) and an (I, O) matrix. Differentiable to any order.
    """
    return without_autocast(_demodulation, weight, styles)  # type: ignore[no-any-return]


def _demodulation(weight: Tensor, styles: Tensor) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(weight.dtype, styles.dtype), torch.float32)
    norms = weight.to(dtype).square().sum((2, 3))
    return torch.rsqrt(torch.matmul(styles.to(dtype).square(), norms.t()) + EPS)


def prenormalize(weight: Tensor, styles: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and styles that keep a float16 convolution, before its demodulation, within the type's range.

    As in StyleGAN2-ADA: each output channel's weights are divided by √(I·k·k) times their largest, each sample's styles
    by theirs. Demodulation divides by the same again (but for its epsilon), so that the result depends on neither
    factor, and both count as constants.
    """
    with torch.no_grad():
        tiny = torch.finfo(torch.float32).tiny
        fan_in = math.sqrt(weight[0].numel())
        by_output = 1 / (weight.float().abs().amax((1, 2, 3), keepdim=True) * fan_in).clamp(min=tiny)
        by_sample = 1 / styles.float().abs().amax(1, keepdim=True).clamp(min=tiny)
    return weight.float() * by_output, styles.float() * by_sample
