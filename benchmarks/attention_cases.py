"""The shapes at which attention is measured: the attention sites of SAGAN and BigGAN, and two with wide heads."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels import Cost
from ganfuse.kernels.feature_attention import cost

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}


@dataclass(frozen=True)
class Case:
    """One shape in one type and layout.

    Attributes:
        site: name of the shape.
        d, e: channels of query and key, of value. side, key_side: of the (square) grids.
        dtype: a key of `TYPES`. layout: a key of `LAYOUTS`.
        goal: the site belongs to those where no peer may be faster.
    """

    site: str
    batch: int
    d: int
    e: int
    side: int
    key_side: int
    dtype: str = "bf16"
    layout: str = "channels_last"
    goal: bool = False

    @property
    def name(self) -> str:
        return f"{self.site}/{self.dtype}/{self.layout}"

    @property
    def queries(self) -> int:
        return self.side**2

    @property
    def keys(self) -> int:
        return self.key_side**2

    def costs(self) -> dict[str, Cost]:
        """Least traffic and arithmetic of each pass, by the formulas of the op's cost.py."""
        arguments = (self.batch, self.queries, self.keys, self.d, self.e, TYPES[self.dtype].itemsize)
        forward, backward = cost.forward(*arguments), cost.backward(*arguments)
        double_backward = cost.double_backward(*arguments)
        return {
            "forward": forward,
            "backward": backward,
            "forward_backward": forward + backward,
            "double_backward": double_backward,
            "penalty": forward + backward + double_backward,
        }


class Inputs(NamedTuple):
    """Leaf tensors of one case."""

    query: Tensor
    key: Tensor
    value: Tensor
    grad_output: Tensor

    def sample(self, index: int) -> "Inputs":
        """One sample of the batch; attention does not mix samples."""
        return Inputs(*(x[index : index + 1] for x in self))

    def double(self) -> "Inputs":
        return Inputs(*(x.double() for x in self))


def make_inputs(case: Case, device: torch.device, *, batch: int | None = None, seed: int = 0) -> Inputs:
    """Random tensors, with logits of unit variance as in a network that was just initialised."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(channels: int, side: int, std: float = 1.0) -> Tensor:
        shape = (batch or case.batch, channels, side, side)
        x = torch.randn(shape, generator=generator, device=device).mul_(std)
        return x.to(TYPES[case.dtype], memory_format=LAYOUTS[case.layout])

    std = case.d**-0.25
    return Inputs(
        draw(case.d, case.side, std), draw(case.d, case.key_side, std), draw(case.e, case.key_side),
        draw(case.e, case.side),
    )  # fmt: skip


SAGAN_128 = (
    Case("sagan128-32-c256", 64, 32, 128, 32, 32, goal=True),
    Case("sagan128-32-c256-pooled", 64, 32, 128, 32, 16, goal=True),
    Case("sagan128-64-c128", 64, 16, 64, 64, 64, goal=True),
    Case("sagan128-64-c128-pooled", 64, 16, 64, 64, 32, goal=True),
)
WIDE = (Case("wide-64-d64-e256", 64, 64, 256, 64, 64), Case("wide-64-d64-e64", 64, 64, 64, 64, 64))
BIGGAN_128 = (
    Case("biggan128-g-pooled", 64, 24, 96, 64, 32),
    Case("biggan128-d-pooled", 64, 12, 48, 64, 32),
)


def _with(cases: tuple[Case, ...], *, dtype: str | None = None, layout: str | None = None) -> list[Case]:
    return [
        Case(c.site, c.batch, c.d, c.e, c.side, c.key_side, dtype or c.dtype, layout or c.layout, c.goal) for c in cases
    ]


# What matters most first: a run that is cut short still answers.
GPU_CASES: list[Case] = [
    *SAGAN_128,
    *WIDE,
    *_with(SAGAN_128, layout="nchw"),
    *BIGGAN_128,
    *_with(WIDE + BIGGAN_128, layout="nchw"),
    *_with(SAGAN_128[:1], dtype="fp16"),
    *_with(SAGAN_128[:1], dtype="fp32"),
]

_CPU = (
    Case("sagan32-w16", 64, 4, 16, 16, 16),
    Case("n1024-m256-d8", 8, 8, 32, 32, 16),
    Case("biggan128-g-pooled", 2, 24, 96, 64, 32),
    Case("n4096-m4096-d8", 2, 8, 32, 64, 64),
)
CPU_CASES: list[Case] = [
    *_with(_CPU, dtype="fp32", layout="nchw"),
    *_with(_CPU, dtype="fp32", layout="channels_last"),
    *_with(_CPU, dtype="bf16", layout="channels_last"),
    *_with((Case("biggan128-g-pooled-b8", 8, 24, 96, 64, 32),), dtype="fp32", layout="nchw"),
]
