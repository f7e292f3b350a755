"""The definition in plain PyTorch (Karras et al. 2018, "Progressive Growing of GANs", section 4.2)."""

from torch import Tensor


def pixel_norm(x: Tensor, eps: float) -> Tensor:
    """``x / sqrt(mean over dimension 1 of x² + eps)``."""
    return x * (x.square().mean(1, keepdim=True) + eps).rsqrt()
