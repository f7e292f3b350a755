"""Layers: `torch.nn` modules over ganfuse's kernels, each with the arguments of the `torch.nn` layer it stands for."""

from ganfuse.engine.layers.adaptive_norm import AdaIN2d, AdaLIN2d, ILN2d
from ganfuse.engine.layers.batch_norm import BatchNormAct2d, ConditionalBatchNorm2d
from ganfuse.engine.layers.equalized import EqualizedConv2d, EqualizedLinear
from ganfuse.engine.layers.fuse_spectral_norms import fuse_spectral_norms, unfuse_spectral_norms
from ganfuse.engine.layers.group_norm import GroupNormAct2d
from ganfuse.engine.layers.instance_norm import InstanceNormAct2d
from ganfuse.engine.layers.minibatch_discrimination import MinibatchDiscrimination
from ganfuse.engine.layers.minibatch_stddev import MinibatchStdDev
from ganfuse.engine.layers.modulated_conv2d import FromRGB, ModulatedConv2d, ToRGB
from ganfuse.engine.layers.pixel_norm import PixelNorm
from ganfuse.engine.layers.resampled_conv2d import Conv2dDownsample, UpsampleConv2d
from ganfuse.engine.layers.self_attention import SelfAttention2d
from ganfuse.engine.layers.spectral_norm import hold_spectral_norms, remove_spectral_norm, spectral_norm

__all__ = [
    "AdaIN2d",
    "AdaLIN2d",
    "BatchNormAct2d",
    "ConditionalBatchNorm2d",
    "Conv2dDownsample",
    "EqualizedConv2d",
    "EqualizedLinear",
    "FromRGB",
    "GroupNormAct2d",
    "ILN2d",
    "InstanceNormAct2d",
    "MinibatchDiscrimination",
    "MinibatchStdDev",
    "ModulatedConv2d",
    "PixelNorm",
    "SelfAttention2d",
    "ToRGB",
    "UpsampleConv2d",
    "fuse_spectral_norms",
    "hold_spectral_norms",
    "remove_spectral_norm",
    "spectral_norm",
    "unfuse_spectral_norms",
]
