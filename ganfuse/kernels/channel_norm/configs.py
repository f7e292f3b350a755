"""Tile shapes by pass, layout and size; fixed, so that the same call always runs the same kernels in the same order."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.backend import INTERPRETED
from ganfuse.kernels.channel_norm.allocation import Attributes


class Config(NamedTuple):
    """How a pass over a feature map is cut.

    Attributes:
        rows, block: rows of a program and positions of a tile, powers of two.
        splits, chunk: programs along the positions, and how many positions each has.
    """

    rows: int
    block: int
    splits: int
    chunk: int
    num_warps: int


# Elements of a tile. Passes that hold many running sums or maps take smaller ones, or they spill.
_ELEMENTS = {
    "statistics": 4096, "apply": 4096, "noisy_apply": 4096, "sums": 2048, "noisy_sums": 1024, "apply_backward": 2048,
    "double": 1024,
}  # fmt: skip
# Their compilers give these fewer registers than the others' do.
_ELEMENTS_OF = {
    "sm100": _ELEMENTS | {"apply_backward": 1024},
    "sm120": _ELEMENTS | {"noisy_apply": 2048, "sums": 1024},
}
# Elements of a tile that is all positions of its rows, and held in registers; the backward holds two maps and more.
_MOST_HELD = {"rows": 16384, "rows_backward": 8192}
HELD = frozenset(_MOST_HELD)
# Of such tiles where there are more than these; small ones leave nothing of a wide load for the other lanes.
_HELD = 2048
# Below, a map is read twice by many programs rather than once by few, unless it is so small that launches count.
_ENOUGH_HOLDERS = 128
_SMALL_MAP = 1 << 18
# A few programs for each multiprocessor of the largest chips, so that all of them have loads in flight.
_ENOUGH_PROGRAMS = 1024
_MOST_SPLITS = 64
_WIDEST_ROWS = 64
# The channels of a group are one tile of the kernels between the passes.
_MOST_GROUP_CHANNELS = 2048


def unsupported(attributes: Attributes, x: Tensor) -> str | None:
    """Why the kernels do not take the call; None if they do. Asked while Dynamo traces, too: no import of Triton."""
    channels = x.shape[1] // attributes.groups
    if attributes.kind in ("group", "mix") and channels > _MOST_GROUP_CHANNELS:
        return f"a group has {channels} channels, and the kernels take up to {_MOST_GROUP_CHANNELS}"
    if x.dtype == torch.float64 and not INTERPRETED:
        return "float64 kernels are not tuned; the reference is as fast"
    if x.shape[0] * x.shape[1] >= 2**31 or x.shape[2] * x.shape[3] >= 2**31:
        return "B·C or H·W is 2^31 or more"
    return None


def power_of_two(size: int) -> int:
    """The least power of two that is at least `size`."""
    return 1 << max(0, size - 1).bit_length()


@functools.lru_cache(maxsize=4096)
def choose(
    kernel: str, target: str, itemsize: int, channels_last: bool, batch: int, channels: int, positions: int
) -> Config:
    """The tile of a pass over (batch, channels, positions) maps of `itemsize` bytes an element on `target`."""
    interpreted = target == "interpreter"
    elements = 64 if interpreted else _ELEMENTS_OF.get(target, _ELEMENTS)[kernel] * 4 // max(4, itemsize)
    if channels_last:
        # Past 128 bytes a wider row gives nothing, and leaves fewer positions to sum in registers.
        rows = min(power_of_two(channels), 16 if interpreted else _WIDEST_ROWS)
        block = min(power_of_two(positions), max(1, elements // rows))
        row_blocks = batch * -(-channels // rows)
    else:
        block = min(power_of_two(positions), elements)
        rows = max(1, min(power_of_two(batch * channels), elements // block))
        row_blocks = -(-(batch * channels) // rows)
    tiles = -(-positions // block)
    splits = max(1, min(tiles, _MOST_SPLITS, -(-_ENOUGH_PROGRAMS // max(1, row_blocks))))
    if interpreted:
        # Few programs, for each costs a millisecond; but both a loop over tiles and a sum over splits.
        splits = min(splits, 2)
    per_split = -(-tiles // splits)
    # No more threads than 16 bytes each: narrower loads would not fill them.
    lanes = 64 if target.startswith("gfx") else 32
    warps = max(1, min(4, rows * block * itemsize // (16 * lanes)))
    return Config(rows, block, -(-tiles // per_split), per_split * block, warps)


@functools.lru_cache(maxsize=4096)
def choose_held(
    kernel: str, target: str, itemsize: int, channels_last: bool, batch: int, channels: int, positions: int
) -> Config | None:
    """The tile of a pass that holds whole rows, "rows" or "rows_backward"; None where two passes are better."""
    interpreted = target == "interpreter"
    block = power_of_two(positions)
    limit = 64 if interpreted else _MOST_HELD[kernel] * 4 // max(4, itemsize)
    if channels_last:
        # Memory comes in pieces of 32 bytes; rows of 128 are better where there are enough programs.
        least = min(power_of_two(channels), 4 if interpreted else 32 // itemsize)
        rows = max(least, min(power_of_two(channels), 128 // itemsize, limit // block))
        while rows > least and batch * -(-channels // rows) < 2 * _ENOUGH_HOLDERS:
            rows //= 2
        programs = batch * -(-channels // rows)
    else:
        rows = max(1, min(power_of_two(batch * channels), (limit if interpreted else _HELD) // block))
        programs = -(-(batch * channels) // rows)
    if rows * block > limit:
        return None
    if programs < _ENOUGH_HOLDERS and batch * channels * positions > _SMALL_MAP:
        return None
    lanes = 64 if target.startswith("gfx") else 32
    warps = max(1, min(16, rows * block // (16 * lanes)))
    return Config(rows, block, 1, block, warps)
