"""Shapes at which the kernels are compiled, inspected and measured."""

import math
from typing import NamedTuple

import torch

from ganfuse.kernels.upfirdn2d import triton
from ganfuse.kernels.upfirdn2d.geometry import Sampling

TENSOR_CORES = False


class Case(NamedTuple):
    """One call on square maps, with a filter of `taps` by `taps` (or, separable, of one dimension).

    Attributes:
        side: of x. padding: before and behind, on both axes.
    """

    channels: int
    side: int
    up: int = 1
    down: int = 1
    padding: tuple[int, int] = (1, 1)
    taps: int = 4
    separable: bool = False
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = True
    batch: int = 8

    @property
    def out(self) -> int:
        """Side of the result."""
        return (self.side * self.up + sum(self.padding) - self.taps) // self.down + 1


def _both_layouts(name: str, case: Case) -> dict[str, Case]:
    return {f"{name} nhwc": case, f"{name} nchw": case._replace(channels_last=False)}


_32 = torch.float32
CASES: dict[str, Case] = {
    # StyleGAN2 at 256²: what follows its upsampling convolutions, precedes its downsampling ones, and its two skips.
    **_both_layouts("blur 257² (64)", Case(64, 257)),
    **_both_layouts("blur 17² (512) float32", Case(512, 17, dtype=_32)),
    **_both_layouts("blur 256² (64)", Case(64, 256, padding=(2, 2))),
    **_both_layouts("blur 8² (512) float32", Case(512, 8, padding=(2, 2), dtype=_32)),
    **_both_layouts("down 256² (64)", Case(64, 256, down=2)),
    **_both_layouts("down 32² (512)", Case(512, 32, down=2)),
    **_both_layouts("up 128² (64)", Case(64, 128, up=2, padding=(2, 1))),
    **_both_layouts("image up 128² (3) float32", Case(3, 128, up=2, padding=(2, 1), dtype=_32)),
    # The wavelets of adaptive augmentation, two passes; four times up; and what is left to any factors.
    **_both_layouts("12 taps up 128² (3) float32", Case(3, 128, 2, 1, (6, 5), 12, True, _32)),
    **_both_layouts("12 taps down 64² (32) float32", Case(32, 64, 1, 2, (5, 5), 12, True, _32)),
    **_both_layouts("12 taps up 4 36² (96)", Case(96, 36, 4, 1, (7, 4), 12, True)),
    **_both_layouts("5 taps 3/2 50² (24)", Case(24, 50, 3, 2, (2, 2), 5)),
    **_both_layouts("8 taps blur 64² (128) float32", Case(128, 64, 1, 1, (4, 3), 8, dtype=_32)),
}


def alignment(case: Case) -> int:
    """Bits to which all reads and writes of the case are aligned, up to 128."""
    # In NCHW the taps start at any column.
    return math.gcd(128, (case.channels if case.channels_last else 1) * case.dtype.itemsize * 8)


def unaligned_rows(case: Case) -> bool:
    """Whether the kernels read half types one by one."""
    return alignment(case) < 32


def run(case: Case) -> None:
    """Forward and backward on meta tensors; call it while launches are recorded."""
    shape = (case.batch, case.channels, case.side, case.side)
    format = torch.channels_last if case.channels_last else torch.contiguous_format
    x = torch.empty(shape, dtype=case.dtype, device="meta", memory_format=format)
    f = torch.empty((case.taps,) if case.separable else (case.taps, case.taps), device="meta")
    pad, out = case.padding[0], case.out
    factors = (case.up, case.up, case.down, case.down)
    sampling = Sampling(*factors, pad, pad, out, out, False, 1.0, case.channels_last, "triton")
    y = triton.upfirdn2d(sampling, x, f)
    triton.upfirdn2d(sampling.adjoint(x, f), y, f)
