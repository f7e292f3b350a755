"""Shapes at which the kernels are compiled, inspected and measured."""

import math
from typing import NamedTuple

import torch

from ganfuse.kernels.pixel_norm import triton
from ganfuse.kernels.pixel_norm.allocation import Attributes

TENSOR_CORES = False


class Case(NamedTuple):
    """One call, on square maps; side 0 stands for vectors (B, C)."""

    channels: int
    side: int
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = True
    batch: int = 16


def _both_layouts(name: str, case: Case) -> dict[str, Case]:
    return {f"{name} nhwc": case, f"{name} nchw": case._replace(channels_last=False)}


CASES: dict[str, Case] = {
    # ProGAN's widths (512 channels up to 32², halved from there), its latents, and a width that 16 does not divide.
    **_both_layouts("progan 32² (512)", Case(512, 32)),
    **_both_layouts("progan 128² (128)", Case(128, 128)),
    **_both_layouts("progan 512² (32)", Case(32, 512, batch=4)),
    **_both_layouts("progan 64² (256) float32", Case(256, 64, torch.float32)),
    **_both_layouts("24 channels", Case(24, 64)),
    "latents (512)": Case(512, 0, torch.float32, channels_last=False),
}


def alignment(case: Case) -> int:
    """Bits to which every row of every tensor of the case is aligned, up to 128."""
    row = case.channels if case.channels_last or case.side == 0 else case.side**2
    return math.gcd(128, row * case.dtype.itemsize * 8)


def run(case: Case) -> None:
    """Forward, backward and double backward on meta tensors; call it while launches are recorded."""
    attributes = Attributes(1e-8, "triton")
    shape = (case.batch, case.channels, *([case.side] * 2 if case.side else []))
    format = torch.channels_last if case.channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=case.dtype, device="meta", memory_format=format)
    output, *state = triton.forward(attributes, (x,))
    _, notes = triton.backward(attributes, (True,), output, (x,), output, tuple(state))
    triton.double_backward(attributes, (True, True), (x,), output, (x,), output, tuple(state), notes)
