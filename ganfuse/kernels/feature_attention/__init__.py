"""Attention between the positions of feature maps, twice differentiable in O(N) memory."""

from ganfuse.kernels.feature_attention.op import feature_attention, scaled_dot_product_attention

__all__ = ["feature_attention", "scaled_dot_product_attention"]
