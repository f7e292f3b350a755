"""The two passes of the first backward: sums of each row, and the gradient of x.

With d = x − centre, z = slope·d + offset and g = act'(z)·dy; the activation's mask is recomputed, never stored.
"""

import triton
import triton.language as tl

from ganfuse.kernels.channel_norm.triton_tiles import (
    activation_slope,
    blank,
    existing,
    locate_rows,
    over_positions,
    point,
    read,
    spread,
    write,
)


@triton.jit
def norm_sums(
    x, grad, coefficients, partials, x_batch, x_pitch, grad_batch, grad_pitch,
    batch, channels, positions, splits, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """Σg and Σg·d over a chunk of ROWS rows, into partials (2, splits, B·C)."""
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    split = tl.program_id(1)
    index, sample, channel, rows_exist = locate_rows(tl.program_id(0), batch, channels, ROWS, CHANNELS_LAST)
    rows = batch * channels
    slope = spread(tl.load(coefficients + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    centre = spread(tl.load(coefficients + rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    offset = spread(tl.load(coefficients + 2 * rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    ones = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    centred = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    first = split * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        d = read(point(x, sample, channel, x_batch, x_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
        d -= centre
        pointers = point(grad, sample, channel, grad_batch, grad_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        # Where there is nothing, grad is 0, and so is all that it is multiplied with.
        g = read(pointers, mask, ACC) * activation_slope(slope * d + offset, ACTIVATION, SLOPE)
        ones += g
        centred += g * d
    tl.store(partials + split * rows + index, over_positions(ones, CHANNELS_LAST), mask=rows_exist)
    tl.store(partials + (splits + split) * rows + index, over_positions(centred, CHANNELS_LAST), mask=rows_exist)


@triton.jit
def norm_apply_backward(
    x, grad, result, coefficients, linears, x_batch, x_pitch, grad_batch, grad_pitch, result_batch, result_pitch,
    batch, channels, positions, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """dx = slope·g + constant + linear·d on a chunk of ROWS rows; linears (2, B·C) is (constant, linear)."""
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    index, sample, channel, rows_exist = locate_rows(tl.program_id(0), batch, channels, ROWS, CHANNELS_LAST)
    rows = batch * channels
    slope = spread(tl.load(coefficients + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    centre = spread(tl.load(coefficients + rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    offset = spread(tl.load(coefficients + 2 * rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    constant = spread(tl.load(linears + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    linear = spread(tl.load(linears + rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        d = read(point(x, sample, channel, x_batch, x_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
        d -= centre
        pointers = point(grad, sample, channel, grad_batch, grad_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        g = read(pointers, mask, ACC) * activation_slope(slope * d + offset, ACTIVATION, SLOPE)
        pointers = point(result, sample, channel, result_batch, result_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        write(pointers, slope * g + (constant + linear * d), mask)
