"""Second backward: gradients of (dq, dk, dv), with cotangents a, b, c, for query, key, value and grad_output.

With P, dP, δ of the first backward, s the scale, X = do cᵀ:

    T = s(a kᵀ + q bᵀ)    r = rowsum(T∘P)    G = P∘(T∘(dP − δ) + X)    w = rowsum(G)
    ∂do = (P∘T) v + P c − r∘o
    ∂q  = s(G k + dS b − r∘(dS k) − w∘(P k))
    S2  = P∘((T − r)∘(dP − δ) + X − w)
    ∂k  = s(S2ᵀ q + dSᵀ a)
    ∂v  = (P∘(T − r))ᵀ do

(`dP − δ` throughout, not dP: where values have a common offset, their difference is what has digits.)

Everything for a query is linear in r and w, so one walk over the keys yields both and the gradients; the walk over the
queries reads them. Memory is O(N). Each kernel computes the gradients that its flags name, so that shapes that fit on
chip take the fused form (12d + 7e multiply-adds per pair) and larger ones the one split by output (18d + 7e).
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
)


@triton.jit
def attention_double_backward_query(
    query, key, value, output, grad_output, grad_grad_query, grad_grad_key, grad_grad_value,
    log_sum_exp, delta, row_r, row_w, grad_query, grad_grad_output,
    q_batch, q_head, q_pitch, k_batch, k_head, k_pitch, v_batch, v_head, v_pitch,
    o_batch, o_head, o_pitch, do_batch, do_head, do_pitch,
    a_batch, a_head, a_pitch, b_batch, b_head, b_pitch, c_batch, c_head, c_pitch,
    dq_batch, dq_head, dq_pitch, ddo_batch, ddo_head, ddo_pitch,
    scale, scale_low, exponent_scale, exponent_scale_low, heads, num_queries, num_keys,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, UNIT_D: tl.constexpr, UNIT_E: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, CAUSAL: tl.constexpr, EVEN_N: tl.constexpr, EVEN_M: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, QUERY: tl.constexpr, OUTPUT: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """One program, BLOCK_N queries: r, w and ∂q (QUERY); ∂do (OUTPUT).

    OUTPUT alone: one chunk of BLOCK_E channels. QUERY alone and WIDE: one chunk of BLOCK_D channels of ∂q.
    """
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
    first_d = 0
    first_e = 0
    if WIDE:
        first_d = tl.program_id(1) * BLOCK_D
    else:
        first_e = tl.program_id(1) * BLOCK_E
    exponent = pin(exponent_scale, exponent_scale_low, ACC)
    s = pin(scale, scale_low, ACC)

    query = locate(query, batch, head, start64, q_batch, q_head, q_pitch, UNIT_D, CHANNELS_LAST)
    grad_grad_query = locate(grad_grad_query, batch, head, start64, a_batch, a_head, a_pitch, UNIT_D, CHANNELS_LAST)
    grad_output = locate(grad_output, batch, head, start64, do_batch, do_head, do_pitch, UNIT_E, CHANNELS_LAST)
    if not WIDE:
        q = load_tile(query, q_pitch, left, D, BLOCK_N, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_N, PACKED_D)
        a = load_tile(grad_grad_query, a_pitch, left, D, BLOCK_N, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_N, PACKED_D)
    lse = load_row(log_sum_exp + rows, left, float("inf"), BLOCK_N, EVEN_N)
    if QUERY and not WIDE:
        do = load_tile(grad_output, do_pitch, left, E, BLOCK_N, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_N, PACKED_E)
    if QUERY:
        row_delta = load_row(delta + rows, left, 0.0, BLOCK_N, EVEN_N)

    key = locate(key, batch, head, 0, k_batch, k_head, k_pitch, UNIT_D, CHANNELS_LAST)
    grad_grad_key = locate(grad_grad_key, batch, head, 0, b_batch, b_head, b_pitch, UNIT_D, CHANNELS_LAST)
    value = locate(value, batch, head, 0, v_batch, v_head, v_pitch, UNIT_E, CHANNELS_LAST)
    grad_grad_value = locate(grad_grad_value, batch, head, 0, c_batch, c_head, c_pitch, UNIT_E, CHANNELS_LAST)
    value = skip_channels(value, first_e, v_pitch, UNIT_E, CHANNELS_LAST)
    grad_grad_value = skip_channels(grad_grad_value, first_e, c_pitch, UNIT_E, CHANNELS_LAST)

    r = tl.zeros((BLOCK_N,), ACC)
    w = tl.zeros((BLOCK_N,), ACC)
    from_g = tl.zeros((BLOCK_N, BLOCK_D), ACC)
    from_ds = tl.zeros((BLOCK_N, BLOCK_D), ACC)
    from_p = tl.zeros((BLOCK_N, BLOCK_D), ACC)
    ddo = tl.zeros((BLOCK_N, BLOCK_E), ACC)
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
            t = wide_product(
                grad_grad_query, a_pitch, left, key, k_pitch, keys_left, D, BLOCK_D, BLOCK_N, BLOCK_M, UNIT_D,
                CHANNELS_LAST, EVEN_N, EVEN_M, ACC, PRECISION,
            )  # fmt: skip
            t += wide_product(
                query, q_pitch, left, grad_grad_key, b_pitch, keys_left, D, BLOCK_D, BLOCK_N, BLOCK_M, UNIT_D,
                CHANNELS_LAST, EVEN_N, EVEN_M, ACC, PRECISION,
            )  # fmt: skip
            dp = wide_product(
                grad_output, do_pitch, left, value, v_pitch, keys_left, E, BLOCK_E, BLOCK_N, BLOCK_M, UNIT_E,
                CHANNELS_LAST, EVEN_N, EVEN_M, ACC, PRECISION,
            )  # fmt: skip
            x = wide_product(
                grad_output, do_pitch, left, grad_grad_value, c_pitch, keys_left, E, BLOCK_E, BLOCK_N, BLOCK_M, UNIT_E,
                CHANNELS_LAST, EVEN_N, EVEN_M, ACC, PRECISION,
            )  # fmt: skip
        k = load_tile(
            skip_channels(key, first_d, k_pitch, UNIT_D, CHANNELS_LAST), k_pitch, keys_left, D - first_d,
            BLOCK_M, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_M, PACKED_D,
        )  # fmt: skip
        b = load_tile(
            skip_channels(grad_grad_key, first_d, b_pitch, UNIT_D, CHANNELS_LAST), b_pitch, keys_left, D - first_d,
            BLOCK_M, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_M, PACKED_D,
        )  # fmt: skip
        if not WIDE:
            v = load_tile(
                value, v_pitch, keys_left, E - first_e, BLOCK_M, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_M, PACKED_E
            )
            c = load_tile(
                grad_grad_value,
                c_pitch,
                keys_left,
                E - first_e,
                BLOCK_M,
                BLOCK_E,
                UNIT_E,
                CHANNELS_LAST,
                EVEN_M,
                PACKED_E,
            )
            scores = product(q, tl.trans(k), ACC, PRECISION)
            t = product(a, tl.trans(k), ACC, PRECISION)
            t = add_product(q, tl.trans(b), t, ACC, PRECISION)
        p = weights(scores * exponent, lse, start, keys_start, num_keys, BLOCK_N, BLOCK_M, EVEN_M, CAUSAL, False)
        t = t * s
        pt = p * t
        r += tl.sum(pt, 1)
        if OUTPUT:
            ddo = add_product(pt, v, ddo, ACC, PRECISION)
            ddo = add_product(p, c, ddo, ACC, PRECISION)
        if QUERY:
            if not WIDE:
                dp = product(do, tl.trans(v), ACC, PRECISION)
                x = product(do, tl.trans(c), ACC, PRECISION)
            ds = p * (dp - row_delta[:, None])
            g = t * ds + p * x
            w += tl.sum(g, 1)
            from_g = add_product(g, k, from_g, ACC, PRECISION)
            from_g = add_product(ds, b, from_g, ACC, PRECISION)
            from_ds = add_product(ds, k, from_ds, ACC, PRECISION)
            from_p = add_product(p, k, from_p, ACC, PRECISION)
        key = skip_tokens(key, BLOCK_M, k_pitch, UNIT_D, CHANNELS_LAST)
        grad_grad_key = skip_tokens(grad_grad_key, BLOCK_M, b_pitch, UNIT_D, CHANNELS_LAST)
        value = skip_tokens(value, BLOCK_M, v_pitch, UNIT_E, CHANNELS_LAST)
        grad_grad_value = skip_tokens(grad_grad_value, BLOCK_M, c_pitch, UNIT_E, CHANNELS_LAST)

    if QUERY:
        dq = (from_g - r[:, None] * from_ds - w[:, None] * from_p) * s
        grad_query = locate(grad_query, batch, head, start64, dq_batch, dq_head, dq_pitch, UNIT_D, CHANNELS_LAST)
        grad_query = skip_channels(grad_query, first_d, dq_pitch, UNIT_D, CHANNELS_LAST)
        store_tile(
            grad_query, dq, dq_pitch, left, D - first_d, BLOCK_N, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_N, PACKED_D
        )
        if first_d == 0:
            store_row(row_r + rows, r, left, BLOCK_N, EVEN_N)
            store_row(row_w + rows, w, left, BLOCK_N, EVEN_N)
    if OUTPUT:
        output = locate(output, batch, head, start64, o_batch, o_head, o_pitch, UNIT_E, CHANNELS_LAST)
        grad_grad_output = locate(
            grad_grad_output, batch, head, start64, ddo_batch, ddo_head, ddo_pitch, UNIT_E, CHANNELS_LAST
        )
        output = skip_channels(output, first_e, o_pitch, UNIT_E, CHANNELS_LAST)
        grad_grad_output = skip_channels(grad_grad_output, first_e, ddo_pitch, UNIT_E, CHANNELS_LAST)
        o = load_tile(output, o_pitch, left, E - first_e, BLOCK_N, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_N, PACKED_E)
        ddo = ddo - r[:, None] * o.to(ACC)
        store_tile(
            grad_grad_output, ddo, ddo_pitch, left, E - first_e, BLOCK_N, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_N,
            PACKED_E,
        )  # fmt: skip


@triton.jit
def attention_double_backward_key_value(
    query, key, value, grad_output, grad_grad_query, grad_grad_key, grad_grad_value,
    log_sum_exp, delta, row_r, row_w, grad_key, grad_value,
    q_batch, q_head, q_pitch, k_batch, k_head, k_pitch, v_batch, v_head, v_pitch, do_batch, do_head, do_pitch,
    a_batch, a_head, a_pitch, b_batch, b_head, b_pitch, c_batch, c_head, c_pitch,
    dk_batch, dk_head, dk_pitch, dv_batch, dv_head, dv_pitch,
    scale, scale_low, exponent_scale, exponent_scale_low, heads, num_queries, num_keys,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, UNIT_D: tl.constexpr, UNIT_E: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, CAUSAL: tl.constexpr, EVEN_N: tl.constexpr, EVEN_M: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, KEY: tl.constexpr, VALUE: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """One program, BLOCK_M keys: ∂k (KEY) and ∂v (VALUE).

    VALUE alone: one chunk of BLOCK_E channels. KEY alone and WIDE: one chunk of BLOCK_D channels of ∂k.
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
    s = pin(scale, scale_low, ACC)

    key = locate(key, batch, head, start64, k_batch, k_head, k_pitch, UNIT_D, CHANNELS_LAST)
    grad_grad_key = locate(grad_grad_key, batch, head, start64, b_batch, b_head, b_pitch, UNIT_D, CHANNELS_LAST)
    value = locate(value, batch, head, start64, v_batch, v_head, v_pitch, UNIT_E, CHANNELS_LAST)
    grad_grad_value = locate(grad_grad_value, batch, head, start64, c_batch, c_head, c_pitch, UNIT_E, CHANNELS_LAST)
    if not WIDE:
        k = load_tile(key, k_pitch, left, D, BLOCK_M, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_M, PACKED_D)
        b = load_tile(grad_grad_key, b_pitch, left, D, BLOCK_M, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_M, PACKED_D)
    if KEY and not WIDE:
        v = load_tile(value, v_pitch, left, E, BLOCK_M, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_M, PACKED_E)
        c = load_tile(grad_grad_value, c_pitch, left, E, BLOCK_M, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_M, PACKED_E)

    queries_start = 0
    if CAUSAL:
        queries_start = (start // BLOCK_N) * BLOCK_N
    first64 = tl.cast(queries_start, tl.int64)
    query = locate(query, batch, head, first64, q_batch, q_head, q_pitch, UNIT_D, CHANNELS_LAST)
    grad_grad_query = locate(grad_grad_query, batch, head, first64, a_batch, a_head, a_pitch, UNIT_D, CHANNELS_LAST)
    grad_output = locate(grad_output, batch, head, first64, do_batch, do_head, do_pitch, UNIT_E, CHANNELS_LAST)
    grad_output = skip_channels(grad_output, first_e, do_pitch, UNIT_E, CHANNELS_LAST)
    log_sum_exp += sample * num_queries
    delta += sample * num_queries
    row_r += sample * num_queries
    row_w += sample * num_queries

    dk = tl.zeros((BLOCK_M, BLOCK_D), ACC)
    dv = tl.zeros((BLOCK_M, BLOCK_E), ACC)
    for queries in range(queries_start, num_queries, BLOCK_N):
        queries_left = num_queries - queries
        if WIDE:
            scores = wide_product(
                key, k_pitch, left, query, q_pitch, queries_left, D, BLOCK_D, BLOCK_M, BLOCK_N, UNIT_D, CHANNELS_LAST,
                EVEN_M, EVEN_N, ACC, PRECISION,
            )  # fmt: skip
            t = wide_product(
                key, k_pitch, left, grad_grad_query, a_pitch, queries_left, D, BLOCK_D, BLOCK_M, BLOCK_N, UNIT_D,
                CHANNELS_LAST, EVEN_M, EVEN_N, ACC, PRECISION,
            )  # fmt: skip
            t += wide_product(
                grad_grad_key, b_pitch, left, query, q_pitch, queries_left, D, BLOCK_D, BLOCK_M, BLOCK_N, UNIT_D,
                CHANNELS_LAST, EVEN_M, EVEN_N, ACC, PRECISION,
            )  # fmt: skip
            dp = wide_product(
                value, v_pitch, left, grad_output, do_pitch, queries_left, E, BLOCK_E, BLOCK_M, BLOCK_N, UNIT_E,
                CHANNELS_LAST, EVEN_M, EVEN_N, ACC, PRECISION,
            )  # fmt: skip
            x = wide_product(
                grad_grad_value, c_pitch, left, grad_output, do_pitch, queries_left, E, BLOCK_E, BLOCK_M, BLOCK_N,
                UNIT_E, CHANNELS_LAST, EVEN_M, EVEN_N, ACC, PRECISION,
            )  # fmt: skip
        q = load_tile(
            skip_channels(query, first_d, q_pitch, UNIT_D, CHANNELS_LAST), q_pitch, queries_left, D - first_d,
            BLOCK_N, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_N, PACKED_D,
        )  # fmt: skip
        a = load_tile(
            skip_channels(grad_grad_query, first_d, a_pitch, UNIT_D, CHANNELS_LAST), a_pitch, queries_left, D - first_d,
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
            t = product(k, tl.trans(a), ACC, PRECISION)
            t = add_product(b, tl.trans(q), t, ACC, PRECISION)
        lse = load_row(log_sum_exp + queries, queries_left, float("inf"), BLOCK_N, EVEN_N)
        r = load_row(row_r + queries, queries_left, 0.0, BLOCK_N, EVEN_N)
        p = weights(scores * exponent, lse, queries, start, num_keys, BLOCK_N, BLOCK_M, EVEN_M, CAUSAL, True)
        t = t * s
        if VALUE:
            dv = add_product(p * (t - r[None, :]), do, dv, ACC, PRECISION)
        if KEY:
            row_delta = load_row(delta + queries, queries_left, 0.0, BLOCK_N, EVEN_N)
            w = load_row(row_w + queries, queries_left, 0.0, BLOCK_N, EVEN_N)
            if not WIDE:
                dp = product(v, tl.trans(do), ACC, PRECISION)
                x = product(c, tl.trans(do), ACC, PRECISION)
            centred = dp - row_delta[None, :]
            s2 = p * ((t - r[None, :]) * centred + x - w[None, :])
            dk = add_product(s2, q, dk, ACC, PRECISION)
            dk = add_product(p * centred, a, dk, ACC, PRECISION)
        query = skip_tokens(query, BLOCK_N, q_pitch, UNIT_D, CHANNELS_LAST)
        grad_grad_query = skip_tokens(grad_grad_query, BLOCK_N, a_pitch, UNIT_D, CHANNELS_LAST)
        grad_output = skip_tokens(grad_output, BLOCK_N, do_pitch, UNIT_E, CHANNELS_LAST)

    if KEY:
        grad_key = locate(grad_key, batch, head, start64, dk_batch, dk_head, dk_pitch, UNIT_D, CHANNELS_LAST)
        grad_key = skip_channels(grad_key, first_d, dk_pitch, UNIT_D, CHANNELS_LAST)
        store_tile(
            grad_key, dk * s, dk_pitch, left, D - first_d, BLOCK_M, BLOCK_D, UNIT_D, CHANNELS_LAST, EVEN_M, PACKED_D
        )
    if VALUE:
        grad_value = locate(grad_value, batch, head, start64, dv_batch, dv_head, dv_pitch, UNIT_E, CHANNELS_LAST)
        grad_value = skip_channels(grad_value, first_e, dv_pitch, UNIT_E, CHANNELS_LAST)
        store_tile(
            grad_value, dv, dv_pitch, left, E - first_e, BLOCK_M, BLOCK_E, UNIT_E, CHANNELS_LAST, EVEN_M, PACKED_E
        )
