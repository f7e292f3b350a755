"""Launchers: how maps are cut, and the buffers of the sums."""

import functools
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Implementation, Needs, Tensors
from ganfuse.kernels.bias_act.allocation import CURVED
from ganfuse.kernels.channel_norm.configs import power_of_two
from ganfuse.kernels.launch import launch, target_of
from ganfuse.kernels.layout import MapView, alignment_unit, is_channels_last, view
from ganfuse.kernels.precision import float32_pair
from ganfuse.kernels.scaled_bias_act.allocation import (
    Attributes,
    fake_backward,
    fake_double_backward,
    fake_forward,
)
from ganfuse.kernels.scaled_bias_act.triton_epilogue import (
    epilogue_backward,
    epilogue_double_backward,
    epilogue_forward,
)

# Elements of a tile: passes that hold more maps and sums take smaller ones, or they spill.
_ELEMENTS = {"forward": 4096, "backward": 2048, "double": 1024}
_ENOUGH_PROGRAMS = 1024
_MOST_SPLITS = 64
_WIDEST_CHANNELS = 64
# In NCHW so many channels share what they read of the noise, and the sums over them that its gradient is made of.
_CHANNELS_TO_A_NOISE = 16


class _Plan(NamedTuple):
    """What a launch takes besides its pointers and the flags of what is there."""

    grid: tuple[int, int]
    strides: tuple[int, ...]
    sizes: tuple[int, ...]
    scalars: tuple[float, ...]
    constants: dict[str, Any]
    num_warps: int


