"""Shapes at which the kernels are compiled, inspected and measured."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.bias_act.reference import ACTIVATIONS
from ganfuse.kernels.scaled_bias_act import triton
from ganfuse.kernels.scaled_bias_act.allocation import Attributes

TENSOR_CORES = False


class Case(NamedTuple):
    """One call on square maps: with all small inputs, or with a scale alone (the modulation)."""

    channels: int
    side: int
    epilogue: bool = True
    act: str = "lrelu"
    dtype: torch.dtype = torch.bfloat16
    channels_last: bool = True
    batch: int = 8
    clamp: float = 256.0


def _both_layouts(name: str, case: Case) -> dict[str, Case]:
    return {f"{name} nhwc": case, f"{name} nchw": case._replace(channels_last=False)}


CASES: dict[str, Case] = {
    # What surrounds the convolutions of StyleGAN2 at 256² (Karras et al. 2020): wide, middle, deep, deepest.
    **_both_layouts("epilogue 256² (64)", Case(64, 256, dtype=torch.float16)),
    **_both_layouts("epilogue 64² (256)", Case(256, 64)),
    **_both_layouts("epilogue 16² (512)", Case(512, 16, dtype=torch.float32, clamp=-1.0)),
    **_both_layouts("epilogue 4² (512)", Case(512, 4, clamp=-1.0)),
    **_both_layouts("modulation 256² (64)", Case(64, 256, False, "linear", clamp=-1.0)),
    **_both_layouts("modulation 32² (512)", Case(512, 32, False, "linear", clamp=-1.0)),
    # Widths of other generators, and a curved activation.
    **_both_layouts("epilogue swish 32² (96)", Case(96, 32, act="swish", clamp=-1.0)),
    "epilogue 33² (24) nhwc": Case(24, 33, clamp=-1.0),
    "epilogue 20² (24) nchw": Case(24, 20, channels_last=False, clamp=-1.0),
}


def alignment(case: Case) -> int:
    """Bits to which every row of the case's maps is aligned, up to 128."""
    row = case.channels if case.channels_last else case.side**2
    return math.gcd(128, row * case.dtype.itemsize * 8)


def run(case: Case) -> None:
    """Forward, backward and double backward on meta tensors; call it while launches are recorded."""
    spec = ACTIVATIONS[case.act]
    attributes = Attributes(case.act, spec.alpha, spec.gain, case.clamp, "triton")
    format = torch.channels_last if case.channels_last else torch.contiguous_format
    shape = (case.batch, case.channels, case.side, case.side)
    x = torch.empty(shape, dtype=case.dtype, device="meta", memory_format=format)

    def small(*size: int) -> Tensor | None:
        return torch.empty(size, device="meta") if case.epilogue else None

    scale = torch.empty(shape[:2], device="meta")
    inputs = (x, scale, small(case.batch, 1, case.side, case.side), small(case.channels))
    needs = tuple(t is not None for t in inputs)
    output, *state = triton.forward(attributes, inputs)  # type: ignore[arg-type]
    gradients, notes = triton.backward(attributes, needs, output, inputs, output, tuple(state))  # type: ignore[arg-type]
    triton.double_backward(
        attributes, (True, *needs), gradients, output, inputs, output, tuple(state), notes  # type: ignore[arg-type]
    )  # fmt: skip
