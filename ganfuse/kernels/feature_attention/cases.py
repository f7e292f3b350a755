"""Shapes at which the attention kernels are compiled and inspected."""

import math
from typing import NamedTuple

import torch

from ganfuse.kernels.feature_attention import triton
from ganfuse.kernels.feature_attention.allocation import Attributes


class Case(NamedTuple):
    """Sizes of one feature-map attention: d query/key channels, e value channels, square grids."""

    d: int
    e: int
    side: int
    key_side: int
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = True
    batch: int = 4
    tf32: bool = False


def _both_layouts(name: str, case: Case) -> dict[str, Case]:
    return {f"{name} nhwc": case, f"{name} nchw": case._replace(channels_last=False)}


CASES: dict[str, Case] = {
    # SAGAN and BigGAN at their attention sites; odd sizes; the ends of the range.
    **_both_layouts("sagan-128 32² (32,128)", Case(32, 128, 32, 16)),
    **_both_layouts("sagan-128 64² (16,64)", Case(16, 64, 64, 32)),
    **_both_layouts("biggan-128 G (24,96)", Case(24, 96, 64, 32)),
    **_both_layouts("biggan-128 D (12,48)", Case(12, 48, 64, 32)),
    **_both_layouts("biggan-256 G (48,192)", Case(48, 192, 64, 32)),
    **_both_layouts("(64,256)", Case(64, 256, 64, 64)),
    **_both_layouts("(64,64)", Case(64, 64, 64, 64)),
    **_both_layouts("(128,128)", Case(128, 128, 64, 64)),
    **_both_layouts("(256,512)", Case(256, 512, 64, 64)),
    **_both_layouts("(8,32)", Case(8, 32, 32, 16)),
    "fp16 (32,128) nhwc": Case(32, 128, 32, 16, torch.float16),
    "ragged 33² (32,128) nhwc": Case(32, 128, 33, 33),
    "tf32 (32,128) nhwc": Case(32, 128, 32, 16, torch.float32, tf32=True),
}


def alignment(case: Case) -> int:
    """Bits to which every row of every tensor of the case is aligned, up to 128."""
    rows = (case.d, case.e) if case.channels_last else (case.side**2, case.key_side**2)
    return math.gcd(128, *(row * case.dtype.itemsize * 8 for row in rows))


def run(case: Case) -> None:
    """Forward, backward and double backward on meta tensors; call it while launches are recorded."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if case.tf32 else "highest")
    try:
        _run(case)
    finally:
        torch.set_float32_matmul_precision(before)


def _run(case: Case) -> None:
    attributes = Attributes(1.0, False, "map", "triton")
    format = torch.channels_last if case.channels_last else torch.contiguous_format

    def tensor(channels: int, side: int) -> torch.Tensor:
        shape = (case.batch, channels, side, side)
        return torch.empty(shape, dtype=case.dtype, device="meta", memory_format=format)

    inputs = (tensor(case.d, case.side), tensor(case.d, case.key_side), tensor(case.e, case.key_side))
    output, *state = triton.forward(attributes, inputs)
    gradients, notes = triton.backward(attributes, (True,) * 3, output, inputs, output, tuple(state))
    cotangents = tuple(g for g in gradients if g is not None)
    triton.double_backward(attributes, (True,) * 4, cotangents, output, inputs, output, tuple(state), notes)
