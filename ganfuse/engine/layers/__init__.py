"""Layers: `torch.nn` modules over ganfuse's kernels, each with the arguments of the `torch.nn` layer it stands for."""

from ganfuse.engine.layers.batch_norm import BatchNormAct2d, ConditionalBatchNorm2d
from ganfuse.engine.layers.self_attention import SelfAttention2d
from ganfuse.engine.layers.spectral_norm import remove_spectral_norm, spectral_norm

__all__ = [
    "BatchNormAct2d",
    "ConditionalBatchNorm2d",
    "SelfAttention2d",
    "remove_spectral_norm",
    "spectral_norm",
]
