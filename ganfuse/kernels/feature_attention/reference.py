"""The definition, in plain PyTorch; differentiable to any order."""

import torch
from torch import Tensor


def feature_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """softmax over keys of scale · qᵀk, applied to v (Zhang et al. 2018, SAGAN, eq. 1 and 2, per sample)."""
    # Scaled first: products of half types may overflow before a scale below 1 could bring them back.
    logits = torch.einsum("bcn,bcm->bnm", scale * query.flatten(2), key.flatten(2))
    weights = torch.softmax(logits, dim=-1)
    output = torch.einsum("bnm,bcm->bcn", weights, value.flatten(2))
    return output.reshape(*value.shape[:2], *query.shape[2:])


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, is_causal: bool = False
) -> Tensor:
    """softmax(scale · Q Kᵀ) V (Vaswani et al. 2017, eq. 1); causal: key j ≤ query i, counted from the top left."""
    logits = (scale * query) @ key.transpose(-2, -1)
    if is_causal:
        later = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).triu(1)
        logits = logits.masked_fill(later, float("-inf"))
    return torch.softmax(logits, dim=-1) @ value
