"""First backward: with P the weights, δ = rowsum(do∘o), dP = do vᵀ and dS = P∘(dP − δ),

dq = s·dS k, dk = s·dSᵀ q, dv = Pᵀ do (Dao et al. 2022, FlashAttention, section B.2), P recomputed tile by tile.
One kernel walks the keys for a tile of queries, one walks the queries for a tile of keys: no atomics.
"""

import triton
import triton.language as tl

from ganfuse.kernels.feature_attention.triton_tiles import (
    add_product,
    load_row,
    load_tile,
    locate,
    pin,
    product,
    skip_channels,
    skip_tokens,
    store_row,
    store_tile,
    weights,
    wide_product,
    wide_row_product,
)


@triton.jit
def attention_backward_query(
    query, key, value, output, grad_output, log_sum_exp, delta, grad_query,
    q_batch, q_head, q_pitch, k_batch, k_head, k_pitch, v_batch, v_head, v_pitch,
    o_batch, o_head, o_pitch, do_batch, do_head, do_pitch, dq_batch, dq_head, dq_pitch,
    scale, scale_low, exponent_scale, exponent_scale_low, heads, num_queries, num_keys,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, UNIT_D: tl.constexpr, UNIT_E: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, CAUSAL: tl.constexpr, EVEN_N: tl.constexpr, EVEN_M: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, WITH_GRAD: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """One program: δ and, WITH_GRAD, the gradient of BLOCK_N queries (WIDE: of one chunk of its channels)."""
    PACKED_D: tl.constexpr = D % BLOCK_D == 0
    PACKED_E: tl.constexpr = E % BLOCK_E == 0
    tiles = tl.cdiv(num_queries, BLOCK_N)
    pid = tl.program_id(0)
    sample = (pid // tiles).to(tl.int64)
    batch, head = sample // heads, sample % heads
    start = (pid % tiles) * BLOCK_N
    start64 = start.to(tl.int64)
    left = num_queries - start
    rows = sample * num_queries + start

    output = locate(output, batch, head, start64, o_batch, o_head, o_pitch, UNIT_E, CHANNELS_LAST)
    grad_output = locate(grad_output, batch, head, start64, do_batch, do_head, do_pitch, UNIT_E, CHANNELS_LAST)
    if WIDE:
        row_delta = wide_row_product(
            grad_output, do_pitch, output, o_pitch, left, E, BLOCK_E, BLOCK_N, UNIT_E, CHANNELS_LAST, EVEN_N, ACC
        )
    else:
        do = load_tile(grad_output, do_pitch, left, E, BLOCK_N, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_N, PACKED_E)
        o = load_tile(output, o_pitch, left, E, BLOCK_N, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_N, PACKED_E)
        row_delta = tl.sum(do.to(ACC) * o.to(ACC), 1)
    first_channel = tl.program_id(1) * BLOCK_D
    channels_left = D - first_channel
    if first_channel == 0:
        store_row(delta + rows, row_delta, left, BLOCK_N, EVEN_N)

    if WITH_GRAD:
        exponent = pin(exponent_scale, exponent_scale_low, ACC)
        query = locate(query, batch, head, start64, q_batch, q_head, q_pitch, UNIT_D, CHANNELS_LAST)
        if not WIDE:
            q = load_tile(query, q_pitch, left, D, BLOCK_N, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_N, PACKED_D)
        lse = load_row(log_sum_exp + rows, left, float("inf"), BLOCK_N, EVEN_N)
        key = locate(key, batch, head, 0, k_batch, k_head, k_pitch, UNIT_D, CHANNELS_LAST)
        value = locate(value, batch, head, 0, v_batch, v_head, v_pitch, UNIT_E, CHANNELS_LAST)
        dq = tl.zeros((BLOCK_N, BLOCK_D), ACC)
        end = num_keys
        if CAUSAL:
            end = tl.minimum(num_keys, start + BLOCK_N)
        for keys_start in range(0, end, BLOCK_M):
            keys_left = num_keys - keys_start
            if WIDE:
                scores = wide_product(
                    query, q_pitch, left, key, k_pitch, keys_left, D, BLOCK_D, BLOCK_N, BLOCK_M, UNIT_D, CHANNELS_LAST,
                    EVEN_N, EVEN_M, ACC, PRECISION,
                )  # fmt: skip
                dp = wide_product(
                    grad_output, do_pitch, left, value, v_pitch, keys_left, E, BLOCK_E, BLOCK_N, BLOCK_M, UNIT_E,
                    CHANNELS_LAST, EVEN_N, EVEN_M, ACC, PRECISION,
                )  # fmt: skip
                keys = skip_channels(key, first_channel, k_pitch, UNIT_D, CHANNELS_LAST)
            else:
                keys = key
            k = load_tile(
                keys, k_pitch, keys_left, channels_left, BLOCK_M, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_M, PACKED_D
            )
            if not WIDE:
                v = load_tile(value, v_pitch, keys_left, E, BLOCK_M, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_M, PACKED_E)
                scores = product(q, tl.trans(k), ACC, PRECISION)
                dp = product(do, tl.trans(v), ACC, PRECISION)
            p = weights(scores * exponent, lse, start, keys_start, num_keys, BLOCK_N, BLOCK_M, EVEN_M, CAUSAL, False)
            ds = p * (dp - row_delta[:, None])
            dq = add_product(ds, k, dq, ACC, PRECISION)
            key = skip_tokens(key, BLOCK_M, k_pitch, UNIT_D, CHANNELS_LAST)
            value = skip_tokens(value, BLOCK_M, v_pitch, UNIT_E, CHANNELS_LAST)
        dq = dq * pin(scale, scale_low, ACC)
        grad_query = locate(grad_query, batch, head, start64, dq_batch, dq_head, dq_pitch, UNIT_D, CHANNELS_LAST)
        grad_query = skip_channels(grad_query, first_channel, dq_pitch, UNIT_D, CHANNELS_LAST)
        store_tile(
            grad_query, dq, dq_pitch, left, channels_left, BLOCK_N, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_N, PACKED_D
        )


@triton.jit
def attention_backward_key_value(
    query, key, value, grad_output, log_sum_exp, delta, grad_key, grad_value,
    q_batch, q_head, q_pitch, k_batch, k_head, k_pitch, v_batch, v_head, v_pitch,
    do_batch, do_head, do_pitch, dk_batch, dk_head, dk_pitch, dv_batch, dv_head, dv_pitch,
    scale, scale_low, exponent_scale, exponent_scale_low, heads, num_queries, num_keys,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, UNIT_D: tl.constexpr, UNIT_E: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, CAUSAL: tl.constexpr, EVEN_N: tl.constexpr, EVEN_M: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """One program: the gradients of BLOCK_M keys (KEY) and values (VALUE).

    VALUE alone: of one chunk of BLOCK_E channels. KEY alone and WIDE: of one chunk of BLOCK_D channels.
    """
    PACKED_D: tl.constexpr = D % BLOCK_D == 0
    PACKED_E: tl.constexpr = E % BLOCK_E == 0
    tiles = tl.cdiv(num_keys, BLOCK_M)
    pid = tl.program_id(0)
    sample = (pid // tiles).to(tl.int64)
    batch, head = sample // heads, sample % heads
    start = (pid % tiles) * BLOCK_M
    start64 = start.to(tl.int64)
    left = num_keys - start
    first_d = 0
    first_e = 0
    if WIDE:
        first_d = tl.program_id(1) * BLOCK_D
    else:
        first_e = tl.program_id(1) * BLOCK_E
    exponent = pin(exponent_scale, exponent_scale_low, ACC)

    key = locate(key, batch, head, start64, k_batch, k_head, k_pitch, UNIT_D, CHANNELS_LAST)
    value = locate(value, batch, head, start64, v_batch, v_head, v_pitch, UNIT_E, CHANNELS_LAST)
    if not WIDE:
        k = load_tile(key, k_pitch, left, D, BLOCK_M, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_M, PACKED_D)
    if KEY and not WIDE:
        v = load_tile(value, v_pitch, left, E, BLOCK_M, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_M, PACKED_E)

    queries_start = 0
    if CAUSAL:
        queries_start = (start // BLOCK_N) * BLOCK_N
    first64 = tl.cast(queries_start, tl.int64)
    query = locate(query, batch, head, first64, q_batch, q_head, q_pitch, UNIT_D, CHANNELS_LAST)
    grad_output = locate(grad_output, batch, head, first64, do_batch, do_head, do_pitch, UNIT_E, CHANNELS_LAST)
    grad_output = skip_channels(grad_output, first_e, do_pitch, UNIT_E, CHANNELS_LAST)
    log_sum_exp += sample * num_queries
    delta += sample * num_queries

    dk = tl.zeros((BLOCK_M, BLOCK_D), ACC)
    dv = tl.zeros((BLOCK_M, BLOCK_E), ACC)
    for queries in range(queries_start, num_queries, BLOCK_N):
        queries_left = num_queries - queries
        if WIDE:
            scores = wide_product(
                key, k_pitch, left, query, q_pitch, queries_left, D, BLOCK_D, BLOCK_M, BLOCK_N, UNIT_D, CHANNELS_LAST,
                EVEN_M, EVEN_N, ACC, PRECISION,
            )  # fmt: skip
            dp = wide_product(
                value, v_pitch, left, grad_output, do_pitch, queries_left, E, BLOCK_E, BLOCK_M, BLOCK_N, UNIT_E,
                CHANNELS_LAST, EVEN_M, EVEN_N, ACC, PRECISION,
            )  # fmt: skip
        q = load_tile(
            skip_channels(query, first_d, q_pitch, UNIT_D, CHANNELS_LAST), q_pitch, queries_left, D - first_d,
            BLOCK_N, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_N, PACKED_D,
        )  # fmt: skip
        if not WIDE:
            do = load_tile(
                grad_output,
                do_pitch,
                queries_left,
                E - first_e,
                BLOCK_N,
                BLOCK_E,
                UNIT_E,
                CHANNELS_LAST,
                EVEN_N,
                PACKED_E,
            )
            scores = product(k, tl.trans(q), ACC, PRECISION)
        lse = load_row(log_sum_exp + queries, queries_left, float("inf"), BLOCK_N, EVEN_N)
        p = weights(scores * exponent, lse, queries, start, num_keys, BLOCK_N, BLOCK_M, EVEN_M, CAUSAL, True)
        if VALUE:
            dv = add_product(p, do, dv, ACC, PRECISION)
        if KEY:
            row_delta = load_row(delta + queries, queries_left, 0.0, BLOCK_N, EVEN_N)
            if not WIDE:
                dp = product(v, tl.trans(do), ACC, PRECISION)
            ds = p * (dp - row_delta[None, :])
            dk = add_product(ds, q, dk, ACC, PRECISION)
        query = skip_tokens(query, BLOCK_N, q_pitch, UNIT_D, CHANNELS_LAST)
        grad_output = skip_tokens(grad_output, BLOCK_N, do_pitch, UNIT_E, CHANNELS_LAST)

    if KEY:
        dk = dk * pin(scale, scale_low, ACC)
        grad_key = locate(grad_key, batch, head, start64, dk_batch, dk_head, dk_pitch, UNIT_D, CHANNELS_LAST)
        grad_key = skip_channels(grad_key, first_d, dk_pitch, UNIT_D, CHANNELS_LAST)
        store_tile(grad_key, dk, dk_pitch, left, D - first_d, BLOCK_M, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_M, PACKED_D)
    if VALUE:
        grad_value = locate(grad_value, batch, head, start64, dv_batch, dv_head, dv_pitch, UNIT_E, CHANNELS_LAST)
        grad_value = skip_channels(grad_value, first_e, dv_pitch, UNIT_E, CHANNELS_LAST)
        store_tile(
            grad_value, dv, dv_pitch, left, E - first_e, BLOCK_M, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_M, PACKED_E
        )
