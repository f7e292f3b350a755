"""Any factors and filters: one program computes outputs of one phase, whose taps meet pixels at the same distances."""

import triton
import triton.language as tl

from ganfuse.kernels.upfirdn2d.triton_tiles import cells, weight


@triton.jit
def _first_tap(phase, pad, UP: tl.constexpr, DOWN: tl.constexpr):
    """Of output `phase`: the first tap over a pixel, not an inserted zero, and the pixel that it is over."""
    tap = (pad - phase * DOWN) % UP
    # The remainder has the dividend's sign.
    tap = tl.where(tap < 0, tap + UP, tap)
    # Exact, so that rounding does not matter.
    return tap, (phase * DOWN - pad + tap) // UP


@triton.jit
def upfirdn2d_phases(
    x, f, y, gain, gain_low,
    planes, channel_units, height, width, out_height, out_width, pad_y, pad_x,
    stride_batch, stride_channel, stride_y, stride_x, tiles_y, tiles_x, columns_blocks,
    UP_Y: tl.constexpr, UP_X: tl.constexpr, DOWN_Y: tl.constexpr, DOWN_X: tl.constexpr,
    PERIOD_Y: tl.constexpr, PERIOD_X: tl.constexpr, STEP_Y: tl.constexpr, STEP_X: tl.constexpr,
    TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, FLIP: tl.constexpr, SEPARABLE: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
    UNIT: tl.constexpr, CHANNEL_UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y[c·PERIOD + phase] = gain · Σ_n f[first + n·UP] · x[c·STEP + pixel + n], on both axes.

    Strides come divided by UNIT.
    """
    channels = channel_units * CHANNEL_UNIT
    program = tl.program_id(0)
    phase = program % (PERIOD_Y * PERIOD_X)
    phase_y, phase_x = phase // PERIOD_X, phase % PERIOD_X
    batch, channel, cell_y, cell_x, there = cells(
        program // (PERIOD_Y * PERIOD_X), planes, channels, tiles_y, tiles_x, columns_blocks,
        BLOCK_P, BLOCK_Y, BLOCK_X, BLOCK_C, CHANNELS_LAST,
    )  # fmt: skip
    first_i, pixel_y = _first_tap(phase_y, pad_y, UP_Y, DOWN_Y)
    first_j, pixel_x = _first_tap(phase_x, pad_x, UP_X, DOWN_X)
    row = cell_y * STEP_Y + pixel_y
    column = cell_x * STEP_X + pixel_x
    pitch = tl.cast(stride_y, tl.int64) * UNIT
    origin = x + batch * (tl.cast(stride_batch, tl.int64) * UNIT) + row * pitch
    if CHANNELS_LAST:
        step = tl.cast(stride_x, tl.int64) * UNIT
        origin += column * step + channel
    else:
        step = tl.cast(1, tl.int64)
        origin += column + channel.to(tl.int64) * (tl.cast(stride_channel, tl.int64) * UNIT)
    total = tl.zeros(origin.shape, ACC)
    for n in range((TAPS_Y - first_i + UP_Y - 1) // UP_Y):
        inside = there & (row + n >= 0) & (row + n < height)
        for m in range((TAPS_X - first_j + UP_X - 1) // UP_X):
            mask = inside & (column + m >= 0) & (column + m < width)
            pixel = tl.load(origin + (n * pitch + m * step), mask=mask, other=0.0).to(ACC)
            i, j = first_i + n * UP_Y, first_j + m * UP_X
            total += pixel * weight(f, i, j, TAPS_Y, TAPS_X, FLIP, SEPARABLE, ACC)
    total *= tl.cast(gain, ACC) + tl.cast(gain_low, ACC)
    out_row = cell_y * PERIOD_Y + phase_y
    out_column = cell_x * PERIOD_X + phase_x
    kept = there & (out_row < out_height) & (out_column < out_width)
    if CHANNELS_LAST:
        target = y + ((batch * out_height + out_row) * out_width + out_column) * channels + channel
    else:
        target = y + ((batch * channels + channel) * out_height + out_row) * out_width + out_column
    tl.store(target, total.to(y.dtype.element_ty), mask=kept)
