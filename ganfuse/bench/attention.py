"""Attention as a subject, beside PyTorch's fused attention, whose backends are asked for one by one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ganfuse.bench.subject import Draw, Op, Sizes, Subject, passes_of, with_backends
from ganfuse.kernels import feature_attention
from ganfuse.kernels.feature_attention import cost

SIZES: dict[str, int] = {"batch": 64, "d": 32, "e": 128, "side": 32, "key_side": 32}

_BACKENDS = {
    "SDPA flash": SDPBackend.FLASH_ATTENTION,
    "SDPA efficient": SDPBackend.EFFICIENT_ATTENTION,
    "SDPA cudnn": SDPBackend.CUDNN_ATTENTION,
    "SDPA math": SDPBackend.MATH,
}
# The choice of PyTorch is one of these there; the others do not exist.
_ON_CPU = ("SDPA flash", "SDPA math")


def attention(sizes: Sizes, draw: Draw) -> Subject:
    """d channels of query and key, e of value, on square grids; logits of unit variance, as in a new network."""
    batch, d, e, side, key_side = (sizes[name] for name in SIZES)
    std = d**-0.25
    inputs = [
        draw.map(batch, d, side, side, std=std),
        draw.map(batch, d, key_side, key_side, std=std),
        draw.map(batch, e, key_side, key_side),
    ]
    arguments = (batch, side**2, key_side**2, d, e, draw.dtype.itemsize)
    costs = passes_of(cost.forward(*arguments), cost.backward(*arguments), cost.double_backward(*arguments))
    forced = {name: _BACKENDS[name] for name in (_BACKENDS if draw.device.type == "cuda" else _ON_CPU)}
    implementations = with_backends(
        lambda q, k, v, backend: feature_attention(q, k, v, backend=backend),
        draw.device,
        **{"SDPA": _sdpa(None), **{name: _sdpa(backend) for name, backend in forced.items()}},
    )
    return Subject(inputs, implementations, costs, penalised=3, independent=True)


def _sdpa(backend: SDPBackend | None) -> Op:
    def run(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        grid, channels = query.shape[2:], value.shape[1]
        width = -(-max(query.shape[1], channels) // 8) * 8
        # Zeros behind the channels change nothing; fused backends want one width for all three, and channels last.
        q, k, v = (F.pad(_tokens(x), (0, width - x.shape[1])).contiguous() for x in (query, key, value))
        if backend is None:
            y = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        else:
            with sdpa_kernel(backend):
                y = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return y[:, 0, :, :channels].transpose(1, 2).reshape(len(y), channels, *grid)

    return run


def _tokens(x: Tensor) -> Tensor:
    """(B, C, H, W) as one head of (B, 1, H·W, C)."""
    return x.flatten(2).transpose(1, 2).unsqueeze(1)


def curve_sizes(device: torch.device) -> Sequence[Sizes]:
    """Where memory is measured against the number of positions: N = M from 256 on."""
    sides = (16, 32, 64, 96, 128) if device.type == "cuda" else (16, 24, 32, 48, 64)
    return [{"batch": 1, "d": 16, "e": 64, "side": side, "key_side": side} for side in sides]
