"""The shapes at which norms and their relatives are measured on a GPU, and what each is there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks import norms_plain
from ganfuse.kernels import (
    Cost,
    Prologue,
    batch_norm_act,
    bias_act,
    instance_norm_act,
    layer_instance_norm_act,
    pixel_norm,
)
from ganfuse.kernels.bias_act import cost as bias_act_cost
from ganfuse.kernels.channel_norm import configs
from ganfuse.kernels.channel_norm import cost as norm_cost
from ganfuse.kernels.launch import target_of
from ganfuse.kernels.pixel_norm import cost as pixel_norm_cost

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}
Op = Callable[..., Tensor]
# Inputs besides the map: "own" (B, C), "shared" (C,), "unit" (C,) in [0, 1], "noise" (B, 1, H, W).
_INPUTS = {
    "cbn": ("own", "own"),
    "bn": ("shared", "shared"),
    "in": (),
    "adain": ("own", "own"),
    "epilogue": ("own", "own", "noise", "shared", "shared"),
    "adalin": ("own", "own", "unit"),
    "iln": ("shared", "shared", "unit"),
    "pixel_norm": (),
    "bias_act": ("shared",),
}


def _batch_norm(backend: str) -> Op:
    def run(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        return batch_norm_act(
            x, gain, bias, *norms_plain.running_statistics(x), training=True, activation="relu", backend=backend
        )

    return run


def _epilogue(backend: str) -> Op:
    def run(x: Tensor, gain: Tensor, bias: Tensor, noise: Tensor, strength: Tensor, shift: Tensor) -> Tensor:
        before = Prologue(noise, strength, shift, "leaky_relu")
        return instance_norm_act(x, gain, bias, eps=1e-8, prologue=before, backend=backend)

    return run


def ours(op: str, backend: str) -> Op:
    """The op by ganfuse, with that backend."""
    if op in ("cbn", "bn"):
        return _batch_norm(backend)
    if op == "in":
        return lambda x: instance_norm_act(x, None, None, activation="relu", backend=backend)
    if op == "adain":
        return lambda x, gain, bias: instance_norm_act(x, gain, bias, backend=backend)
    if op == "epilogue":
        return _epilogue(backend)
    if op in ("adalin", "iln"):
        return lambda x, gain, bias, rho: layer_instance_norm_act(
            x, rho, gain, bias, activation="relu", backend=backend
        )
    if op == "pixel_norm":
        return lambda x: pixel_norm(x, backend=backend)
    return lambda x, b: bias_act(x, b, act="lrelu", clamp=256, backend=backend)


def plain(op: str) -> Op:
    """The op as public codebases write it, with PyTorch's own norms where there are any."""
    forms: dict[str, Op] = {
        "cbn": lambda x, gain, bias: norms_plain.conditional_batch_norm(x, gain, bias, bias),
        "bn": norms_plain.batch_norm_relu,
        "in": norms_plain.instance_norm_relu,
        "adain": lambda x, gain, bias: norms_plain.adain(x, gain, bias, bias),
        "epilogue": norms_plain.stylegan_epilogue,
        "adalin": norms_plain.adalin,
        "iln": norms_plain.adalin,
        "pixel_norm": norms_plain.pixel_norm,
        "bias_act": norms_plain.bias_act,
    }
    return forms[op]


