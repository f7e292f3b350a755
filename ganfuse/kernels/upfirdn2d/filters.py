"""Filters as `upfirdn2d` takes them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# From so many taps on, two passes of one dimension are less work than one of two.
_SEPARABLE_TAPS = 8


def setup_filter(
    f: Tensor | Sequence[Any] | float | None,
    device: torch.device | str = "cpu",
    normalize: bool = True,
    flip_filter: bool = False,
    gain: float = 1,
    separable: bool | None = None,
) -> Tensor:
    """A float32 filter for `upfirdn2d`: signature and defaults of StyleGAN2-ADA's function of this name.

    Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data".

    Args:
        f: the taps: a scalar, (taps,), or (rows, columns); None: a single 1.
        device: of the result.
        normalize: divide by the sum of the taps, so that a constant image keeps its value.
        flip_filter: reverse the taps.
        gain: factor of the image's values: the result is multiplied by it, one that is applied along each of two axes
            by its root.
        separable: whether (taps,) stays so, to be applied along both axes, or becomes the product with itself,
            (taps, taps). None: stays so from 8 taps on.

    Returns:
        (rows, columns) or, separable, (taps,), on `device`; it never requires grad.

    Raises:
        ValueError: `f` has more than 2 dimensions or no taps, `normalize` finds a sum of 0, or `separable` is True for
            a filter of two dimensions.
    """
    op = "setup_filter"
    with torch.no_grad():
        try:
            taps = torch.as_tensor(1.0 if f is None else f, dtype=torch.float32).clone()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{op}: f must be numbers, got {f!r}") from error
        if taps.ndim > 2 or taps.numel() == 0:
            raise ValueError(
                f"{op}: f must be a scalar, (taps,) or (rows, columns), not empty, got {tuple(taps.shape)}"
            )
        taps = taps.reshape(1) if taps.ndim == 0 else taps
        if separable and taps.ndim == 2:
            raise ValueError(f"{op}: separable needs f of one dimension, got {tuple(taps.shape)}")
        if separable is None:
            separable = taps.ndim == 1 and taps.numel() >= _SEPARABLE_TAPS
        if taps.ndim == 1 and not separable:
            taps = torch.outer(taps, taps)
        if normalize:
            total = taps.sum()
            if total == 0:
                raise ValueError(f"{op}: f must not sum to 0 where normalize is True, got {f!r}")
            taps = taps / total
        if flip_filter:
            taps = taps.flip(tuple(range(taps.ndim)))
        if gain < 0 and taps.ndim == 1:
            raise ValueError(
                f"{op}: gain must be at least 0 for a separable filter, which takes its root, got {gain!r}"
            )
        taps = taps * math.pow(gain, taps.ndim / 2)
        return taps.to(device)
