"""Convolutions after nearest-neighbour upsampling and before 2×2 averaging, at the low resolution."""

from ganfuse.kernels.resampled_conv2d.fold import fold_downsample_weight, fold_upsample_weight
from ganfuse.kernels.resampled_conv2d.op import conv2d_downsample, upsample_conv2d

__all__ = ["conv2d_downsample", "fold_downsample_weight", "fold_upsample_weight", "upsample_conv2d"]
