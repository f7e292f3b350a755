"""The launcher of the implicit product of matrices: its tiles, and what it needs packed."""

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.channel_norm.configs import power_of_two
from ganfuse.kernels.launch import launch, target_of
from ganfuse.kernels.layout import alignment_unit, empty, is_channels_last
from ganfuse.kernels.modulated_conv2d.triton_implicit_gemm import modulated_gemm
from ganfuse.kernels.precision import dot_precision
from ganfuse.kernels.scaled_bias_act.allocation import Attributes
from ganfuse.kernels.upfirdn2d.geometry import Padding


class Config(NamedTuple):
    """Positions, outputs and inputs of a tile."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int


# Not measured yet: large enough for the matrix instructions of each, and without spills (`ganfuse inspect`).
_CONFIGS = {
    "sm80": Config(128, 64, 32, 4, 3),
    "sm89": Config(128, 64, 32, 4, 3),
    "sm90": Config(128, 128, 64, 8, 3),
    "sm100": Config(128, 128, 64, 8, 3),
    "sm120": Config(128, 64, 32, 4, 3),
    "gfx942": Config(128, 64, 32, 4, 2),
    "interpreter": Config(32, 16, 16, 4, 1),
}


@functools.lru_cache(maxsize=1024)
def _config(target: str, dtype: torch.dtype, positions: int, outputs: int, inputs: int) -> Config:
    block_m, block_n, block_k, warps, stages = _CONFIGS.get(target, _CONFIGS["sm80"])
    if positions % block_m:
        # Styles of each row are a tile more to hold; and small maps have few programs as it is.
        block_m, block_n, warps = min(block_m, 64), min(block_n, 64), 4
    if dtype == torch.float32:
        block_k, stages = max(16, block_k // 2), min(stages, 2)
    narrow = max(16, power_of_two(outputs))
    if narrow < block_n:
        block_n, warps = narrow, max(4, warps * narrow // block_n)
    return Config(block_m, block_n, min(block_k, max(16, power_of_two(inputs))), warps, stages)


def forward(
    attributes: Attributes,
    padding: Padding,
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    factors: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
) -> Tensor:
    """The result, channels_last, of a call without resampling; `factors` demodulate, (B, O)."""
    batch, inputs, height, width = x.shape
    outputs, _, kh, kw = weight.shape
    out_height = height + padding.top + padding.bottom - kh + 1
    out_width = width + padding.left + padding.right - kw + 1
    y = empty((batch, outputs, out_height, out_width), True, x.dtype, x.device)
    if y.numel() == 0:
        return y
    if not (is_channels_last(x) and x.stride(1) == 1):
        x = x.contiguous(memory_format=torch.channels_last)
    # Strides of axes of length 1 mean nothing, and are not multiples of anything.
    strides = [
        x.stride(0) if batch > 1 else 0,
        x.stride(2) if height > 1 else 0,
        x.stride(3) if width > 1 else 0,
        outputs * out_height * out_width,
        outputs,
    ]
    unit = alignment_unit(inputs, outputs, *(s for s in strides if s))
    target = target_of(x.device)
    positions = out_height * out_width
    config = _config(target, x.dtype, positions, outputs, inputs)
    constants: dict[str, Any] = {
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "UNIT": unit,
        "TAPS": kh * kw,
        "TAPS_X": kw,
        "EVEN_K": inputs % config.block_k == 0,
        "EVEN_N": outputs % config.block_n == 0,
        "MIXED": positions % config.block_m != 0,
        "DEMODULATE": factors is not None,
        "NOISE": noise is not None,
        "BIAS": b is not None,
        "ACT": attributes.act,
        "CLAMP": attributes.clamp >= 0,
        "PRECISION": dot_precision(x.dtype),
    }
    packed = weight.to(x.dtype).permute(2, 3, 0, 1).contiguous()
    small = [x if t is None else t.float().contiguous() for t in (styles, factors, noise, b)]
    numbers = [s // unit for s in strides]
    numbers += [positions if noise is not None and noise.shape[0] > 1 else 0]
    numbers += [batch, height, width, out_height, out_width]
    numbers += [inputs // unit, outputs // unit, padding.top, padding.left]
    programs = -(-batch * positions // config.block_m) * -(-outputs // config.block_n)
    launch(
        modulated_gemm, (programs,), x.device,
        [x, packed, *small, y, *numbers, attributes.alpha, attributes.gain, attributes.clamp], constants,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return y
