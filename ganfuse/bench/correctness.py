"""The gate: what is not right gets no time.

Right means: against float64, at most a few times the error that plain PyTorch makes in the same type, of the same
tensor. Errors are relative in the Frobenius norm, ‖x − truth‖ / ‖truth‖.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

# Twice is the rule of the tests. Here it is about telling wrong from right, for peers that round elsewhere too.
FACTOR = 4.0


def relative_error(x: Tensor, truth: Tensor) -> float:
    """‖x − truth‖ / ‖truth‖ in float64; infinite where x has a NaN or an infinity."""
    if x.shape != truth.shape or not bool(torch.isfinite(x).all()):
        return float("inf")
    truth = truth.double()
    return float((x.double() - truth).norm() / truth.norm().clamp_min(1e-300))


def bound(plain_error: float, dtype: torch.dtype) -> float:
    """The largest error that passes: a multiple of plain PyTorch's, one rounding of the result, and long sums.

    Sums are in float32 (float64 for float64), in an order that is each implementation's own.
    """
    plain_error = plain_error if math.isfinite(plain_error) else 0.0
    sums = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    return FACTOR * plain_error + torch.finfo(dtype).eps / 4 + 16 * sums


def failures(
    results: Mapping[str, Tensor], truth: Mapping[str, Tensor], plain: Mapping[str, Tensor]
) -> tuple[dict[str, float], list[str]]:
    """(errors of all results, a sentence for each that is wrong)."""
    errors, wrong = {}, []
    for name, x in results.items():
        errors[name] = relative_error(x, truth[name])
        limit = bound(relative_error(plain[name], truth[name]), x.dtype)
        if not errors[name] <= limit:
            wrong.append(f"{name}: relative error {errors[name]:.2g}, allowed {limit:.2g}")
    return errors, wrong
