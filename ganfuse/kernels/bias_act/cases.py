"""Shapes at which the kernels are compiled, inspected and measured."""

import math
from typing import NamedTuple

import torch

from ganfuse.kernels.bias_act import reference, triton
from ganfuse.kernels.bias_act.allocation import Attributes

TENSOR_CORES = False


class Case(NamedTuple):
    """One call, on square maps; side 0 stands for vectors (B, C)."""

    channels: int
    side: int
    act: str = "lrelu"
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = True
    batch: int = 32
    clamp: float = 256.0


def _both_layouts(name: str, case: Case) -> dict[str, Case]:
    return {f"{name} nhwc": case, f"{name} nchw": case._replace(channels_last=False)}


CASES: dict[str, Case] = {
    # StyleGAN2-ADA at 256² (fp16 at the higher resolutions, clamped there), its vectors, BigGAN-like widths.
    **_both_layouts("stylegan2-256 256² (64)", Case(64, 256, dtype=torch.float16)),
    **_both_layouts("stylegan2-256 64² (256)", Case(256, 64, dtype=torch.float16)),
    **_both_layouts("stylegan2-256 16² (512)", Case(512, 16, dtype=torch.float32, clamp=-1.0)),
    **_both_layouts("stylegan2-256 4² (512)", Case(512, 4, dtype=torch.float32, clamp=-1.0)),
    **_both_layouts("swish 64² (96)", Case(96, 64, "swish")),
    **_both_layouts("softplus 64² (24)", Case(24, 64, "softplus")),
    **_both_layouts("tanh 64² (128)", Case(128, 64, "tanh", clamp=-1.0)),
    "mapping (512)": Case(512, 0, dtype=torch.float32, channels_last=False, clamp=-1.0),
}


def alignment(case: Case) -> int:
    """Bits to which every row of every tensor of the case is aligned, up to 128."""
    row = case.channels if case.channels_last or case.side == 0 else case.side**2
    return math.gcd(128, row * case.dtype.itemsize * 8)


def run(case: Case) -> None:
    """Forward, backward and double backward on meta tensors; call it while launches are recorded."""
    spec = reference.ACTIVATIONS[case.act]
    attributes = Attributes(1, case.act, spec.alpha, spec.gain, case.clamp, "triton")
    shape = (case.batch, case.channels, *([case.side] * 2 if case.side else []))
    format = torch.channels_last if case.channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=case.dtype, device="meta", memory_format=format)
    # A parameter of a layer in mixed precision.
    b = torch.empty(case.channels, device="meta")
    output, *state = triton.forward(attributes, (x, b))
    triton.backward(attributes, (True, True), output, (x, b), output, tuple(state))
    cotangents = (torch.empty_like(x), torch.empty_like(b))
    triton.double_backward(attributes, (True,) * 3, cotangents, output, (x, b), output, tuple(state), ())
