"""Fused GAN operations on tensors. Knows nothing of layers, training or models."""

from ganfuse.kernels.backend import BackendUnavailableError, current_backend, use_backend
from ganfuse.kernels.bias_act import bias_act
from ganfuse.kernels.channel_norm import (
    Prologue,
    batch_norm_act,
    group_norm_act,
    instance_norm_act,
    layer_instance_norm_act,
)
from ganfuse.kernels.cost import Cost
from ganfuse.kernels.feature_attention import feature_attention, scaled_dot_product_attention
from ganfuse.kernels.minibatch_stddev import minibatch_stddev
from ganfuse.kernels.modulated_conv2d import modulated_conv2d
from ganfuse.kernels.pixel_norm import pixel_norm
from ganfuse.kernels.resampled_conv2d import (
    conv2d_downsample,
    fold_downsample_weight,
    fold_upsample_weight,
    upsample_conv2d,
)
from ganfuse.kernels.spectral_normalize import spectral_normalize
from ganfuse.kernels.upfirdn2d import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d
from ganfuse.kernels.weight_gradients import no_weight_gradients

__all__ = [
    "BackendUnavailableError",
    "Cost",
    "Prologue",
    "batch_norm_act",
    "bias_act",
    "conv2d_downsample",
    "current_backend",
    "downsample2d",
    "feature_attention",
    "filter2d",
    "fold_downsample_weight",
    "fold_upsample_weight",
    "group_norm_act",
    "instance_norm_act",
    "layer_instance_norm_act",
    "minibatch_stddev",
    "modulated_conv2d",
    "no_weight_gradients",
    "pixel_norm",
    "scaled_dot_product_attention",
    "setup_filter",
    "spectral_normalize",
    "upfirdn2d",
    "upsample2d",
    "upsample_conv2d",
    "use_backend",
]
