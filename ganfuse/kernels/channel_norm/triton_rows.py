"""Instance norms of rows that stay on chip: one launch forward, which reads x once, and one pass backward.

The arithmetic is that of the kernels that take two passes, for statistics of a row; so are the coefficients kept.
"""

import triton
import triton.language as tl

from ganfuse.kernels.channel_norm.triton_backward_coefficients import put_carried
from ganfuse.kernels.channel_norm.triton_coefficients import channels_of
from ganfuse.kernels.channel_norm.triton_tiles import (
    activated,
    activation_slope,
    channel_vector,
    existing,
    locate_rows,
    over_positions,
    point,
    read,
    read_input,
    spread,
    write,
)


@triton.jit
def row_parameter(
    p, stride, index, sample, channel, rows_exist, MISSING: tl.constexpr, HAS: tl.constexpr, ACC: tl.constexpr
):
    """A (C,) (stride 0) or (B, C) parameter at the rows."""
    if HAS:
        return tl.load(p + sample * stride + channel, mask=rows_exist, other=0.0).to(ACC)
    else:
        return tl.zeros(index.shape, ACC) + MISSING


@triton.jit
def norm_rows(
    x, noise, strength, shift, y, gain, bias, coefficients, x_batch, x_pitch, y_batch, y_pitch,
    batch, channels, positions, gain_stride, bias_stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
    UNBIASED: tl.constexpr, EPS: tl.constexpr, HAS_GAIN: tl.constexpr, HAS_BIAS: tl.constexpr,
    NOISE: tl.constexpr = "", BIAS: tl.constexpr = False,
    PROLOGUE: tl.constexpr = "", PROLOGUE_SLOPE: tl.constexpr = 0.0,
):  # fmt: skip
    """y, and the planes slope, centre, offset and rstd of coefficients, of ROWS rows."""
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    index, sample, channel, rows_exist = locate_rows(tl.program_id(0), batch, channels, ROWS, CHANNELS_LAST)
    rows = batch * channels
    mask = existing(0, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
    power = channel_vector(strength, channel, rows_exist, NOISE != "", CHANNELS_LAST, ACC)
    moved = channel_vector(shift, channel, rows_exist, BIAS, CHANNELS_LAST, ACC)
    u, _, n = read_input(
        x, noise, power, moved, sample, channel, x_batch, x_pitch, 0, positions, mask,
        ROWS, BLOCK, UNIT, CHANNELS_LAST, EVEN, ACC, NOISE, PROLOGUE, PROLOGUE_SLOPE,
    )  # fmt: skip
    count = tl.cast(positions, ACC)
    mean = over_positions(u, CHANNELS_LAST) / count
    d = u - spread(mean, CHANNELS_LAST)
    if mask is not None:
        d = tl.where(mask, d, 0.0)
    # What rounding left in the mean of values far from 0 shows in the mean of the centred ones.
    rest = over_positions(d, CHANNELS_LAST) / count
    squares = over_positions(d * d, CHANNELS_LAST) - rest * rest * count
    divisor = tl.maximum(count - 1.0, 1.0) if UNBIASED else count
    rstd = 1.0 / tl.sqrt(tl.maximum(squares, 0.0) / divisor + EPS)
    slope = rstd * row_parameter(gain, gain_stride, index, sample, channel, rows_exist, 1.0, HAS_GAIN, ACC)
    offset = row_parameter(bias, bias_stride, index, sample, channel, rows_exist, 0.0, HAS_BIAS, ACC)
    z = spread(slope, CHANNELS_LAST) * d + spread(offset - slope * rest, CHANNELS_LAST)
    if NOISE != "" and PROLOGUE == "":
        z += power * n
    pointers = point(y, sample, channel, y_batch, y_pitch, 0, ROWS, BLOCK, UNIT, CHANNELS_LAST)
    write(pointers, activated(z, ACTIVATION, SLOPE), mask)
    tl.store(coefficients + index, slope, mask=rows_exist)
    tl.store(coefficients + rows + index, mean + rest, mask=rows_exist)
    tl.store(coefficients + 2 * rows + index, offset, mask=rows_exist)
    tl.store(coefficients + 3 * rows + index, rstd, mask=rows_exist)


@triton.jit
def norm_rows_backward(
    x, noise, strength, shift, grad, result, coefficients, on_gain, on_bias, on_strength, on_shift,
    x_batch, x_pitch, grad_batch, grad_pitch, result_batch, result_pitch, batch, channels, positions,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
    UNBIASED: tl.constexpr, GAIN: tl.constexpr, SUM_BIAS: tl.constexpr, STRENGTH: tl.constexpr, SHIFT: tl.constexpr,
    NOISE: tl.constexpr = "", BIAS: tl.constexpr = False,
    PROLOGUE: tl.constexpr = "", PROLOGUE_SLOPE: tl.constexpr = 0.0,
):  # fmt: skip
    """dx of ROWS rows, and per row the gradients of what a row has (where GAIN, SUM_BIAS, STRENGTH, SHIFT): (B·C)."""
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    index, sample, channel, rows_exist = locate_rows(tl.program_id(0), batch, channels, ROWS, CHANNELS_LAST)
    rows = batch * channels
    slope = tl.load(coefficients + index, mask=rows_exist, other=0.0)
    centre = spread(tl.load(coefficients + rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    offset = spread(tl.load(coefficients + 2 * rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    rstd = tl.load(coefficients + 3 * rows + index, mask=rows_exist, other=0.0)
    mask = existing(0, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
    power = channel_vector(strength, channel, rows_exist, NOISE != "", CHANNELS_LAST, ACC)
    moved = channel_vector(shift, channel, rows_exist, BIAS, CHANNELS_LAST, ACC)
    d, bent, n = read_input(
        x, noise, power, moved, sample, channel, x_batch, x_pitch, 0, positions, mask,
        ROWS, BLOCK, UNIT, CHANNELS_LAST, EVEN, ACC, NOISE, PROLOGUE, PROLOGUE_SLOPE,
    )  # fmt: skip
    d -= centre
    z = spread(slope, CHANNELS_LAST) * d + offset
    if NOISE != "" and PROLOGUE == "":
        z += power * n
    # Where there is nothing, grad is 0, and so is all that it is multiplied with.
    g = read(point(grad, sample, channel, grad_batch, grad_pitch, 0, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
    g *= activation_slope(z, ACTIVATION, SLOPE)
    ones = over_positions(g, CHANNELS_LAST)
    against = over_positions(g * d, CHANNELS_LAST) * rstd
    if GAIN:
        tl.store(on_gain + index, against.to(on_gain.dtype.element_ty), mask=rows_exist)
    if SUM_BIAS:
        tl.store(on_bias + index, ones.to(on_bias.dtype.element_ty), mask=rows_exist)
    if STRENGTH and PROLOGUE == "":
        tl.store(on_strength + index, over_positions(g * n, CHANNELS_LAST), mask=rows_exist)
    count = tl.cast(positions, ACC)
    divisor = tl.maximum(count - 1.0, 1.0) if UNBIASED else count
    g -= spread(ones / count, CHANNELS_LAST) + spread(against * rstd / divisor, CHANNELS_LAST) * d
    # Where there is nothing the slope of the prologue is 0 again.
    g *= spread(slope, CHANNELS_LAST) * bent
    pointers = point(result, sample, channel, result_batch, result_pitch, 0, ROWS, BLOCK, UNIT, CHANNELS_LAST)
    write(pointers, g, mask)
    if PROLOGUE != "":
        if STRENGTH:
            tl.store(on_strength + index, over_positions(g * n, CHANNELS_LAST), mask=rows_exist)
        if SHIFT:
            tl.store(on_shift + index, over_positions(g, CHANNELS_LAST), mask=rows_exist)


@triton.jit
def norm_row_totals(
    planes, on_gain, on_bias, on_strength, on_shift, batch, channels, width,
    GAIN: tl.constexpr, BIAS: tl.constexpr, STRENGTH: tl.constexpr, SHIFT: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """(C,) gradients from planes (4, B·C) of those of rows: gain, bias, strength, shift, where wanted."""
    channel, channel_exists = channels_of(channels, width, BLOCK_C)
    rows = batch * channels
    gains = row_total(planes, batch, channels, channel, channel_exists, GAIN, BLOCK_B, BLOCK_C, ACC)
    put_carried(on_gain, channel, channel_exists, gains, False, GAIN)
    biases = row_total(planes + rows, batch, channels, channel, channel_exists, BIAS, BLOCK_B, BLOCK_C, ACC)
    put_carried(on_bias, channel, channel_exists, biases, False, BIAS)
    powers = row_total(planes + 2 * rows, batch, channels, channel, channel_exists, STRENGTH, BLOCK_B, BLOCK_C, ACC)
    put_carried(on_strength, channel, channel_exists, powers, False, STRENGTH)
    shifts = row_total(planes + 3 * rows, batch, channels, channel, channel_exists, SHIFT, BLOCK_B, BLOCK_C, ACC)
    put_carried(on_shift, channel, channel_exists, shifts, False, SHIFT)


@triton.jit
def row_total(
    plane, batch, channels, channel, channel_exists,
    WANTED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A plane's sum over the batch."""
    total = tl.zeros((BLOCK_C,), ACC)
    if WANTED:
        lane = tl.arange(0, BLOCK_B)
        for start in range(0, batch, BLOCK_B):
            sample = start + lane
            there = (sample < batch)[:, None] & channel_exists[None, :]
            total += tl.sum(
                tl.load(plane + sample[:, None] * channels + channel[None, :], mask=there, other=0.0), axis=0
            )
    return total
