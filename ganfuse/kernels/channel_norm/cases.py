"""Shapes at which the norms' kernels are compiled and inspected, and benchmarked."""

import math
from typing import NamedTuple

import torch

from ganfuse.kernels.channel_norm import triton
from ganfuse.kernels.channel_norm.allocation import Attributes

# What `inspection` asks of other kernels: there is no product of matrices here, and what lies between the passes
# reads a few (B, C) numbers.
TENSOR_CORES = False
REDUCTIONS = frozenset({"norm_statistics", "norm_sums", "norm_double_sums"})
SMALL_KERNELS = frozenset(
    {"norm_coefficients", "norm_backward_coefficients", "norm_double_coefficients", "norm_row_totals"}
)


class Case(NamedTuple):
    """A norm of (batch, channels, side, side) maps; parameters per sample or per channel.

    Attributes:
        prologue: its activation; there are noise and a bias then.
        noise: "own" or "shared"; without a prologue it comes after the affine map.
    """

    kind: str
    batch: int
    channels: int
    side: int
    activation: str = "none"
    per_sample: bool = True
    channels_last: bool = True
    dtype: torch.dtype = torch.bfloat16
    groups: int = 1
    noise: str = ""
    prologue: str = ""


def _both_layouts(name: str, case: Case) -> dict[str, Case]:
    return {f"{name} nhwc": case, f"{name} nchw": case._replace(channels_last=False)}


CASES: dict[str, Case] = {
    # Every conditional batch norm of BigGAN-128's generator (Brock et al. 2018, table 4; ch = 96), and its last.
    **_both_layouts("biggan-128 1536 4²", Case("batch", 64, 1536, 4, "relu")),
    **_both_layouts("biggan-128 1536 8²", Case("batch", 64, 1536, 8, "relu")),
    **_both_layouts("biggan-128 768 16²", Case("batch", 64, 768, 16, "relu")),
    **_both_layouts("biggan-128 384 32²", Case("batch", 64, 384, 32, "relu")),
    **_both_layouts("biggan-128 192 64²", Case("batch", 64, 192, 64, "relu")),
    **_both_layouts("biggan-128 96 128² output", Case("batch", 64, 96, 128, "relu", per_sample=False)),
    # U-GAT-IT at 256 (Kim et al. 2020): AdaLIN in the residual blocks, ILN in the decoder, IN in the encoder.
    **_both_layouts("ugatit-256 adalin 256 64²", Case("mix", 1, 256, 64, "relu")),
    **_both_layouts("ugatit-256 iln 128 128²", Case("mix", 1, 128, 128, "relu", per_sample=False)),
    **_both_layouts("ugatit-256 iln 64 256²", Case("mix", 1, 64, 256, "relu", per_sample=False)),
    **_both_layouts("ugatit-256 in 64 256²", Case("row", 1, 64, 256, "relu")._replace(per_sample=False)),
    # StyleGAN at 256 (AdaIN; StyleGAN2's maps are as large).
    **_both_layouts("stylegan-256 512 32²", Case("row", 8, 512, 32)),
    **_both_layouts("stylegan-256 128 128²", Case("row", 8, 128, 128)),
    **_both_layouts("stylegan-256 64 256²", Case("row", 8, 64, 256)),
    # Its whole epilogue: noise, bias, leaky ReLU, then AdaIN; and noise after the affine map, as in StyleGAN2.
    **_both_layouts("stylegan-256 epilogue 512 8²", Case("row", 8, 512, 8, noise="own", prologue="leaky_relu")),
    **_both_layouts("stylegan-256 epilogue 512 32²", Case("row", 8, 512, 32, noise="own", prologue="leaky_relu")),
    **_both_layouts("stylegan-256 epilogue 256 64²", Case("row", 8, 256, 64, noise="own", prologue="leaky_relu")),
    **_both_layouts("stylegan-256 epilogue 64 256²", Case("row", 8, 64, 256, noise="own", prologue="leaky_relu")),
    **_both_layouts("noise 128 64²", Case("batch", 16, 128, 64, "leaky_relu", noise="own")),
    **_both_layouts("ugatit-256 in 256 64²", Case("row", 1, 256, 64, "relu")),
    **_both_layouts("group norm 256 32² silu", Case("group", 16, 256, 32, "silu", per_sample=False, groups=32)),
    **_both_layouts("in silu 24 40²", Case("row", 4, 24, 40, "silu", per_sample=False)),
    "evaluation 192 64² nhwc": Case("given", 64, 192, 64, "relu"),
    "fp16 biggan-128 192 64² nhwc": Case("batch", 64, 192, 64, "relu", dtype=torch.float16),
    "fp32 biggan-128 192 64² nhwc": Case("batch", 64, 192, 64, "relu", dtype=torch.float32),
    "three channels 128² nchw": Case("row", 4, 3, 128, "leaky_relu", channels_last=False),
    "ragged 384 33² nhwc": Case("batch", 8, 384, 33, "relu"),
}


def alignment(case: Case) -> int:
    """Bits to which every row of the case's maps is aligned, up to 128."""
    row = case.channels if case.channels_last else case.side**2
    return math.gcd(128, row * case.dtype.itemsize * 8)


def run(case: Case) -> None:
    """Forward, backward and double backward on meta tensors; call it while launches are recorded.

    The second backward of norms with noise is composed of that of plain ones, and not run.
    """
    unbiased = case.kind == "mix"
    attributes = Attributes(
        case.kind, case.groups, 1e-5, unbiased, case.activation, 0.2, "", "triton", case.prologue, 0.2
    )
    format = torch.channels_last if case.channels_last else torch.contiguous_format
    shape = (case.batch, case.channels, case.side, case.side)
    x = torch.empty(shape, dtype=case.dtype, device="meta", memory_format=format)
    rows = shape[:2] if case.per_sample else shape[1:2]
    gain, bias, rho, mean, var = (torch.empty(s, device="meta") for s in (rows, rows, *(shape[1:2],) * 3))
    given = (mean, var) if case.kind == "given" else (None, None)
    positions = (case.batch if case.noise == "own" else 1, 1, case.side, case.side)
    noises = (torch.empty(positions, device="meta"), rho) if case.noise else (None, None)
    shift = rho if case.prologue else None
    inputs = (x, gain, bias, rho if case.kind == "mix" else None, *given, *noises, shift)
    output, *state = triton.forward(attributes, inputs)  # type: ignore[arg-type]
    needs = (True, True, True, case.kind == "mix", False, False, False, case.noise != "", case.prologue != "")
    gradients, notes = triton.backward(attributes, needs, output, inputs, output, tuple(state))  # type: ignore[arg-type]
    if not case.noise:
        triton.double_backward(
            attributes, (True, *needs), gradients, output, inputs, output, tuple(state), notes  # type: ignore[arg-type]
        )  # fmt: skip
