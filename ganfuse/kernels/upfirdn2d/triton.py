"""Launchers: which kernel takes a call, how its result is cut into tiles, one pass or two."""

import functools
import math
from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from ganfuse.kernels import layout
from ganfuse.kernels.launch import launch, target_of
from ganfuse.kernels.precision import float32_pair
from ganfuse.kernels.upfirdn2d.allocation import empty_output
from ganfuse.kernels.upfirdn2d.geometry import Sampling
from ganfuse.kernels.upfirdn2d.triton_phases import upfirdn2d_phases
from ganfuse.kernels.upfirdn2d.triton_quads import upfirdn2d_quads

# With eight, ptxas would keep single outputs in so few registers that it spills.
_QUAD_WARPS, _PHASE_WARPS = 8, 4
# What a thread takes of a tile, so that what it keeps fits its registers: two wide reads, or four narrow ones.
_THREAD_BYTES, _THREAD_PLACES = 32, 4
# Fewer programs leave much of a large GPU idle: tiles are halved until there are as many.
_PROGRAMS = 264
# Reads that are unrolled; of more, the compiler makes a long story.
_MOST_READS = 64
# Multiplications for one output from which on a filter of one dimension runs along the axes in turn.
_TWO_PASSES = 36


class _Plan(NamedTuple):
    """What a launch takes besides its tensors and the gain."""

    kernel: Any
    grid: tuple[int]
    numbers: tuple[int, ...]
    constants: dict[str, Any]
    num_warps: int


class _Axis(NamedTuple):
    """How the outputs of one axis repeat.

    Attributes:
        period, step: outputs and pixels of x after which taps meet pixels at the same distances again.
        phase, offset: of the padding: what of it is less than a pixel of x, and its whole pixels.
        reach: pixels of x that two neighbouring outputs (of a period) need. reads: without those under no tap.
    """

    period: int
    step: int
    phase: int
    offset: int
    reach: int
    reads: int


