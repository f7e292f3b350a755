"""The two passes of the second backward: five sums of each row (ten for silu), and ∂dy and ∂x together."""

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
    silu_bend,
    spread,
    write,
)


@triton.jit
def norm_double_sums(
    x, grad, h, coefficients, partials, x_batch, x_pitch, grad_batch, grad_pitch, h_batch, h_pitch,
    batch, channels, positions, splits, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """Σg, Σg·d, Σh, Σh·d, Σh·g; for silu, with e = silu''(z)·dy, also Σe, Σe·d, Σe·d², Σe·h, Σe·h·d.

    Into partials (5 or 10, splits, B·C).
    """
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
    sum_g = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    sum_gd = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    sum_h = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    sum_hd = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    sum_hg = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    if ACTIVATION == "silu":
        sum_e = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
        sum_ed = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
        sum_edd = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
        sum_eh = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
        sum_ehd = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    first = split * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        d = read(point(x, sample, channel, x_batch, x_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
        d -= centre
        z = slope * d + offset
        pointers = point(grad, sample, channel, grad_batch, grad_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        dy = read(pointers, mask, ACC)
        # Where there is nothing, dy and h are 0, and so is all that they are multiplied with.
        t = read(point(h, sample, channel, h_batch, h_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
        g = dy * activation_slope(z, ACTIVATION, SLOPE)
        sum_g += g
        sum_gd += g * d
        sum_h += t
        sum_hd += t * d
        sum_hg += t * g
        if ACTIVATION == "silu":
            e = dy * silu_bend(z)
            ed = e * d
            sum_e += e
            sum_ed += ed
            sum_edd += ed * d
            sum_eh += e * t
            sum_ehd += ed * t
    place = partials + split * rows + index
    step = splits * rows
    tl.store(place, over_positions(sum_g, CHANNELS_LAST), mask=rows_exist)
    tl.store(place + step, over_positions(sum_gd, CHANNELS_LAST), mask=rows_exist)
    tl.store(place + 2 * step, over_positions(sum_h, CHANNELS_LAST), mask=rows_exist)
    tl.store(place + 3 * step, over_positions(sum_hd, CHANNELS_LAST), mask=rows_exist)
    tl.store(place + 4 * step, over_positions(sum_hg, CHANNELS_LAST), mask=rows_exist)
    if ACTIVATION == "silu":
        tl.store(place + 5 * step, over_positions(sum_e, CHANNELS_LAST), mask=rows_exist)
        tl.store(place + 6 * step, over_positions(sum_ed, CHANNELS_LAST), mask=rows_exist)
        tl.store(place + 7 * step, over_positions(sum_edd, CHANNELS_LAST), mask=rows_exist)
        tl.store(place + 8 * step, over_positions(sum_eh, CHANNELS_LAST), mask=rows_exist)
        tl.store(place + 9 * step, over_positions(sum_ehd, CHANNELS_LAST), mask=rows_exist)


@triton.jit
def norm_apply_double_backward(
    x, grad, h, on_grad, on_x, coefficients, second,
    x_batch, x_pitch, grad_batch, grad_pitch, h_batch, h_pitch, result_batch, result_pitch,
    batch, channels, positions, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
    GRAD: tl.constexpr, X: tl.constexpr,
):  # fmt: skip
    """∂dy (if GRAD) and ∂x (if X), which have the same strides; second (6, B·C) as in `algebra.Second`."""
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    index, sample, channel, rows_exist = locate_rows(tl.program_id(0), batch, channels, ROWS, CHANNELS_LAST)
    rows = batch * channels
    slope = spread(tl.load(coefficients + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    centre = spread(tl.load(coefficients + rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    offset = spread(tl.load(coefficients + 2 * rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    q_linear = spread(tl.load(second + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    q_constant = spread(tl.load(second + rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    by_g = spread(tl.load(second + 2 * rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    by_h = spread(tl.load(second + 3 * rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    linear = spread(tl.load(second + 4 * rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    constant = spread(tl.load(second + 5 * rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        d = read(point(x, sample, channel, x_batch, x_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
        d -= centre
        z = slope * d + offset
        t = read(point(h, sample, channel, h_batch, h_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST), mask, ACC)
        q = slope * t + (q_linear * d + q_constant)
        bent = activation_slope(z, ACTIVATION, SLOPE)
        if GRAD:
            pointers = point(
                on_grad, sample, channel, result_batch, result_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST
            )
            write(pointers, bent * q, mask)
        if X:
            pointers = point(grad, sample, channel, grad_batch, grad_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
            dy = read(pointers, mask, ACC)
            total = by_g * (dy * bent) + by_h * t + (linear * d + constant)
            if ACTIVATION == "silu":
                total += slope * q * (dy * silu_bend(z))
            pointers = point(on_x, sample, channel, result_batch, result_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
            write(pointers, total, mask)
