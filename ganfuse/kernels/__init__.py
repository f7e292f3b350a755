"""Fused GAN operations on tensors. Knows nothing of layers, training or models."""

from ganfuse.kernels.backend import BackendUnavailableError, current_backend, use_backend
from ganfuse.kernels.cost import Cost
from ganfuse.kernels.feature_attention import feature_attention, scaled_dot_product_attention

__all__ = [
    "BackendUnavailableError",
    "Cost",
    "current_backend",
    "feature_attention",
    "scaled_dot_product_attention",
    "use_backend",
]
