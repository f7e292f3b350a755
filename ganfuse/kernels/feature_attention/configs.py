"""Tile shapes by kernel, chip and channel counts; frozen, so that the same call always runs the same kernel.

The table, `tiles.json`, is written by ``benchmarks/tune_attention.py``.
"""

import functools
import json
from pathlib import Path
from typing import NamedTuple


class Config(NamedTuple):
    """Tile of a kernel.

    Attributes:
        queries, keys: tile sizes (BLOCK_N, BLOCK_M).
        channels: of a chunk, where the kernel works through channels in chunks; 0 for all at once.
    """

    queries: int
    keys: int
    channels: int
    num_warps: int
    num_stages: int


def pad(channels: int) -> int:
    """Channels of a tile: the next power of two, at least 16, the smallest side of a tensor-core tile."""
    return max(16, 1 << (channels - 1).bit_length())


# Kernels whose result has value channels, which they can compute a chunk at a time.
CHUNKED = ("forward", "backward_value", "double_backward_output", "double_backward_value")
# Chips that are not in the table run what is known to fit one with no more shared memory or fewer features.
_STAND_IN = {"sm86": "sm89", "sm87": "sm80", "sm103": "sm100", "sm110": "sm100", "sm121": "sm120"}
_INTERPRETER = Config(queries=32, keys=16, channels=32, num_warps=4, num_stages=1)
# Fits everywhere: the smallest tile, channels a chunk at a time.
_LAST_RESORT = Config(queries=16, keys=16, channels=32, num_warps=4, num_stages=1)
_FUSED_UP_TO = (64, 128)


@functools.cache
def _table() -> dict[str, list[int] | None]:
    table: dict[str, list[int] | None] = json.loads(Path(__file__).with_name("tiles.json").read_text())
    return table


@functools.cache
def choose(kernel: str, target: str, itemsize: int, d: int, e: int) -> Config:
    """The tile for `kernel` on `target`, with `d` query/key channels, `e` value channels, `itemsize` bytes each."""
    if target == "interpreter":
        # Both forms are worth interpreting: channels in one piece, and in chunks where a kernel has many.
        return _INTERPRETER if kernel in CHUNKED or d > 32 else _INTERPRETER._replace(channels=0)
    return _look_up(kernel, target, itemsize, d, e) or _LAST_RESORT


def _look_up(kernel: str, target: str, itemsize: int, d: int, e: int) -> Config | None:
    known = _STAND_IN.get(target, target)
    if not known.startswith("gfx") and not any(key.startswith(known + " ") for key in _table()):
        known = "sm89"
    elif known.startswith("gfx"):
        known = "gfx942"
    # float32 takes the tile of twice as many half-type channels: as many bytes.
    scale = itemsize // 2
    d = max(32, scale * pad(d))
    e = max(64 if d <= 64 else 128, scale * pad(e))
    if kernel in CHUNKED:
        e = min(e, 256)
    tile = _table().get(f"{known} {kernel} {d} {e}")
    if tile is None:
        return None
    config = Config(*tile)
    if scale > 1 and known == "gfx942":
        # Its 64 KiB hold the same bytes of operands, but not the wider weights beside a second stage.
        config = config._replace(num_stages=1)
    return config._replace(channels=max(32, config.channels // scale)) if config.channels else config


@functools.cache
def fused(kernel: str, target: str, itemsize: int, d: int, e: int) -> bool:
    """Whether one pass computes both of the kernel's gradients, rather than one pass each."""
    if itemsize * pad(d) > 2 * _FUSED_UP_TO[0] or itemsize * pad(e) > 2 * _FUSED_UP_TO[1]:
        return False
    return target == "interpreter" or _look_up(kernel, target, itemsize, d, e) is not None
