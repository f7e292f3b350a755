"""What the scores ask of the features that they are given."""

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["check_features", "check_positive", "row_chunks"]


def check_features(real: Tensor, fake: Tensor, *, least: int = 2) -> None:
    """Checks two sets of features.

    Args:
        real, fake: float (N, D) and (M, D).
        least: how many rows each must have.

    Raises:
        ValueError: names the set, what came and what was expected.
    """
    for name, features in (("real", real), ("fake", fake)):
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(f"{name}: expected float features (N, D), got {features.dtype} {tuple(features.shape)}")
        if len(features) < least:
            raise ValueError(f"{name}: expected features of at least {least} images, got {len(features)}")
        if not bool(torch.isfinite(features).all()):
            raise ValueError(f"{name}: the features hold NaN or infinite values")
    if real.shape[1] != fake.shape[1]:
        raise ValueError(f"fake: expected features of size {real.shape[1]} like the real ones, got {fake.shape[1]}")
    if real.device != fake.device:
        raise ValueError(f"fake: expected features on {real.device} like the real ones, got {fake.device}")


def check_positive(**numbers: int) -> None:
    """Raises ValueError naming the first argument that is not a positive whole number."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: expected a positive whole number, got {value!r}")


def row_chunks(features: Tensor, size: int) -> Iterator[Tensor]:
    """The rows in float64, some at a time, so that no copy of all of them is made."""
    for chunk in torch.split(features, size):
        yield chunk.double()
