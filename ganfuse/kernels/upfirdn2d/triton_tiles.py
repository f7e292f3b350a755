"""Which cells of the result a program computes, where these lie, and the tap of one output.

A *cell* is a block of outputs that repeats: its neighbours' taps lie over pixels of x just as its own do, some whole
pixels further. Programs take tiles of cells. Tiles are matrices whose columns run along the axis that is contiguous:
channels (channels_last) or the width (NCHW).
"""

import triton
import triton.language as tl


@triton.jit
def cells(
    tile, planes, channels, tiles_y, tiles_x, columns_blocks,
    BLOCK_P: tl.constexpr, BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
):  # fmt: skip
    """Batch, channel, cell row and cell column of every place of a tile, and whether its plane exists.

    Tiles are BLOCK_Y·BLOCK_X cells by BLOCK_C channels of one image, or BLOCK_P planes' BLOCK_Y rows by BLOCK_X cells.
    """
    if CHANNELS_LAST:
        block_c = tile % columns_blocks
        tile = tile // columns_blocks
    tile_x = tile % tiles_x
    tile = tile // tiles_x
    tile_y = tile % tiles_y
    first = tile // tiles_y
    if CHANNELS_LAST:
        r = tl.arange(0, BLOCK_Y * BLOCK_X)[:, None]
        batch = first.to(tl.int64)
        channel = (block_c * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
        cell_y = tile_y * BLOCK_Y + r // BLOCK_X
        cell_x = tile_x * BLOCK_X + r % BLOCK_X
        there = channel < channels
    else:
        r = tl.arange(0, BLOCK_P * BLOCK_Y)[:, None]
        plane = first * BLOCK_P + r // BLOCK_Y
        batch = (plane // channels).to(tl.int64)
        channel = plane % channels
        cell_y = tile_y * BLOCK_Y + r % BLOCK_Y
        cell_x = (tile_x * BLOCK_X + tl.arange(0, BLOCK_X))[None, :]
        there = plane < planes
    return batch, channel, cell_y, cell_x, there


@triton.jit
def weight(f, i, j, TAPS_Y: tl.constexpr, TAPS_X: tl.constexpr, FLIP: tl.constexpr, SEPARABLE: tl.constexpr,
           ACC: tl.constexpr):  # fmt: skip
    """What the pixel under tap (i, j) is multiplied by."""
    if not FLIP:
        i = TAPS_Y - 1 - i
        j = TAPS_X - 1 - j
    if SEPARABLE:
        result = tl.load(f + i).to(ACC) * tl.load(f + j).to(ACC)
    else:
        result = tl.load(f + i * TAPS_X + j).to(ACC)
    return result
