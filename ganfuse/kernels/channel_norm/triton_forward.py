"""The two passes of the forward: statistics of rows, and affine + activation."""

import triton
import triton.language as tl

from ganfuse.kernels.channel_norm.triton_tiles import (
    activated,
    channel_vector,
    existing,
    locate_rows,
    over_positions,
    point,
    read_input,
    spread,
    write,
)


@triton.jit
def norm_statistics(
    x, noise, strength, shift, partials, x_batch, x_pitch, batch, channels, positions, splits, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr,
    NOISE: tl.constexpr = "", BIAS: tl.constexpr = False,
    PROLOGUE: tl.constexpr = "", PROLOGUE_SLOPE: tl.constexpr = 0.0,
):  # fmt: skip
    """One program: mean and centred square sum of a chunk of ROWS rows, into partials (2, splits, B·C).

    Each tile is centred at its own mean in registers; tiles are joined as in Chan et al. 1979, so that a mean that is
    large beside the deviation costs no digits.
    """
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    split = tl.program_id(1)
    index, sample, channel, rows_exist = locate_rows(tl.program_id(0), batch, channels, ROWS, CHANNELS_LAST)
    power = channel_vector(strength, channel, rows_exist, NOISE != "", CHANNELS_LAST, ACC)
    moved = channel_vector(shift, channel, rows_exist, BIAS, CHANNELS_LAST, ACC)
    mean = tl.zeros((ROWS,), ACC)
    squares = tl.zeros((ROWS,), ACC)
    first = split * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        tile, _, _ = read_input(
            x, noise, power, moved, sample, channel, x_batch, x_pitch, start, positions, mask,
            ROWS, BLOCK, UNIT, CHANNELS_LAST, EVEN, ACC, NOISE, PROLOGUE, PROLOGUE_SLOPE,
        )  # fmt: skip
        count = tl.minimum(positions - start, BLOCK).to(ACC)
        before = (start - first).to(ACC)
        tile_mean = over_positions(tile, CHANNELS_LAST) / count
        centred = tile - spread(tile_mean, CHANNELS_LAST)
        if not EVEN:
            there = tl.arange(0, BLOCK) < positions - start
            centred = tl.where(spread(there, not CHANNELS_LAST), centred, 0.0)
        delta = tile_mean - mean
        share = count / (before + count)
        mean += delta * share
        squares += over_positions(centred * centred, CHANNELS_LAST) + delta * delta * (before * share)
    rows = batch * channels
    tl.store(partials + split * rows + index, mean, mask=rows_exist)
    tl.store(partials + (splits + split) * rows + index, squares, mask=rows_exist)


@triton.jit
def norm_apply(
    x, noise, strength, shift, y, coefficients, x_batch, x_pitch, y_batch, y_pitch, batch, channels, positions, chunk,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN: tl.constexpr, EVEN_ROWS: tl.constexpr, ACC: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
    NOISE: tl.constexpr = "", BIAS: tl.constexpr = False,
    PROLOGUE: tl.constexpr = "", PROLOGUE_SLOPE: tl.constexpr = 0.0,
):  # fmt: skip
    """y = act(slope·(u − centre) + offset (+ strength·noise)) on a chunk of ROWS rows.

    coefficients are (3 or more, B·C), in that order.
    """
    if CHANNELS_LAST:
        channels = channels * UNIT
    else:
        positions = positions * UNIT
    index, sample, channel, rows_exist = locate_rows(tl.program_id(0), batch, channels, ROWS, CHANNELS_LAST)
    rows = batch * channels
    # Planes are slope, centre, offset: allocation.SLOPE and so on.
    slope = spread(tl.load(coefficients + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    centre = spread(tl.load(coefficients + rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    offset = spread(tl.load(coefficients + 2 * rows + index, mask=rows_exist, other=0.0), CHANNELS_LAST)
    power = channel_vector(strength, channel, rows_exist, NOISE != "", CHANNELS_LAST, ACC)
    moved = channel_vector(shift, channel, rows_exist, BIAS, CHANNELS_LAST, ACC)
    first = tl.program_id(1) * chunk
    for start in range(first, tl.minimum(first + chunk, positions), BLOCK):
        mask = existing(start, positions, rows_exist, BLOCK, CHANNELS_LAST, EVEN, EVEN_ROWS)
        tile, _, n = read_input(
            x, noise, power, moved, sample, channel, x_batch, x_pitch, start, positions, mask,
            ROWS, BLOCK, UNIT, CHANNELS_LAST, EVEN, ACC, NOISE, PROLOGUE, PROLOGUE_SLOPE,
        )  # fmt: skip
        z = slope * (tile - centre) + offset
        if NOISE != "" and PROLOGUE == "":
            z += power * n
        pointers = point(y, sample, channel, y_batch, y_pitch, start, ROWS, BLOCK, UNIT, CHANNELS_LAST)
        write(pointers, activated(z, ACTIVATION, SLOPE), mask)
