"""Normalisation over channels, samples or batches, with per-channel or per-sample gain and bias, and an activation."""

from ganfuse.kernels.channel_norm.batch_norm import batch_norm_act
from ganfuse.kernels.channel_norm.prologue import Prologue
from ganfuse.kernels.channel_norm.sample_norms import group_norm_act, instance_norm_act, layer_instance_norm_act

__all__ = ["Prologue", "batch_norm_act", "group_norm_act", "instance_norm_act", "layer_instance_norm_act"]