def _axis(up: int, down: int, pad: int, taps: int) -> _Axis:
    common = math.gcd(up, down)
    offset, phase = divmod(pad, up)
    reach = (down + taps - 1 - phase) // up + 1
    under = [t * up + phase for t in range(reach)]
    reads = sum(i < taps or down <= i < down + taps for i in under)
    return _Axis(up // common, down // common, phase, offset, reach, reads)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_two_over(size: int) -> int:
    return 1 << max(0, (size - 1).bit_length())


class _Tiles(NamedTuple):
    """How cells are cut: a tile's sides, and how many tiles there are along each, and in all."""

    blocks: dict[str, int]
    tiles_y: int
    tiles_x: int
    columns_blocks: int
    programs: int


def _tiles(places: int, channels_last: bool, batch: int, channels: int, rows: int, columns: int) -> _Tiles:
    """Tiles as square as may be, for what they read beyond their borders is read again by others."""
    planes = batch * channels
    if channels_last:
        block_c = min(_power_of_two_over(channels), 64)
        block_x = min(_power_of_two_over(columns), 8 if block_c >= 16 else 32)
        block_y = min(_power_of_two_over(rows), max(1, places // (block_c * block_x)), 8)
        # Small maps: more channels instead.
        block_c = min(_power_of_two_over(channels), max(block_c, places // (block_x * block_y)), 512)
        blocks = {"BLOCK_P": 1, "BLOCK_Y": block_y, "BLOCK_X": block_x, "BLOCK_C": block_c}
    else:
        block_x = min(_power_of_two_over(columns), 128)
        block_y = min(_power_of_two_over(rows), max(1, places // block_x), 32)
        block_p = min(_power_of_two_over(planes), max(1, places // (block_x * block_y)))
        blocks = {"BLOCK_P": block_p, "BLOCK_Y": block_y, "BLOCK_X": block_x, "BLOCK_C": 1}
    tiles_y, tiles_x = _ceil(rows, blocks["BLOCK_Y"]), _ceil(columns, blocks["BLOCK_X"])
    columns_blocks = _ceil(channels, blocks["BLOCK_C"]) if channels_last else 1
    images = batch * columns_blocks if channels_last else _ceil(planes, blocks["BLOCK_P"])
    return _Tiles(blocks, tiles_y, tiles_x, columns_blocks, tiles_y * tiles_x * images)


@functools.lru_cache(maxsize=4096)
def _plan(
    sampling: Sampling,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    taps: tuple[int, int],
    separable: bool,
    many: bool,
) -> _Plan:
    """`many`: programs run side by side, and many should."""
    batch, channels, height, width = shape
    last = sampling.channels_last
    on_x = _axis(sampling.up_x, sampling.down_x, sampling.pad_x, taps[1])
    on_y = _axis(sampling.up_y, sampling.down_y, sampling.pad_y, taps[0])
    quads = max(on_x.period, on_y.period) <= 2 and on_x.reads * on_y.reads <= _MOST_READS
    periods = (2, 2) if quads else (on_y.period, on_x.period)
    rows, columns = _ceil(sampling.out_y, periods[0]), _ceil(sampling.out_x, periods[1])
    channel_unit = layout.alignment_unit(channels)
    # In NCHW, rows are read from any column: only the written ones can be known to be aligned.
    unit = layout.alignment_unit(channels, *strides) if last else 1
    wide = last and unit * dtype.itemsize >= 16
    per_thread = _THREAD_BYTES // dtype.itemsize if wide else _THREAD_PLACES
    most_warps = _QUAD_WARPS if quads else _PHASE_WARPS
    places = 32 * most_warps * per_thread
    tiles = _tiles(places, last, batch, channels, rows, columns)
    while many and tiles.programs < _PROGRAMS and places > 64 * per_thread:
        places //= 2
        tiles = _tiles(places, last, batch, channels, rows, columns)
    used = math.prod(tiles.blocks.values())
    num_warps = min(most_warps, max(1, used // (32 * per_thread)))
    constants: dict[str, Any] = {
        "UP_Y": sampling.up_y,
        "UP_X": sampling.up_x,
        "DOWN_Y": sampling.down_y,
        "DOWN_X": sampling.down_x,
        "TAPS_Y": taps[0],
        "TAPS_X": taps[1],
        "FLIP": sampling.flip_filter,
        "SEPARABLE": separable,
        **tiles.blocks,
        "UNIT": unit,
        "CHANNEL_UNIT": channel_unit,
        "CHANNELS_LAST": last,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
    }
    ends = (*(stride // unit for stride in strides), tiles.tiles_y, tiles.tiles_x, tiles.columns_blocks)
    starts = (batch * channels, channels // channel_unit, height, width, sampling.out_y)
    if not quads:
        constants |= {"PERIOD_Y": on_y.period, "PERIOD_X": on_x.period, "STEP_Y": on_y.step, "STEP_X": on_x.step}
        numbers = (*starts, sampling.out_x, sampling.pad_y, sampling.pad_x, *ends)
        return _Plan(upfirdn2d_phases, (tiles.programs * on_y.period * on_x.period,), numbers, constants, num_warps)
    width_unit = layout.alignment_unit(sampling.out_x)
    constants |= {
        "PHASE_Y": on_y.phase,
        "PHASE_X": on_x.phase,
        "STEP_Y": 2 * sampling.down_y // sampling.up_y,
        "STEP_X": 2 * sampling.down_x // sampling.up_x,
        "REACH_Y": on_y.reach,
        "REACH_X": on_x.reach,
        "WIDTH_UNIT": width_unit,
    }
    numbers = (*starts, sampling.out_x // width_unit, on_y.offset, on_x.offset, *ends)
    return _Plan(upfirdn2d_quads, (tiles.programs,), numbers, constants, num_warps)


def upfirdn2d(sampling: Sampling, x: Tensor, f: Tensor | None) -> Tensor:
    """As the definition; nothing here is differentiated."""
    if f is None:
        f = torch.ones(1, 1, device=x.device)
    f = f.contiguous()
    if f.ndim == 2:
        return _pass(sampling, x, f, (f.shape[0], f.shape[1]), False, x.dtype)
    taps = f.shape[0]
    if _ceil(taps, sampling.up_x) * _ceil(taps, sampling.up_y) <= _TWO_PASSES:
        return _pass(sampling, x, f, (taps, taps), True, x.dtype)
    along_x, along_y = sampling.passes(x)
    # Rounded once, at the end.
    between = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = _pass(along_x, x, f, (1, taps), False, between)
    return _pass(along_y, y, f, (taps, 1), False, x.dtype)


def _pass(
    sampling: Sampling, x: Tensor, f: Tensor, taps: tuple[int, int], separable: bool, dtype: torch.dtype
) -> Tensor:
    y = empty_output(sampling, x, dtype)
    x = _readable(x, sampling.channels_last)
    # That of the contiguous axis is 1. That of an axis of length 1 means nothing. Neither may spoil the alignment.
    inner = _inner(sampling.channels_last)
    strides = tuple(0 if i == inner or x.shape[i] == 1 else stride for i, stride in enumerate(x.stride()))
    plan = _plan(sampling, x.dtype, tuple(x.shape), strides, taps, separable, target_of(x.device) != "interpreter")
    launch(
        plan.kernel, plan.grid, x.device, [x, f, y, *float32_pair(sampling.gain, x.dtype), *plan.numbers],
        plan.constants, num_warps=plan.num_warps, num_stages=1,
    )  # fmt: skip
    return y


def _readable(x: Tensor, channels_last: bool) -> Tensor:
    """`x` if its channels (channels_last) or its columns are contiguous, else a copy."""
    inner = _inner(channels_last)
    if x.shape[inner] == 1 or x.stride(inner) == 1:
        return x
    return layout.empty(x.shape, channels_last, x.dtype, x.device).copy_(x)


def _inner(channels_last: bool) -> int:
    return 1 if channels_last else 3
