"""Shape, type and layout of the result."""

import torch
from torch import Tensor

from ganfuse.kernels import layout
from ganfuse.kernels.upfirdn2d.geometry import Sampling


def empty_output(sampling: Sampling, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The result, uninitialised, in x's type or `dtype`."""
    shape = (x.shape[0], x.shape[1], sampling.out_y, sampling.out_x)
    return layout.empty(shape, sampling.channels_last, dtype or x.dtype, x.device)
