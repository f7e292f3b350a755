"""Other codebases' spectral normalisation, in the form of ganfuse's: ``weight_orig``, ``weight_u``, ``weight_v``."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

__all__ = ["power_step", "settle"]


def power_step(weight: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the power method from u on the weight with its first dimension as rows: the new u and v.

    With these, uᵀWv is the σ that a code which steps in evaluation, too, divides by.
    """
    matrix = weight.flatten(1)
    v = F.normalize(u.flatten() @ matrix, dim=0)
    return F.normalize(matrix @ v, dim=0), v


def settle(tensors: Mapping[str, Tensor], *, weight: str, u: str) -> dict[str, Tensor]:
    """Replaces every weight that has a u beside it, ``<layer>.<weight>`` and ``<layer>.<u>``, by ganfuse's three."""
    result = dict(tensors)
    for key in tensors:
        layer, _, name = key.rpartition(".")
        if name != u:
            continue
        prefix = f"{layer}." if layer else ""
        if prefix + weight not in result:
            raise ValueError(f"checkpoint: {key} has no {prefix}{weight} beside it")
        original = result.pop(prefix + weight)
        vector = result.pop(key)
        if original.dim() < 2 or vector.numel() != original.shape[0]:
            raise ValueError(
                f"checkpoint: {key} of shape {tuple(vector.shape)} does not fit its weight {tuple(original.shape)}"
            )
        result[f"{prefix}weight_orig"] = original
        result[f"{prefix}weight_u"], result[f"{prefix}weight_v"] = power_step(original, vector)
    return result
