"""A modulated convolution of channels_last maps as one product of matrices, all that surrounds it in registers.

Rows are positions of all samples one after the other, columns output channels, and the sum runs over taps and input
channels; the input is scaled by its sample's styles on the way to the product, and what the product leaves is
demodulated, gets noise and bias, and is activated before it is written.
"""

import triton
import triton.language as tl

from ganfuse.kernels.bias_act.triton_pointwise import pin
from ganfuse.kernels.scaled_bias_act.triton_epilogue import result


@triton.jit
def modulated_gemm(
    x, weight, styles, factors, noise, b, y,
    x_batch, x_row, x_pitch, y_batch, y_pitch, noise_batch,
    batch, height, width, out_height, out_width, input_units, output_units, pad_top, pad_left,
    alpha, gain, limit,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, UNIT: tl.constexpr,
    TAPS: tl.constexpr, TAPS_X: tl.constexpr, EVEN_K: tl.constexpr, EVEN_N: tl.constexpr, MIXED: tl.constexpr,
    DEMODULATE: tl.constexpr, NOISE: tl.constexpr, BIAS: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M positions × BLOCK_N outputs. weight is (taps, O, I).

    MIXED: a block of positions may belong to several samples, and each row has its own styles.
    Programs that share their positions follow one another, so that what they read of x is still in the cache.
    """
    inputs = input_units * UNIT
    outputs = output_units * UNIT
    blocks = tl.cdiv(outputs, BLOCK_N)
    pid = tl.program_id(0)
    positions = out_height * out_width
    m = (pid // blocks).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (pid % blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    m_exists = m < tl.cast(batch, tl.int64) * positions
    n_exists = n < outputs
    sample = m // positions
    position = (m % positions).to(tl.int32)
    row = position // out_width - pad_top
    column = position % out_width - pad_left
    if MIXED:
        # Rows that are not there read what the first one does.
        own = tl.where(m_exists, sample, 0)
    else:
        own = (pid // blocks).to(tl.int64) * BLOCK_M // positions
    x_first = x + sample * (x_batch * UNIT)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    k_blocks = tl.cdiv(inputs, BLOCK_K)
    for step in range(TAPS * k_blocks):
        tap = step // k_blocks
        channel = (step % k_blocks) * BLOCK_K + k
        r = row + tap // TAPS_X
        c = column + tap % TAPS_X
        inside = m_exists & (r >= 0) & (r < height) & (c >= 0) & (c < width)
        pixel = x_first + r.to(tl.int64) * (x_row * UNIT) + c.to(tl.int64) * (x_pitch * UNIT)
        x_mask = inside[:, None]
        w_mask = n_exists[None, :]
        s_mask = channel < inputs
        if not EVEN_K:
            x_mask = x_mask & s_mask[None, :]
            w_mask = w_mask & s_mask[:, None]
        tile = tl.load(pixel[:, None] + channel[None, :], mask=x_mask, other=0.0)
        if MIXED:
            scale = tl.load(
                styles + own[:, None] * inputs + channel[None, :], mask=m_exists[:, None] & s_mask[None, :], other=0.0
            )
        else:
            scale = tl.load(styles + own * inputs + channel, mask=s_mask, other=0.0)[None, :]
        w_pointers = weight + (tap * outputs + n).to(tl.int64)[None, :] * inputs + channel[:, None]
        if EVEN_K and EVEN_N:
            kernel = tl.load(w_pointers)
        else:
            kernel = tl.load(w_pointers, mask=w_mask, other=0.0)
        scaled = (tile.to(tl.float32) * scale).to(tile.dtype)
        total = tl.dot(scaled, kernel, total, input_precision=PRECISION)
    u = total
    if DEMODULATE:
        if MIXED:
            mask = m_exists[:, None] & n_exists[None, :]
            u *= tl.load(factors + own[:, None] * outputs + n[None, :], mask=mask, other=0.0)
        else:
            u *= tl.load(factors + own * outputs + n, mask=n_exists, other=0.0)[None, :]
    if NOISE:
        u += tl.load(noise + sample * noise_batch + position, mask=m_exists, other=0.0)[:, None]
    if BIAS:
        u += tl.load(b + n, mask=n_exists, other=0.0)[None, :]
    zero: tl.constexpr = 0.0
    u = result(u, pin(alpha, zero, tl.float32), pin(gain, zero, tl.float32), pin(limit, zero, tl.float32), ACT, CLAMP)
    pointers = y + (sample * (y_batch * UNIT) + position.to(tl.int64) * (y_pitch * UNIT))[:, None] + n[None, :]
    tl.store(pointers, u.to(y.dtype.element_ty), mask=m_exists[:, None] & n_exists[None, :])
