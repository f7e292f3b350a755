"""Convolution whose input channels are scaled per sample, demodulated: StyleGAN2's layer, in one call."""

from ganfuse.kernels.modulated_conv2d.op import modulated_conv2d

__all__ = ["modulated_conv2d"]
