"""What the spectral norm kernels share: a program's layer, tiles of a matrix that lies as (outer, rows, inner)."""

import triton
import triton.language as tl

# Of the table of layers, see work.FIELDS.
ROWS = tl.constexpr(0)
COLUMNS = tl.constexpr(1)
INNER = tl.constexpr(2)
CHANNELS = tl.constexpr(3)
U = tl.constexpr(4)
V = tl.constexpr(5)
U_PARTIALS = tl.constexpr(6)
V_PARTIALS = tl.constexpr(7)
U_BLOCKS = tl.constexpr(8)
U_COUNT = tl.constexpr(9)
V_BLOCKS = tl.constexpr(10)
V_COUNT = tl.constexpr(11)
STRIPS = tl.constexpr(12)
STRIP_COUNT = tl.constexpr(13)
NUMEL = tl.constexpr(14)
INDEX = tl.constexpr(15)
WIDTH = tl.constexpr(16)
UNIT = tl.constexpr(4)


@triton.jit
def pointer_to(table, layer, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """The layer's tensor, of which the table holds the address; ALIGNED to 16 bytes, which launchers check."""
    pointer = tl.load(table + layer).to(tl.pointer_type(TYPE))
    # Said here, where the pointer is made: of a function's argument the compiler would not believe it.
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def column_offsets(columns, rows, inner, ALIGNED: tl.constexpr):
    """Where columns lie in the first row."""
    offsets = (columns // inner) * (rows * inner) + columns % inner
    if ALIGNED:
        # inner is a multiple of UNIT, and so is the first of the columns.
        offsets = tl.max_contiguous(tl.multiple_of(offsets, UNIT), UNIT)
    return offsets


@triton.jit
def load_tile(base, row, column, offsets, rows, columns, inner, ALIGNED: tl.constexpr):
    """A tile of a matrix, zeros outside: row (R,), column (C,) and where those columns lie, `offsets`.

    If ALIGNED, inner is a multiple of UNIT, and writing it as a product is what tells the compiler.
    """
    if ALIGNED:
        inner = inner // UNIT * UNIT
        columns = columns // UNIT * UNIT
    places = base + (row[:, None] * inner + offsets[None, :])
    return tl.load(places, mask=(row < rows)[:, None] & (column < columns)[None, :], other=0.0)


@triton.jit
def store_tile(base, tile, row, column, offsets, rows, columns, inner, ALIGNED: tl.constexpr):
    if ALIGNED:
        inner = inner // UNIT * UNIT
        columns = columns // UNIT * UNIT
    places = base + (row[:, None] * inner + offsets[None, :])
    mask = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(places, tile.to(base.dtype.element_ty), mask=mask)


@triton.jit
def total(numbers, first, count, ACC: tl.constexpr):
    """Sum of `count` numbers from `first` on, always in the same order."""
    index = tl.arange(0, 128)
    sums = tl.zeros((128,), ACC)
    for start in range(0, count, 128):
        sums += tl.load(numbers + first + start + index, mask=start + index < count, other=0.0)
    return tl.sum(sums, 0)


@triton.jit
def norm(squares, first, count, ACC: tl.constexpr):
    return tl.sqrt(total(squares, first, count, ACC))


@triton.jit
def at_least(x, eps, ACC: tl.constexpr):
    return tl.maximum(x, tl.cast(eps, ACC))


@triton.jit
def stored_place(index, columns, channels):
    """Where v keeps the column that is number `index` in memory."""
    return (index % channels) * (columns // channels) + index // channels
