"""Shapes at which the implicit product of matrices is compiled, inspected and measured: StyleGAN2 at 256²."""

import math
from typing import NamedTuple

import torch

from ganfuse.kernels.modulated_conv2d import triton
from ganfuse.kernels.scaled_bias_act.allocation import Attributes
from ganfuse.kernels.upfirdn2d.geometry import Padding


class Case(NamedTuple):
    """A layer without resampling on square maps."""

    inputs: int
    outputs: int
    side: int
    dtype: torch.dtype = torch.bfloat16
    batch: int = 8
    kernel: int = 3


CASES: dict[str, Case] = {
    "stylegan2-256 b4.conv1": Case(512, 512, 4),
    "stylegan2-256 b16.conv1": Case(512, 512, 16),
    "stylegan2-256 b64.conv1": Case(256, 256, 64),
    "stylegan2-256 b128.conv1 fp16": Case(128, 128, 128, torch.float16),
    "stylegan2-256 b256.conv1": Case(64, 64, 256),
    "24 to 40, 33²": Case(24, 40, 33),
}


def alignment(case: Case) -> int:
    """Bits to which every row of every tensor of the case is aligned, up to 128."""
    return math.gcd(128, case.inputs * case.dtype.itemsize * 8, case.outputs * case.dtype.itemsize * 8)


def run(case: Case) -> None:
    """The forward on meta tensors; call it while launches are recorded."""
    x = torch.empty(
        (case.batch, case.inputs, case.side, case.side), dtype=case.dtype, device="meta",
        memory_format=torch.channels_last,
    )  # fmt: skip
    k = case.kernel
    weight = torch.empty(case.outputs, case.inputs, k, k, device="meta")
    styles = torch.empty(case.batch, case.inputs, device="meta")
    factors = torch.empty(case.batch, case.outputs, device="meta")
    noise = torch.empty(case.batch, 1, case.side, case.side, device="meta")
    b = torch.empty(case.outputs, device="meta")
    attributes = Attributes("lrelu", 0.2, math.sqrt(2), 256.0, "triton")
    triton.forward(attributes, Padding(*[k // 2] * 4), x, weight, styles, factors, noise, b)
