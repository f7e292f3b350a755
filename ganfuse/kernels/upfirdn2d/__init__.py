"""Upsampling, FIR filtering and downsampling of feature maps in one operation, differentiable any number of times."""

from ganfuse.kernels.upfirdn2d.filters import setup_filter
from ganfuse.kernels.upfirdn2d.op import upfirdn2d
from ganfuse.kernels.upfirdn2d.resampling import downsample2d, filter2d, upsample2d

__all__ = ["downsample2d", "filter2d", "setup_filter", "upfirdn2d", "upsample2d"]
