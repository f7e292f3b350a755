"""The self-attention of SAGAN as codebases write it: four 1×1 convolutions and a factor from 0."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.kernels import feature_attention

__all__ = ["AttentionCandidate", "attention_candidate"]

# Query, key, value, output, factor.
_NAMES = (
    ("theta", "phi", "g", "o", "gamma"),
    ("conv1x1_theta", "conv1x1_phi", "conv1x1_g", "conv1x1_attn", "sigma"),
    ("snconv1x1_theta", "snconv1x1_phi", "snconv1x1_g", "snconv1x1_attn", "sigma"),
    ("snconv1x1_theta", "snconv1x1_phi", "snconv1x1_g", "snconv1x1_o_conv", "gamma"),
    ("query_conv", "key_conv", "value_conv", None, "gamma"),
)


class AttentionCandidate(NamedTuple):
    """Forwards that a module may have, with the arguments to try them with."""

    forwards: Sequence[Callable[..., Tensor]]
    inputs: Callable[[], Sequence[Any]]


def attention_candidate(module: nn.Module) -> AttentionCandidate | None:
    """What a module with the children and the factor of a self-attention may compute; None for others."""
    for *layers, factor in _NAMES:
        convs = [module._modules.get(name) for name in layers if name is not None]
        scale = module._parameters.get(factor or "")
        if scale is None or scale.numel() != 1 or not all(isinstance(conv, nn.Conv2d) for conv in convs):
            continue
        forwards = [_forward((*layers, factor), pooled) for pooled in (True, False)]
        return AttentionCandidate(forwards, partial(_map, convs[0].in_channels))  # type: ignore[union-attr,arg-type]
    return None


def _map(channels: int) -> tuple[Tensor]:
    return (torch.randn(2, channels, 6, 4, dtype=torch.float64),)


def _forward(names: tuple[str | None, ...], pooled: bool) -> Callable[..., Tensor]:
    query, key, value, output, factor = names

    def forward(self: Any, x: Tensor, *rest: Any) -> Tensor:
        if x.dim() != 4 or (pooled and (x.shape[2] % 2 or x.shape[3] % 2)):
            result: Tensor = self._ganfuse_original.forward(self, x, *rest)
            return result
        q, k, v = (getattr(self, str(name))(x) for name in (query, key, value))
        if pooled:
            k, v = F.max_pool2d(k, 2), F.max_pool2d(v, 2)
        attended = feature_attention(q, k, v)
        if output is not None:
            attended = getattr(self, output)(attended)
        scale = getattr(self, str(factor))
        if x.dtype == attended.dtype == scale.dtype:
            return torch.addcmul(x, scale, attended)
        scaled: Tensor = scale * attended + x
        return scaled

    return forward
