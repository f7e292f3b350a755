"""What the attention kernels share: loading and storing tiles, scores, and weights from the saved log-sum-exp.

A tile is (tokens, channels) of one (batch, head). Its pointer is already at the first of its tokens, in 64 bits, so
that offsets inside the tile fit 32. Pitches come in units of a constexpr number of elements: that tells the compiler
how far addresses are aligned, which is what wide loads hang on where a pitch is not a multiple of 16.
"""

import triton
import triton.language as tl


@triton.jit
def locate(base, batch, head, start, stride_batch, stride_head, pitch, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Pointer to token `start` of one batch and head."""
    pointer = base + (batch * stride_batch + head * stride_head) * UNIT
    if CHANNELS_LAST:
        return pointer + start * (pitch * UNIT)
    return pointer + start


@triton.jit
def tile_offsets(pitch, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Offsets of a (TOKENS, CHANNELS) tile from its first element."""
    tokens = tl.arange(0, TOKENS)[:, None]
    channels = tl.arange(0, CHANNELS)[None, :]
    if CHANNELS_LAST:
        return tokens * (pitch * UNIT) + channels
    return tokens + channels * (pitch * UNIT)


@triton.jit
def tile_mask(
    left, channels_left, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, EVEN: tl.constexpr, PACKED: tl.constexpr
):
    """Which elements exist: `left` tokens, `channels_left` channels; None if all do."""
    tokens = tl.arange(0, TOKENS)[:, None] < left
    channels = tl.arange(0, CHANNELS)[None, :] < channels_left
    if EVEN and PACKED:
        return None
    elif EVEN:
        return channels
    elif PACKED:
        return tokens
    else:
        return tokens & channels


@triton.jit
def load_tile(
    pointer, pitch, left, channels_left, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, EVEN: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """A tile with zeros where there is nothing to read, whatever the memory there holds."""
    pointers = pointer + tile_offsets(pitch, TOKENS, CHANNELS, UNIT, CHANNELS_LAST)
    if EVEN and PACKED:
        return tl.load(pointers)
    else:
        return tl.load(pointers, mask=tile_mask(left, channels_left, TOKENS, CHANNELS, EVEN, PACKED), other=0.0)


@triton.jit
def store_tile(
    pointer, tile, pitch, left, channels_left, TOKENS: tl.constexpr, CHANNELS: tl.constexpr, UNIT: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, EVEN: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Store what exists of a tile, the contiguous axis last: AMD's compiler otherwise stores element by element."""
    tile = tile.to(pointer.dtype.element_ty)
    if CHANNELS_LAST:
        pointers = pointer + tile_offsets(pitch, TOKENS, CHANNELS, UNIT, True)
        if EVEN and PACKED:
            tl.store(pointers, tile)
        else:
            tl.store(pointers, tile, mask=tile_mask(left, channels_left, TOKENS, CHANNELS, EVEN, PACKED))
    else:
        pointers = pointer + tile_offsets(pitch, CHANNELS, TOKENS, UNIT, True)
        if EVEN and PACKED:
            tl.store(pointers, tl.trans(tile))
        else:
            mask = tile_mask(channels_left, left, CHANNELS, TOKENS, PACKED, EVEN)
            tl.store(pointers, tl.trans(tile), mask=mask)


@triton.jit
def load_row(pointer, left, other, TOKENS: tl.constexpr, EVEN: tl.constexpr):
    """One number per token."""
    tokens = tl.arange(0, TOKENS)
    if EVEN:
        return tl.load(pointer + tokens)
    else:
        return tl.load(pointer + tokens, mask=tokens < left, other=other)


@triton.jit
def store_row(pointer, row, left, TOKENS: tl.constexpr, EVEN: tl.constexpr):
    tokens = tl.arange(0, TOKENS)
    if EVEN:
        tl.store(pointer + tokens, row)
    else:
        tl.store(pointer + tokens, row, mask=tokens < left)


@triton.jit
def pin(high, low, ACC: tl.constexpr):
    """A scalar in the accumulator's type. Python floats arrive as float32 (eager) or float64 (inductor); float64
    arithmetic needs the part that float32 drops, which comes as a second number."""
    return tl.cast(high, ACC) + tl.cast(low, ACC)


@triton.jit
def product(a, b, ACC: tl.constexpr, PRECISION: tl.constexpr):
    """a · b in the accumulator's type."""
    return tl.dot(a, b, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def add_product(a, b, accumulator, ACC: tl.constexpr, PRECISION: tl.constexpr):
    """accumulator + a · b, with `a` rounded to the type of `b`, the type of the op's tensors."""
    return tl.dot(a.to(b.dtype), b, acc=accumulator, input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def skip_channels(pointer, first, pitch, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """`pointer`, `first` channels on."""
    if CHANNELS_LAST:
        return pointer + first
    return pointer + tl.cast(first, tl.int64) * (pitch * UNIT)


@triton.jit
def skip_tokens(pointer, tokens: tl.constexpr, pitch, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """`pointer`, `tokens` tokens on."""
    if CHANNELS_LAST:
        return pointer + tokens * (pitch * UNIT)
    return pointer + tokens


@triton.jit
def wide_product(
    a, a_pitch, a_left, b, b_pitch, b_left, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr,
    EVEN_A: tl.constexpr, EVEN_B: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Products of the tokens at `a` with those at `b` over more channels than fit on chip: CHUNK at a time."""
    PACKED: tl.constexpr = CHANNELS % CHUNK == 0
    total = tl.zeros((ROWS, COLUMNS), ACC)
    for first in range(0, CHANNELS, CHUNK):
        a_chunk = load_tile(
            skip_channels(a, first, a_pitch, UNIT, CHANNELS_LAST), a_pitch, a_left, CHANNELS - first,
            ROWS, CHUNK, UNIT, CHANNELS_LAST, EVEN_A, PACKED,
        )  # fmt: skip
        b_chunk = load_tile(
            skip_channels(b, first, b_pitch, UNIT, CHANNELS_LAST), b_pitch, b_left, CHANNELS - first,
            COLUMNS, CHUNK, UNIT, CHANNELS_LAST, EVEN_B, PACKED,
        )  # fmt: skip
        total = add_product(a_chunk, tl.trans(b_chunk), total, ACC, PRECISION)
    return total


@triton.jit
def wide_row_product(
    a, a_pitch, b, b_pitch, left, CHANNELS: tl.constexpr, CHUNK: tl.constexpr, ROWS: tl.constexpr,
    UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr, EVEN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sum over channels of a∘b for each token, CHUNK channels at a time."""
    PACKED: tl.constexpr = CHANNELS % CHUNK == 0
    total = tl.zeros((ROWS,), ACC)
    for first in range(0, CHANNELS, CHUNK):
        a_chunk = load_tile(
            skip_channels(a, first, a_pitch, UNIT, CHANNELS_LAST), a_pitch, left, CHANNELS - first,
            ROWS, CHUNK, UNIT, CHANNELS_LAST, EVEN, PACKED,
        )  # fmt: skip
        b_chunk = load_tile(
            skip_channels(b, first, b_pitch, UNIT, CHANNELS_LAST), b_pitch, left, CHANNELS - first,
            ROWS, CHUNK, UNIT, CHANNELS_LAST, EVEN, PACKED,
        )  # fmt: skip
        total += tl.sum(a_chunk.to(ACC) * b_chunk.to(ACC), 1)
    return total


@triton.jit
def visible(
    queries_start, keys_start, keys_end, QUERIES: tl.constexpr, KEYS: tl.constexpr, EVEN_M: tl.constexpr,
    CAUSAL: tl.constexpr,
):  # fmt: skip
    """(queries, keys) pairs that exist and that the causal mask leaves."""
    keys = keys_start + tl.arange(0, KEYS)[None, :]
    if CAUSAL:
        queries = queries_start + tl.arange(0, QUERIES)[:, None]
        keep = keys <= queries
        if not EVEN_M:
            keep = keep & (keys < keys_end)
        return keep
    else:
        return keys < keys_end


@triton.jit
def weights(
    scores, log_sum_exp, queries_start, keys_start, keys_end, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    EVEN_M: tl.constexpr, CAUSAL: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """Softmax weights from base-2 scores and the saved base-2 log-sum-exp.

    The log-sum-exp of a query that does not exist is +inf, which makes its weights exactly 0.
    """
    if TRANSPOSED:
        p = tl.exp2(scores - log_sum_exp[None, :])
    else:
        p = tl.exp2(scores - log_sum_exp[:, None])
    if CAUSAL or not EVEN_M:
        keep = visible(queries_start, keys_start, keys_end, QUERIES, KEYS, EVEN_M, CAUSAL)
        if TRANSPOSED:
            keep = tl.trans(keep)
        p = tl.where(keep, p, 0.0)
    return p
