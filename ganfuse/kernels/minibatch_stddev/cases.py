"""Shapes at which the kernels are compiled, inspected and measured."""

from typing import NamedTuple

import torch

from ganfuse.kernels.minibatch_stddev import triton
from ganfuse.kernels.minibatch_stddev.allocation import Attributes

TENSOR_CORES = False
# It writes the appended channel, a few elements.
SMALL_KERNELS = ("stddev_fill",)


class Case(NamedTuple):
    """One call, on square maps."""

    channels: int
    side: int
    group: int
    num_channels: int = 1
    dtype: torch.dtype = torch.float32
    channels_last: bool = True
    batch: int = 32


CASES: dict[str, Case] = {
    # StyleGAN2-ADA and ProGAN have the layer at 4², in float32; StyleGAN2-ADA's CIFAR configuration in groups of 32.
    "stylegan2 4² (512) nhwc": Case(512, 4, 4),
    "stylegan2 4² (512) nchw": Case(512, 4, 4, channels_last=False),
    "bfloat16 nchw": Case(512, 4, 4, dtype=torch.bfloat16, channels_last=False),
    "groups of 32 nchw": Case(512, 4, 32, channels_last=False),
    "two features nhwc": Case(512, 4, 4, 2),
}


def alignment(case: Case) -> int:
    """Bits to which every row of every tensor of the case is aligned, up to 128."""
    # Appending a channel to a channels_last map leaves no two of its pixels equally aligned.
    return case.dtype.itemsize * 8 if case.channels_last else 128


def run(case: Case) -> None:
    """Forward, backward and double backward on meta tensors; call it while launches are recorded."""
    attributes = Attributes(case.group, case.num_channels, "triton")
    format = torch.channels_last if case.channels_last else torch.contiguous_format
    shape = (case.batch, case.channels, case.side, case.side)
    x = torch.empty(shape, dtype=case.dtype, device="meta", memory_format=format)
    output, *state = triton.forward(attributes, (x,))
    _, notes = triton.backward(attributes, (True,), output, (x,), output, tuple(state))
    triton.double_backward(attributes, (True, True), (x,), output, (x,), output, tuple(state), notes)