@dataclass(frozen=True)
class Case:
    """One op on (batch, channels, side, side) maps of one type in one layout.

    Attributes:
        goal: the site belongs to those where we want 85 % of the copy bandwidth, and no peer to be faster.
    """

    site: str
    op: str
    batch: int
    channels: int
    side: int
    dtype: str = "bf16"
    layout: str = "channels_last"
    goal: bool = False

    @property
    def name(self) -> str:
        return f"{self.site}/{self.op}-{self.channels}-{self.side}/{self.dtype}/{self.layout}"

    def costs(self, device: torch.device) -> dict[str, Cost]:
        """Least traffic of each pass, by the formulas of the op's cost.py."""
        positions, size = self.side**2, TYPES[self.dtype].itemsize
        numel = self.batch * self.channels * positions
        if self.op == "pixel_norm":
            arguments = (numel, self.batch * positions, size)
            forward, backward = pixel_norm_cost.forward(*arguments), pixel_norm_cost.backward(*arguments)
            double = pixel_norm_cost.double_backward(*arguments)
        elif self.op == "bias_act":
            forward, backward = (f(numel, size, "lrelu") for f in (bias_act_cost.forward, bias_act_cost.backward))
            double = bias_act_cost.double_backward(numel, size, "lrelu")
        else:
            shape = (self.batch, self.channels, positions)
            is_epilogue = self.op == "epilogue"
            noise = 4 * self.batch * positions if is_epilogue else 0
            prologue = "leaky_relu" if is_epilogue else ""
            held = [self._held(kernel, device) for kernel in ("rows", "rows_backward")]
            forward = norm_cost.forward(*shape, size, on_chip=held[0], prologue=prologue, noise_bytes=noise)
            backward = norm_cost.backward(*shape, size, on_chip=held[1], prologue=prologue, noise_bytes=noise)
            double = norm_cost.double_backward(*shape, size, noise_bytes=noise)
        return {
            "forward": forward,
            "backward": backward,
            "forward_backward": forward + backward,
            "double_backward": double,
        }

    def _held(self, kernel: str, device: torch.device) -> bool:
        if self.op not in ("in", "adain", "epilogue") or device.type != "cuda":
            return False
        layout = self.layout == "channels_last"
        size = (self.batch, self.channels, self.side**2)
        return configs.choose_held(kernel, target_of(device), TYPES[self.dtype].itemsize, layout, *size) is not None


def make_inputs(case: Case, device: torch.device) -> tuple[list[Tensor], Tensor]:
    """(the op's inputs, leaves but for the noise; a gradient of the output)."""
    generator = torch.Generator(device).manual_seed(0)
    shape = (case.batch, case.channels, case.side, case.side)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    def map_() -> Tensor:
        return normal(*shape).to(TYPES[case.dtype], memory_format=LAYOUTS[case.layout])

    inputs, grad = [map_().requires_grad_()], map_()
    for kind in _INPUTS[case.op]:
        if kind == "noise":
            inputs.append(normal(case.batch, 1, case.side, case.side))
        elif kind == "own":
            inputs.append((1 + 0.3 * normal(*shape[:2])).requires_grad_())
        else:
            vector = normal(case.channels)
            inputs.append((torch.sigmoid(vector) if kind == "unit" else vector).requires_grad_())
    return inputs, grad


def _sites(site: str, op: str, batch: int, sizes: Sequence[tuple[int, int]], goal: bool = False) -> list[Case]:
    return [Case(site, op, batch, channels, side, goal=goal) for channels, side in sizes]


# Every norm of BigGAN-128's generator (ch = 96): conditional ones, and the one before its last convolution.
BIGGAN_128 = [
    *_sites("biggan128", "cbn", 64, ((96, 128), (192, 64), (384, 32), (768, 16), (1536, 8), (1536, 4)), True),
    *_sites("biggan128", "bn", 64, ((96, 128),), True),
]
STYLEGAN2_256 = [
    *_sites("stylegan2-256", "bias_act", 8, ((64, 256), (128, 128), (256, 64), (512, 32), (512, 8)), True),
    *_sites("stylegan-256", "epilogue", 8, ((64, 256), (128, 128), (256, 64), (512, 32), (512, 8)), True),
    *_sites("stylegan-256", "adain", 8, ((64, 256), (512, 32)), True),
    *_sites("progan-256", "pixel_norm", 8, ((64, 256), (512, 32)), True),
]
UGATIT_256 = [
    *_sites("ugatit256", "in", 1, ((64, 256), (128, 128), (256, 64))),
    *_sites("ugatit256", "adalin", 1, ((256, 64),)),
    *_sites("ugatit256", "iln", 1, ((128, 128), (64, 256))),
]
# What matters most first: a run that is cut short still answers.
GPU_CASES = [
    *BIGGAN_128,
    *STYLEGAN2_256,
    *UGATIT_256,
    *(replace(case, layout="nchw") for case in (*BIGGAN_128, *STYLEGAN2_256, *UGATIT_256)),
    *(replace(case, dtype="fp32") for case in BIGGAN_128[1:3]),
]
