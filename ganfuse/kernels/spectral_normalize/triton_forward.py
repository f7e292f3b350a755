"""Forward kernels: Wᵀu and Wv in strips, the sums of the strips, W/σ with the unit vectors, u and v for the next time.

Products are kept as they come, with the sum of their squares in blocks beside them; whoever reads one divides by its
norm. So each product costs two launches, and no program waits for another.
"""

import triton
import triton.language as tl

from ganfuse.kernels.spectral_normalize.triton_tiles import (
    CHANNELS,
    COLUMNS,
    INDEX,
    INNER,
    NUMEL,
    ROWS,
    U_BLOCKS,
    U_COUNT,
    U_PARTIALS,
    UNIT,
    V_BLOCKS,
    V_COUNT,
    V_PARTIALS,
    WIDTH,
    U,
    V,
    at_least,
    column_offsets,
    load_tile,
    norm,
    pointer_to,
    stored_place,
    total,
)


@triton.jit
def _sum_down(
    weight, u, scale, partials, record, strip, block, ALIGNED: tl.constexpr, TALL: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    rows, columns, inner = tl.load(record + ROWS), tl.load(record + COLUMNS), tl.load(record + INNER)
    column = block * BLOCK_C + tl.arange(0, BLOCK_C)
    offsets = column_offsets(column, rows, inner, ALIGNED)
    sums = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    for start in range(strip * TALL, tl.minimum(strip * TALL + TALL, rows), BLOCK_R):
        row = start + tl.arange(0, BLOCK_R)
        factor = tl.load(u + row, mask=row < rows, other=0.0).to(ACC) / scale
        tile = load_tile(weight, row, column, offsets, rows, columns, inner, ALIGNED)
        sums += tile.to(ACC) * factor[:, None]
    place = partials + tl.load(record + V_PARTIALS) + strip * columns + column
    tl.store(place, tl.sum(sums, 0), mask=column < columns)


@triton.jit
def spectral_products_down(
    weights, us, packed, u_squares, partials, layers, strips, eps,
    STORED: tl.constexpr, ALIGNED: tl.constexpr, WEIGHT: tl.constexpr, VECTOR: tl.constexpr, ACC: tl.constexpr,
    TALL: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Wᵀu over TALL rows and BLOCK_C columns, for u as stored or as last computed."""
    pid = tl.program_id(0).to(tl.int64)
    layer = tl.load(strips + pid * 3).to(tl.int64)
    strip, block = tl.load(strips + pid * 3 + 1).to(tl.int64), tl.load(strips + pid * 3 + 2).to(tl.int64)
    record = layers + layer * WIDTH
    weight = pointer_to(weights, layer, WEIGHT, ALIGNED)
    if STORED:
        u = pointer_to(us, layer, VECTOR, False)
        scale = tl.cast(1.0, ACC)
    else:
        u = packed + tl.load(record + U)
        scale = at_least(norm(u_squares, tl.load(record + U_BLOCKS), tl.load(record + U_COUNT), ACC), eps, ACC)
    if ALIGNED:
        if tl.load(record + INNER) % UNIT == 0:
            _sum_down(weight, u, scale, partials, record, strip, block, True, TALL, BLOCK_R, BLOCK_C, ACC)
        else:
            _sum_down(weight, u, scale, partials, record, strip, block, False, TALL, BLOCK_R, BLOCK_C, ACC)
    else:
        _sum_down(weight, u, scale, partials, record, strip, block, False, TALL, BLOCK_R, BLOCK_C, ACC)


@triton.jit
def _sum_across(
    weight, v, scale, partials, record, block, strip, STORED: tl.constexpr, ALIGNED: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    rows, columns, inner = tl.load(record + ROWS), tl.load(record + COLUMNS), tl.load(record + INNER)
    channels = tl.load(record + CHANNELS)
    row = block * BLOCK_R + tl.arange(0, BLOCK_R)
    sums = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    for start in range(strip * WIDE, tl.minimum(strip * WIDE + WIDE, columns), BLOCK_C):
        column = start + tl.arange(0, BLOCK_C)
        offsets = column_offsets(column, rows, inner, ALIGNED)
        place = column
        if STORED:
            place = stored_place(column, columns, channels)
        factor = tl.load(v + place, mask=column < columns, other=0.0).to(ACC) / scale
        tile = load_tile(weight, row, column, offsets, rows, columns, inner, ALIGNED)
        sums += tile.to(ACC) * factor[None, :]
    place = partials + tl.load(record + U_PARTIALS) + strip * rows + row
    tl.store(place, tl.sum(sums, 1), mask=row < rows)


@triton.jit
def spectral_products_across(
    weights, vs, packed, v_squares, partials, layers, strips, eps,
    STORED: tl.constexpr, ALIGNED: tl.constexpr, WEIGHT: tl.constexpr, VECTOR: tl.constexpr, ACC: tl.constexpr,
    WIDE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Wv over BLOCK_R rows and WIDE columns, for v as stored or as last computed."""
    pid = tl.program_id(0).to(tl.int64)
    layer = tl.load(strips + pid * 3).to(tl.int64)
    block, strip = tl.load(strips + pid * 3 + 1).to(tl.int64), tl.load(strips + pid * 3 + 2).to(tl.int64)
    record = layers + layer * WIDTH
    weight = pointer_to(weights, layer, WEIGHT, ALIGNED)
    if STORED:
        v = pointer_to(vs, layer, VECTOR, False)
        scale = tl.cast(1.0, ACC)
    else:
        v = packed + tl.load(record + V)
        scale = at_least(norm(v_squares, tl.load(record + V_BLOCKS), tl.load(record + V_COUNT), ACC), eps, ACC)
    if ALIGNED:
        if tl.load(record + INNER) % UNIT == 0:
            _sum_across(weight, v, scale, partials, record, block, strip, STORED, True, WIDE, BLOCK_R, BLOCK_C, ACC)
        else:
            _sum_across(weight, v, scale, partials, record, block, strip, STORED, False, WIDE, BLOCK_R, BLOCK_C, ACC)
    else:
        _sum_across(weight, v, scale, partials, record, block, strip, STORED, False, WIDE, BLOCK_R, BLOCK_C, ACC)


@triton.jit
def spectral_sum_strips(
    partials, packed, squares, us, layers, blocks,
    OF_U: tl.constexpr, DOT: tl.constexpr, TALL: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
    VECTOR: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sum of the strips for BLOCK elements of a product, and of their squares; with DOT of their products with u."""
    pid = tl.program_id(0).to(tl.int64)
    layer, block = tl.load(blocks + pid * 2).to(tl.int64), tl.load(blocks + pid * 2 + 1).to(tl.int64)
    record = layers + layer * WIDTH
    rows, columns = tl.load(record + ROWS), tl.load(record + COLUMNS)
    if OF_U:
        size, strips = rows, tl.cdiv(columns, WIDE)
        partials += tl.load(record + U_PARTIALS)
        place = tl.load(record + U)
    else:
        size, strips = columns, tl.cdiv(rows, TALL)
        partials += tl.load(record + V_PARTIALS)
        place = tl.load(record + V)
    index = block * BLOCK + tl.arange(0, BLOCK)
    live = index < size
    sums = tl.zeros((BLOCK,), ACC)
    for strip in range(strips):
        sums += tl.load(partials + strip * size + index, mask=live, other=0.0)
    if DOT:
        u = tl.load(pointer_to(us, layer, VECTOR, False) + index, mask=live, other=0.0).to(ACC)
        tl.store(squares + pid, tl.sum(sums * u, 0))
    else:
        tl.store(packed + place + index, sums, mask=live)
        tl.store(squares + pid, tl.sum(sums * sums, 0))


@triton.jit
def spectral_write(
    weights, normalised, us, vs, packed, sigmas, u_squares, v_squares, layers, pieces, eps,
    STORED: tl.constexpr, FIRST_V: tl.constexpr, WITH_V: tl.constexpr, ALIGNED: tl.constexpr, WEIGHT: tl.constexpr,
    OUTPUT: tl.constexpr, VECTOR: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr, FLAT: tl.constexpr,
):  # fmt: skip
    """Three kinds of programs: W/σ for FLAT elements; BLOCK elements of u (the first of a layer also writes σ), of v.

    u and v become unit vectors in `packed`; those of a vanished product stay as they were stored.
    """
    pid = tl.program_id(0).to(tl.int64)
    kind = tl.load(pieces + pid * 3)
    layer, number = tl.load(pieces + pid * 3 + 1).to(tl.int64), tl.load(pieces + pid * 3 + 2).to(tl.int64)
    record = layers + layer * WIDTH
    u_sum = total(u_squares, tl.load(record + U_BLOCKS), tl.load(record + U_COUNT), ACC)
    u_norm = tl.sqrt(tl.abs(u_sum))
    found = u_norm > 0.0
    if STORED:
        sigma = tl.where(found, u_sum, tl.cast(eps, ACC))
        v_norm = u_norm
    else:
        v_norm = norm(v_squares, tl.load(record + V_BLOCKS), tl.load(record + V_COUNT), ACC)
        if FIRST_V:
            sigma = at_least(u_norm, eps, ACC)
        else:
            found = v_norm > 0.0
            sigma = at_least(v_norm, eps, ACC)
    if kind == 0:
        # In halves: all at once takes more registers than sm_80 gives without spills.
        HALF: tl.constexpr = FLAT // 2
        first = number * FLAT
        numel = tl.load(record + NUMEL)
        source, target = pointer_to(weights, layer, WEIGHT, ALIGNED), pointer_to(normalised, layer, OUTPUT, True)
        if first + FLAT <= numel:
            for start in range(0, FLAT, HALF):
                flat = first + start + tl.arange(0, HALF)
                tl.store(target + flat, (tl.load(source + flat).to(ACC) / sigma).to(OUTPUT))
        else:
            for start in range(0, FLAT, HALF):
                flat = first + start + tl.arange(0, HALF)
                tail = tl.load(source + flat, mask=flat < numel, other=0.0)
                tl.store(target + flat, (tail.to(ACC) / sigma).to(OUTPUT), mask=flat < numel)
    else:
        index = number * BLOCK + tl.arange(0, BLOCK)
        columns = tl.load(record + COLUMNS)
        if kind == 1:
            live = index < tl.load(record + ROWS)
            place = packed + tl.load(record + U) + index
            x = tl.load(pointer_to(us, layer, VECTOR, False) + index, mask=live, other=0.0).to(ACC)
            if not STORED:
                x = tl.where(found, tl.load(place, mask=live, other=0.0) / at_least(u_norm, eps, ACC), x)
            tl.store(place, x, mask=live)
            if number == 0:
                tl.store(sigmas + tl.load(record + INDEX), sigma)
        else:
            live = index < columns
            place = packed + tl.load(record + V) + index
            x = tl.zeros((BLOCK,), ACC)
            if WITH_V:
                stored = stored_place(index, columns, tl.load(record + CHANNELS))
                x = tl.load(pointer_to(vs, layer, VECTOR, False) + stored, mask=live, other=0.0).to(ACC)
            if not STORED:
                x = tl.where(found, tl.load(place, mask=live, other=0.0) / at_least(v_norm, eps, ACC), x)
            tl.store(place, x, mask=live)


@triton.jit
def spectral_update(
    us, vs, packed, layers, pieces, WITH_V: tl.constexpr, VECTOR: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """u and v from `packed` to where the model keeps them, v in stored order."""
    pid = tl.program_id(0).to(tl.int64)
    kind = tl.load(pieces + pid * 3)
    layer, number = tl.load(pieces + pid * 3 + 1).to(tl.int64), tl.load(pieces + pid * 3 + 2).to(tl.int64)
    record = layers + layer * WIDTH
    index = number * BLOCK + tl.arange(0, BLOCK)
    columns = tl.load(record + COLUMNS)
    if kind == 1:
        live = index < tl.load(record + ROWS)
        x = tl.load(packed + tl.load(record + U) + index, mask=live, other=0.0)
        tl.store(pointer_to(us, layer, VECTOR, False) + index, x.to(VECTOR), mask=live)
    elif WITH_V:
        live = index < columns
        x = tl.load(packed + tl.load(record + V) + index, mask=live, other=0.0)
        place = stored_place(index, columns, tl.load(record + CHANNELS))
        tl.store(pointer_to(vs, layer, VECTOR, False) + place, x.to(VECTOR), mask=live)
