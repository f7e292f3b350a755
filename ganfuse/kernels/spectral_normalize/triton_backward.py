"""Backward kernels, shared by the first and the second derivative: inner products, a few scalars per layer, one pass.

With Ŵ = W/σ, σ = uᵀWv, and cotangents G of Ŵ and s of σ:

    dW = G/σ + k uvᵀ                              k = s − ⟨G, W⟩/σ²

and for a cotangent H of dW, with h = uᵀHv:

    ∂G = H/σ − h/σ² W      ∂s = h      ∂W = −h/σ² G + (2h⟨G, W⟩/σ³ − ⟨H, G⟩/σ²) uvᵀ
"""

import triton
import triton.language as tl

from ganfuse.kernels.spectral_normalize.triton_tiles import (
    COLUMNS,
    INDEX,
    INNER,
    ROWS,
    STRIP_COUNT,
    STRIPS,
    UNIT,
    WIDTH,
    U,
    V,
    column_offsets,
    load_tile,
    pointer_to,
    store_tile,
    total,
)


@triton.jit
def _inner_products(
    x, y, u, v, partials, record, block, strip, pid, num_strips, OUTER: tl.constexpr, ALIGNED: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    rows, columns, inner = tl.load(record + ROWS), tl.load(record + COLUMNS), tl.load(record + INNER)
    row = block * BLOCK_R + tl.arange(0, BLOCK_R)
    sums = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    outer = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    for start in range(strip * WIDE, tl.minimum(strip * WIDE + WIDE, columns), BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        offsets = column_offsets(column, rows, inner, ALIGNED)
        a = load_tile(x, row, column, offsets, rows, columns, inner, ALIGNED).to(ACC)
        b = load_tile(y, row, column, offsets, rows, columns, inner, ALIGNED).to(ACC)
        sums += a * b
        if OUTER:
            outer += a * tl.load(v + column, mask=column < columns, other=0.0)[None, :]
    tl.store(partials + pid, tl.sum(tl.sum(sums, 1), 0))
    if OUTER:
        left = tl.load(u + row, mask=row < rows, other=0.0)
        tl.store(partials + num_strips + pid, tl.sum(tl.sum(outer, 1) * left, 0))


@triton.jit
def spectral_inner_products(
    xs, ys, packed, partials, layers, strips, num_strips,
    OUTER: tl.constexpr, ALIGNED: tl.constexpr, X: tl.constexpr, Y: tl.constexpr, ACC: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """⟨X, Y⟩, and with OUTER uᵀXv, over BLOCK_R rows and WIDE columns."""
    pid = tl.program_id(0).to(tl.int64)
    layer = tl.load(strips + pid * 3).to(tl.int64)
    block, strip = tl.load(strips + pid * 3 + 1).to(tl.int64), tl.load(strips + pid * 3 + 2).to(tl.int64)
    record = layers + layer * WIDTH
    x, y = pointer_to(xs, layer, X, ALIGNED), pointer_to(ys, layer, Y, ALIGNED)
    u, v = packed + tl.load(record + U), packed + tl.load(record + V)
    if ALIGNED:
        if tl.load(record + INNER) % UNIT == 0:
            _inner_products(
                x, y, u, v, partials, record, block, strip, pid, num_strips, OUTER, True, WIDE, BLOCK_R, BLOCK_C, ACC
            )
        else:
            _inner_products(
                x, y, u, v, partials, record, block, strip, pid, num_strips, OUTER, False, WIDE, BLOCK_R, BLOCK_C, ACC
            )
    else:
        _inner_products(
            x, y, u, v, partials, record, block, strip, pid, num_strips, OUTER, False, WIDE, BLOCK_R, BLOCK_C, ACC
        )


@triton.jit
def spectral_scalars(
    partials, sigmas, grad_sigmas, dots, grad_grad_sigmas, scalars, layers, num_strips,
    SECOND: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """A layer's factors: of G and uvᵀ in dW; with SECOND of H and W in ∂G, of G and uvᵀ in ∂W; four numbers each."""
    layer = tl.program_id(0).to(tl.int64)
    record = layers + layer * WIDTH
    first, count, index = tl.load(record + STRIPS), tl.load(record + STRIP_COUNT), tl.load(record + INDEX)
    sigma = tl.load(sigmas + index)
    product = total(partials, first, count, ACC)
    scalars += layer * 4
    if SECOND:
        h = total(partials + num_strips, first, count, ACC)
        dot = tl.load(dots + index)
        tl.store(scalars, 1.0 / sigma)
        tl.store(scalars + 1, -h / (sigma * sigma))
        tl.store(scalars + 2, -h / (sigma * sigma))
        tl.store(scalars + 3, (2.0 * h * dot / sigma - product) / (sigma * sigma))
        tl.store(grad_grad_sigmas + index, h)
    else:
        tl.store(scalars + 2, 1.0 / sigma)
        tl.store(scalars + 3, tl.load(grad_sigmas + index) - product / (sigma * sigma))
        tl.store(dots + index, product)


@triton.jit
def _combine(
    g, h, w, grad_g, grad_w, u, v, scalars, record, block, strip, WITH_G: tl.constexpr, WITH_W: tl.constexpr,
    ALIGNED: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    rows, columns, inner = tl.load(record + ROWS), tl.load(record + COLUMNS), tl.load(record + INNER)
    row = block * BLOCK_R + tl.arange(0, BLOCK_R)
    left = tl.load(u + row, mask=row < rows, other=0.0)
    for start in range(strip * WIDE, tl.minimum(strip * WIDE + WIDE, columns), BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        offsets = column_offsets(column, rows, inner, ALIGNED)
        if WITH_G:
            a = load_tile(h, row, column, offsets, rows, columns, inner, ALIGNED).to(ACC)
            b = load_tile(w, row, column, offsets, rows, columns, inner, ALIGNED).to(ACC)
            out = tl.load(scalars) * a + tl.load(scalars + 1) * b
            store_tile(grad_g, out, row, column, offsets, rows, columns, inner, ALIGNED)
        if WITH_W:
            right = tl.load(v + column, mask=column < columns, other=0.0)
            a = load_tile(g, row, column, offsets, rows, columns, inner, ALIGNED).to(ACC)
            out = tl.load(scalars + 2) * a + (tl.load(scalars + 3) * left)[:, None] * right[None, :]
            store_tile(grad_w, out, row, column, offsets, rows, columns, inner, ALIGNED)


@triton.jit
def spectral_combine(
    gs, hs, ws, grad_gs, grad_ws, packed, scalars, layers, strips,
    WITH_G: tl.constexpr, WITH_W: tl.constexpr, ALIGNED: tl.constexpr, G: tl.constexpr, W: tl.constexpr,
    ACC: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """WITH_W: a multiple of G plus one of uvᵀ. WITH_G: a multiple of H plus one of W."""
    pid = tl.program_id(0).to(tl.int64)
    layer = tl.load(strips + pid * 3).to(tl.int64)
    block, strip = tl.load(strips + pid * 3 + 1).to(tl.int64), tl.load(strips + pid * 3 + 2).to(tl.int64)
    record = layers + layer * WIDTH
    scalars += layer * 4
    u, v = packed + tl.load(record + U), packed + tl.load(record + V)
    g, grad_w = pointer_to(gs, layer, G, ALIGNED), pointer_to(grad_ws, layer, W, ALIGNED)
    h, w = pointer_to(hs, layer, W, ALIGNED), pointer_to(ws, layer, W, ALIGNED)
    grad_g = pointer_to(grad_gs, layer, G, ALIGNED)
    if ALIGNED:
        if tl.load(record + INNER) % UNIT == 0:
            _combine(
                g, h, w, grad_g, grad_w, u, v, scalars, record, block, strip, WITH_G, WITH_W, True,
                WIDE, BLOCK_R, BLOCK_C, ACC,
            )  # fmt: skip
        else:
            _combine(
                g, h, w, grad_g, grad_w, u, v, scalars, record, block, strip, WITH_G, WITH_W, False,
                WIDE, BLOCK_R, BLOCK_C, ACC,
            )  # fmt: skip
    else:
        _combine(
            g, h, w, grad_g, grad_w, u, v, scalars, record, block, strip, WITH_G, WITH_W, False,
            WIDE, BLOCK_R, BLOCK_C, ACC,
        )  # fmt: skip