@functools.lru_cache(maxsize=4096)
def _plan(
    kernel: str,
    target: str,
    attributes: Attributes,
    dtype: torch.dtype,
    channels_last: bool,
    shape: tuple[int, int, int],
    strides: tuple[int, ...],
    noisy: bool,
) -> _Plan:
    batch, channels, positions = shape
    interpreted = target == "interpreter"
    unit = alignment_unit(channels if channels_last else positions, *strides)
    elements = 64 if interpreted else _ELEMENTS[kernel] * 4 // max(4, dtype.itemsize)
    if (unit < 4 or (target == "sm100" and kernel == "backward")) and not interpreted:
        # Read one by one, elements have an address each, and addresses take registers; of which ptxas gives the
        # modulation's backward few on sm_100, so that it spills with larger tiles.
        elements //= 2
    if channels_last:
        rows = min(power_of_two(channels), 16 if interpreted else _WIDEST_CHANNELS)
        block = min(power_of_two(positions), max(1, elements // rows))
    else:
        fewest = min(power_of_two(channels), _CHANNELS_TO_A_NOISE) if noisy else 1
        block = min(power_of_two(positions), elements // min(fewest, elements))
        rows = max(1, min(power_of_two(channels), elements // block))
    row_blocks = batch * -(-channels // rows)
    tiles = -(-positions // block)
    splits = max(1, min(tiles, _MOST_SPLITS, -(-_ENOUGH_PROGRAMS // max(1, row_blocks))))
    if interpreted:
        # Few programs, for each costs a millisecond; but both a loop over tiles and a sum over splits.
        splits = min(splits, 2)
    chunk = -(-tiles // splits) * block
    splits = -(-positions // chunk)
    constants = {
        "ROWS": rows,
        "BLOCK": block,
        "UNIT": unit,
        "CHANNELS_LAST": channels_last,
        "EVEN": positions % block == 0,
        "EVEN_ROWS": channels % rows == 0,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "ACT": attributes.act,
        "CLAMP": attributes.clamp >= 0,
    }
    sizes = (
        (batch, channels // unit, positions, chunk) if channels_last else (batch, channels, positions // unit, chunk)
    )
    scalars = tuple(
        part for number in (attributes.alpha, attributes.gain, attributes.clamp) for part in float32_pair(number, dtype)
    )  # fmt: skip
    # No more threads than 16 bytes each: narrower loads would not fill them.
    lanes = 64 if target.startswith("gfx") else 32
    warps = max(1, min(4, rows * block * dtype.itemsize // (16 * lanes)))
    return _Plan((row_blocks, splits), tuple(s // unit for s in strides), sizes, scalars, constants, warps)


def _readable(t: Tensor | None) -> Tensor | None:
    """A small tensor packed, and in a type of which a single element is a load of 32 bits."""
    if t is None:
        return None
    return (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t).contiguous()


class _Call:
    """One call's inputs as its kernels take them."""

    def __init__(self, attributes: Attributes, inputs: Tensors) -> None:
        x = inputs[0]
        self.attributes = attributes
        self.channels_last = is_channels_last(x)
        self.x = view(x, self.channels_last)
        self.dtype, self.device = x.dtype, x.device
        batch, channels, height, width = x.shape
        self.shape = (batch, channels, height * width)
        self.scale, self.noise, self.b = map(_readable, inputs[1:])
        self.noise_batch = height * width if self.noise is not None and self.noise.shape[0] > 1 else 0
        self.target = target_of(x.device)

    def view(self, other: Tensor) -> MapView:
        """`other`, of x's shape, in x's layout and type."""
        return view(other.to(self.dtype), self.channels_last)

    def plan(self, kernel: str, views: list[MapView]) -> _Plan:
        strides = tuple(stride for v in views for stride in v[1:])
        return _plan(
            kernel, self.target, self.attributes, self.dtype, self.channels_last, self.shape, strides,
            self.noise is not None,
        )  # fmt: skip

    def small(self) -> list[Tensor]:
        """Scale, noise and bias; a pointer that the kernel does not follow must still be one."""
        return [self.x.tensor if t is None else t for t in (self.scale, self.noise, self.b)]

    def flags(self) -> dict[str, bool]:
        return {"SCALE": self.scale is not None, "NOISE": self.noise is not None, "BIAS": self.b is not None}

    def run(self, kernel: Any, plan: _Plan, pointers: list[Tensor], splits: list[int], flags: dict[str, bool]) -> None:
        numbers = [*plan.strides, self.noise_batch, *plan.sizes, *splits, *plan.scalars]
        launch(
            kernel, plan.grid, self.device, [*pointers, *numbers], {**plan.constants, **self.flags(), **flags},
            num_warps=plan.num_warps, num_stages=1,
        )  # fmt: skip


class _Sums:
    """What the programs of a backward leave for the gradients of scale, noise and bias, and their reduction."""

    def __init__(self, call: _Call, plan: _Plan, scale: Tensor | None, noise: Tensor | None, b: Tensor | None) -> None:
        self.gradients = (scale, noise, b)
        batch, channels, positions = call.shape
        dtype = torch.float64 if call.dtype == torch.float64 else torch.float32
        splits = plan.grid[1]
        self.by_channel = self.by_position = call.x.tensor
        if scale is not None or b is not None:
            self.by_channel = torch.empty((2, splits, batch, channels), dtype=dtype, device=call.device)
        if noise is not None:
            blocks = plan.grid[0] // batch
            self.by_position = torch.empty((blocks, batch, positions), dtype=dtype, device=call.device)

    def flags(self) -> dict[str, bool]:
        return {name: g is not None for name, g in zip(("SCALE_GRAD", "NOISE_GRAD", "BIAS_GRAD"), self.gradients)}

    def reduce(self) -> None:
        scale, noise, b = self.gradients
        if scale is not None:
            _sum_into(scale, self.by_channel[0], (0,))
        if noise is not None:
            flat = noise.view(noise.shape[0], -1) if noise.shape[0] > 1 else noise.view(-1)
            _sum_into(flat, self.by_position, (0,) if noise.shape[0] > 1 else (0, 1))
        if b is not None:
            _sum_into(b, self.by_channel[1], (0, 1))


def _sum_into(result: Tensor, parts: Tensor, dims: tuple[int, ...]) -> None:
    # A noise map per sample of a batch of one is summed over samples, too: it has no other dimension to lose.
    if result.dtype == parts.dtype:
        torch.sum(parts, dims, out=result)
    else:
        result.copy_(parts.sum(dims))


def _zeroed(gradients: Gradients) -> Gradients:
    # Of an empty batch: the bias's gradient is a sum of nothing.
    return tuple(None if g is None else torch.zeros_like(g) for g in gradients)


def forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    output, nothing = fake_forward(attributes, inputs)
    if output.numel() == 0:
        return output, nothing
    call = _Call(attributes, inputs)
    y = view(output, call.channels_last)
    plan = call.plan("forward", [call.x, y])
    call.run(epilogue_forward, plan, [call.x.tensor, y.tensor, *call.small()], [], {})
    return output, nothing


def backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    gradients, notes = fake_backward(attributes, needs, grad_output, inputs, output, state)
    if inputs[0].numel() == 0:
        return _zeroed(gradients), notes
    if all(g is None for g in gradients):
        return gradients, notes
    on_x, on_scale, on_noise, on_b = gradients
    call = _Call(attributes, inputs)
    grad = call.view(grad_output)
    out = call.x if on_x is None else view(on_x, call.channels_last)
    plan = call.plan("backward", [call.x, grad, out])
    sums = _Sums(call, plan, on_scale, on_noise, on_b)
    pointers = [call.x.tensor, grad.tensor, out.tensor, *call.small(), sums.by_channel, sums.by_position]
    call.run(epilogue_backward, plan, pointers, [plan.grid[1]], {"X_GRAD": on_x is not None, **sums.flags()})
    sums.reduce()
    return gradients, notes


def double_backward(
    attributes: Attributes,
    needs: Needs,
    cotangents: Tensors,
    grad_output: Tensor,
    inputs: Tensors,
    output: Tensor,
    state: Tensors,
    notes: Tensors,
) -> Gradients:
    gradients = fake_double_backward(attributes, needs, cotangents, grad_output, inputs, output, state, notes)
    if inputs[0].numel() == 0:
        return _zeroed(gradients)
    on_grad, on_x, on_scale, on_noise, on_b = gradients
    curved = attributes.act in CURVED
    if not curved:
        # Already there: zeros.
        on_noise = on_b = None
        on_x = None if inputs[1] is None else on_x
    if on_grad is None and on_x is None and on_scale is None and on_noise is None and on_b is None:
        return gradients
    call = _Call(attributes, inputs)
    grad, h = call.view(grad_output), call.view(cotangents[0])
    outs = [call.x if g is None else view(g, call.channels_last) for g in (on_grad, on_x)]
    views = [call.x, grad, h, *outs]
    plan = call.plan("double", views)
    sums = _Sums(call, plan, on_scale, on_noise, on_b)
    others = [call.x.tensor if t is None else t for t in map(_readable, cotangents[1:])]
    pointers = [*(v.tensor for v in views), *call.small(), *others, sums.by_channel, sums.by_position]
    flags = {
        "H_NOISE": cotangents[2] is not None,
        "H_BIAS": cotangents[3] is not None,
        "CURVED": curved,
        "GRAD_GRAD": on_grad is not None,
        "X_GRAD": on_x is not None,
        **sums.flags(),
    }
    call.run(epilogue_double_backward, plan, pointers, [plan.grid[1]], flags)
    sums.reduce()
    return gradients


IMPLEMENTATION = Implementation(
    forward, backward, double_backward, fake_forward, fake_backward, fake_double_backward
)  # fmt: skip
