"""The two passes of the first backward: sums of each row, and the gradient of x.

With u = x or what a prologue makes of it, d = u − centre, z = slope·d + offset (+ strength·noise) and g = act'(z)·dy.
The activation's mask is recomputed, never stored.
"""

import triton
import triton.language as tl

from ganfuse.kernels.channel_norm.triton_tiles import (
    activation_slope,
    blank,
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
def norm_sums(
    x, noise, strength, shift, grad, coefficients, partials, x_batch, x_pitch, grad_batch, grad_pitch,
    batch, channels, positions, splits, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
    NOISE: tl.constexpr = "", BIAS: tl.constexpr = False,
    PROLOGUE: tl.constexpr = "", PROLOGUE_SLOPE: tl.constexpr = 0.0,
):  # fmt: skip
    """Σg and Σg·d over a chunk of ROWS rows, into partials (count, splits, B·C).

    Third Σg·noise, of noise after the affine map. Of a prologue, whose slopes are p, third Σg·p, Σp and Σp·d, and with
    noise Σg·p·noise, Σp·noise and Σp·d·noise: what dx = p·(slope·g + constant + linear·d) sums to, alone and against
    the noise, for the gradients of the prologue's bias and of the noise's strength.
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
    power = channel_vector(strength, channel, rows_exist, NOISE != "", CHANNELS_LAST, ACC)
    moved = channel_vector(shift, channel, rows_exist, BIAS, CHANNELS_LAST, ACC)
    ones = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    centred = blank(ROWS, BLOCK, CHANNELS_LAST, ACC)
    against = tl.zeros((ROWS,), ACC)
    bents = tl.zeros((ROWS,), ACC)
    bents_d = tl.zeros((ROWS,), ACC)
    against_n = tl.zeros((ROWS,), ACC)
    bents_n = tl.zeros((ROWS,), ACC)
    bents_dn = tl.zeros((ROWS,), ACC)
    first = split * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        d, bent, n = read_input(
            x, noise, power, moved, sample, channel, x_batch, x_pitch, start, positions, mask,
            ROWS, BLOCK, UNIT, CHANNELS_LAST, EVEN, ACC, NOISE, PROLOGUE, PROLOGUE_SLOPE,
        )  # fmt: skip
        d -= centre
        z = slope * d + offset
        if NOISE != "" and PROLOGUE == "":
            z += power * n
        pointers = point(grad, sample, channel, grad_batch, grad_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        # Where there is nothing, grad is 0, and so is all that it is multiplied with.
        g = read(pointers, mask, ACC) * activation_slope(z, ACTIVATION, SLOPE)
        ones += g
        centred += g * d
        if PROLOGUE != "":
            # A sum over the tile at once: eight tiles of running sums would spill.
            against += over_positions(g * bent, CHANNELS_LAST)
            bents += over_positions(bent, CHANNELS_LAST)
            bents_d += over_positions(bent * d, CHANNELS_LAST)
            if NOISE != "":
                bent *= n
                against_n += over_positions(g * bent, CHANNELS_LAST)
                bents_n += over_positions(bent, CHANNELS_LAST)
                bents_dn += over_positions(bent * d, CHANNELS_LAST)
        elif NOISE != "":
            against_n += over_positions(g * n, CHANNELS_LAST)
    place = partials + split * rows + index
    step = splits * rows
    tl.store(place, over_positions(ones, CHANNELS_LAST), mask=rows_exist)
    tl.store(place + step, over_positions(centred, CHANNELS_LAST), mask=rows_exist)
    if PROLOGUE != "":
        tl.store(place + 2 * step, against, mask=rows_exist)
        tl.store(place + 3 * step, bents, mask=rows_exist)
        tl.store(place + 4 * step, bents_d, mask=rows_exist)
        if NOISE != "":
            tl.store(place + 5 * step, against_n, mask=rows_exist)
            tl.store(place + 6 * step, bents_n, mask=rows_exist)
            tl.store(place + 7 * step, bents_dn, mask=rows_exist)
    elif NOISE != "":
        tl.store(place + 2 * step, against_n, mask=rows_exist)


@triton.jit
def norm_apply_backward(
    x, noise, strength, shift, grad, result, coefficients, linears,
    x_batch, x_pitch, grad_batch, grad_pitch, result_batch, result_pitch,
    batch, channels, positions, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
    NOISE: tl.constexpr = "", BIAS: tl.constexpr = False,
    PROLOGUE: tl.constexpr = "", PROLOGUE_SLOPE: tl.constexpr = 0.0,
):  # fmt: skip
    """dx = p·(slope·g + constant + linear·d) on a chunk of ROWS rows, p the slopes of the prologue or 1.

    linears (2, B·C) is (constant, linear).
    """
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
    power = channel_vector(strength, channel, rows_exist, NOISE != "", CHANNELS_LAST, ACC)
    moved = channel_vector(shift, channel, rows_exist, BIAS, CHANNELS_LAST, ACC)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        d, bent, n = read_input(
            x, noise, power, moved, sample, channel, x_batch, x_pitch, start, positions, mask,
            ROWS, BLOCK, UNIT, CHANNELS_LAST, EVEN, ACC, NOISE, PROLOGUE, PROLOGUE_SLOPE,
        )  # fmt: skip
        d -= centre
        z = slope * d + offset
        if NOISE != "" and PROLOGUE == "":
            z += power * n
        pointers = point(grad, sample, channel, grad_batch, grad_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        g = read(pointers, mask, ACC) * activation_slope(z, ACTIVATION, SLOPE)
        pointers = point(result, sample, channel, result_batch, result_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        write(pointers, (slope * g + (constant + linear * d)) * bent, mask)
