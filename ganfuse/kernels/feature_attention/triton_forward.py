"""Forward kernel: online softmax (Dao et al. 2022, FlashAttention, algorithm 1), keeping the row log-sum-exp."""

import triton
import triton.language as tl

from ganfuse.kernels.feature_attention.triton_tiles import (
    add_product,
    load_tile,
    locate,
    pin,
    product,
    skip_channels,
    skip_tokens,
    store_row,
    store_tile,
    visible,
)


@triton.jit
def attention_forward(
    query, key, value, output, log_sum_exp,
    q_batch, q_head, q_pitch, k_batch, k_head, k_pitch,
    v_batch, v_head, v_pitch, o_batch, o_head, o_pitch,
    exponent_scale, exponent_scale_low,  # scale · log2(e)
    heads, num_queries, num_keys,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, UNIT_D: tl.constexpr, UNIT_E: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, CAUSAL: tl.constexpr, EVEN_N: tl.constexpr, EVEN_M: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_N queries of one (batch, head), one chunk of BLOCK_E value channels.

    query (N, D), key (M, D), value (M, E), output (N, E); log_sum_exp (batch · heads, N), in base 2.
    """
    PACKED_D: tl.constexpr = D == BLOCK_D
    PACKED_E: tl.constexpr = E % BLOCK_E == 0
    tiles = tl.cdiv(num_queries, BLOCK_N)
    pid = tl.program_id(0)
    sample = (pid // tiles).to(tl.int64)
    batch, head = sample // heads, sample % heads
    start = (pid % tiles) * BLOCK_N
    first_channel = tl.program_id(1) * BLOCK_E
    left = num_queries - start
    scale = pin(exponent_scale, exponent_scale_low, ACC)

    query = locate(query, batch, head, start.to(tl.int64), q_batch, q_head, q_pitch, UNIT_D, CHANNELS_LAST)
    q = load_tile(query, q_pitch, left, D, BLOCK_N, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_N, PACKED_D)
    key = locate(key, batch, head, 0, k_batch, k_head, k_pitch, UNIT_D, CHANNELS_LAST)
    value = locate(value, batch, head, 0, v_batch, v_head, v_pitch, UNIT_E, CHANNELS_LAST)
    output = locate(output, batch, head, start.to(tl.int64), o_batch, o_head, o_pitch, UNIT_E, CHANNELS_LAST)
    value = skip_channels(value, first_channel, v_pitch, UNIT_E, CHANNELS_LAST)
    output = skip_channels(output, first_channel, o_pitch, UNIT_E, CHANNELS_LAST)
    channels_left = E - first_channel

    row_max = tl.full((BLOCK_N,), float("-inf"), ACC)
    row_sum = tl.zeros((BLOCK_N,), ACC)
    accumulator = tl.zeros((BLOCK_N, BLOCK_E), ACC)
    end = num_keys
    if CAUSAL:
        end = tl.minimum(num_keys, start + BLOCK_N)
    for keys_start in range(0, end, BLOCK_M):
        keys_left = num_keys - keys_start
        k = load_tile(key, k_pitch, keys_left, D, BLOCK_M, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_M, PACKED_D)
        scores = product(q, tl.trans(k), ACC, PRECISION) * scale
        if CAUSAL or not EVEN_M:
            keep = visible(start, keys_start, num_keys, BLOCK_N, BLOCK_M, EVEN_M, CAUSAL)
            scores = tl.where(keep, scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        p = tl.exp2(scores - new_max[:, None])
        shrink = tl.exp2(row_max - new_max)
        row_sum = row_sum * shrink + tl.sum(p, 1)
        accumulator = accumulator * shrink[:, None]
        v = load_tile(
            value, v_pitch, keys_left, channels_left, BLOCK_M, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_M, PACKED_E
        )
        accumulator = add_product(p, v, accumulator, ACC, PRECISION)
        row_max = new_max
        key = skip_tokens(key, BLOCK_M, k_pitch, UNIT_D, CHANNELS_LAST)
        value = skip_tokens(value, BLOCK_M, v_pitch, UNIT_E, CHANNELS_LAST)

    accumulator = accumulator / row_sum[:, None]
    store_tile(
        output, accumulator, o_pitch, left, channels_left, BLOCK_N, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_N, PACKED_E
    )
    if first_channel == 0:
        rows = log_sum_exp + sample * num_queries + start
        store_row(rows, row_max + tl.log2(row_sum), left, BLOCK_N, EVEN_N)
