"""Cells of two by two outputs, all taps unrolled: what upsampling and downsampling by 2, and blurring, are made of.

Every pixel is read once for the four outputs, and no inserted zero is multiplied.
"""

import triton
import triton.language as tl

from ganfuse.kernels.upfirdn2d.triton_tiles import cells, weight


@triton.jit
def _add(
    total, pixel, f, i: tl.constexpr, j: tl.constexpr,
    TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, FLIP: tl.constexpr, SEPARABLE: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """`total` with the pixel under tap (i, j), if there is such a tap."""
    if i >= 0 and i < TAPS_Y and j >= 0 and j < TAPS_X:
        total += pixel * weight(f, i, j, TAPS_Y, TAPS_X, FLIP, SEPARABLE, ACC)
    return total


@triton.jit
def upfirdn2d_quads(
    x, f, y, gain, gain_low,
    planes, channel_units, height, width, out_height, out_width_units, offset_y, offset_x,
    stride_batch, stride_channel, stride_y, stride_x, tiles_y, tiles_x, columns_blocks,
    UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    PHASE_Y: tl.constexpr, PHASE_X: tl.constexpr, STEP_Y: tl.constexpr, STEP_X: tl.constexpr,
    REACH_Y: tl.constexpr, REACH_X: tl.constexpr, TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr,
    FLIP: tl.constexpr, SEPARABLE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
    UNIT: tl.constexpr, CHANNEL_UNIT: tl.constexpr, WIDTH_UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y[2c + k] = gain · Σ f[t·UP + PHASE − k·DOWN] · x[c·STEP − offset + t], on both axes, for k in (0, 1).

    x is read at t in [0, REACH). Strides come divided by UNIT.
    """
    channels = channel_units * CHANNEL_UNIT
    out_width = out_width_units * WIDTH_UNIT
    batch, channel, cell_y, cell_x, there = cells(
        tl.program_id(0), planes, channels, tiles_y, tiles_x, columns_blocks,
        BLOCK_P, BLOCK_Y, BLOCK_X, BLOCK_C, CHANNELS_LAST,
    )  # fmt: skip
    row = cell_y * STEP_Y - offset_y
    column = cell_x * STEP_X - offset_x
    pitch = tl.cast(stride_y, tl.int64) * UNIT
    if CHANNELS_LAST:
        step = tl.cast(stride_x, tl.int64) * UNIT
        first = x + batch * (tl.cast(stride_batch, tl.int64) * UNIT) + row * pitch + column * step + channel
    else:
        step = 1
        first = x + batch * (tl.cast(stride_batch, tl.int64) * UNIT) + row * pitch + column
        first += channel.to(tl.int64) * (tl.cast(stride_channel, tl.int64) * UNIT)
    y00 = tl.zeros(first.shape, ACC)
    y01 = tl.zeros(first.shape, ACC)
    y10 = tl.zeros(first.shape, ACC)
    y11 = tl.zeros(first.shape, ACC)
    for t in tl.static_range(0, REACH_Y):
        if t * UP_Y + PHASE_Y < TAPS_Y or (t * UP_Y + PHASE_Y >= DOWN_Y and t * UP_Y + PHASE_Y < DOWN_Y + TAPS_Y):
            inside = there & (row + t >= 0) & (row + t < height)
            for s in tl.static_range(0, REACH_X):
                if s * UP_X + PHASE_X < TAPS_X or (
                    s * UP_X + PHASE_X >= DOWN_X and s * UP_X + PHASE_X < DOWN_X + TAPS_X
                ):
                    mask = inside & (column + s >= 0) & (column + s < width)
                    pixel = tl.load(first + (t * pitch + s * step), mask=mask, other=0.0).to(ACC)
                    y00 = _add(
                        y00, pixel, f, t * UP_Y + PHASE_Y, s * UP_X + PHASE_X, TAPS_Y, TAPS_X, FLIP, SEPARABLE, ACC
                    )
                    y01 = _add(
                        y01, pixel, f, t * UP_Y + PHASE_Y, s * UP_X + PHASE_X - DOWN_X,
                        TAPS_Y, TAPS_X, FLIP, SEPARABLE, ACC,
                    )  # fmt: skip
                    y10 = _add(
                        y10, pixel, f, t * UP_Y + PHASE_Y - DOWN_Y, s * UP_X + PHASE_X,
                        TAPS_Y, TAPS_X, FLIP, SEPARABLE, ACC,
                    )  # fmt: skip
                    y11 = _add(
                        y11, pixel, f, t * UP_Y + PHASE_Y - DOWN_Y, s * UP_X + PHASE_X - DOWN_X,
                        TAPS_Y, TAPS_X, FLIP, SEPARABLE, ACC,
                    )  # fmt: skip
    factor = tl.cast(gain, ACC) + tl.cast(gain_low, ACC)
    dtype = y.dtype.element_ty
    for k in tl.static_range(2):
        out_row = 2 * cell_y + k
        left = (y00 if k == 0 else y10) * factor
        right = (y01 if k == 0 else y11) * factor
        kept = there & (out_row < out_height)
        if CHANNELS_LAST:
            place = (batch * out_height + out_row) * out_width + 2 * cell_x
            target = y + place * channels + channel
            tl.store(target, left.to(dtype), mask=kept & (2 * cell_x < out_width))
            tl.store(target + channels, right.to(dtype), mask=kept & (2 * cell_x + 1 < out_width))
        else:
            # Side by side in memory, so that stores are wide.
            both = tl.interleave(left.to(dtype), right.to(dtype))
            tile_x = tl.program_id(0) % tiles_x
            out_column = (tile_x * (2 * BLOCK_X) + tl.arange(0, 2 * BLOCK_X))[None, :]
            target = y + ((batch * channels + channel) * out_height + out_row) * out_width + out_column
            tl.store(target, both, mask=kept & (out_column < out_width))
