"""Who does what: lists of tiles over all layers of a batch, as tensors on the device, built once per set of shapes.

Every kernel of the batch is one launch over one list; a program looks up its layer and place, and the layer's sizes
and pointers. What changes from call to call are pointers alone.
"""

import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.spectral_normalize.layout import Layout

# Columns of the table of layers.
FIELDS = (
    "rows", "columns", "inner", "channels", "u", "v", "u_partials", "v_partials",
    "u_blocks", "u_count", "v_blocks", "v_count", "strips", "strip_count", "numel", "index",
)  # fmt: skip
# Elements of 4: what rows must be a multiple of to be read 128 bits at a time (64 of half types).
UNIT = 4


class Tiles(NamedTuple):
    """Sizes of work.

    Attributes:
        rows, columns: of one load.
        tall: rows of a strip over which a program sums down. wide: columns over which a program sums across.
        vector: elements of u or v. flat: elements of a weight, where its shape does not matter.
    """

    rows: int
    columns: int
    tall: int
    wide: int
    vector: int
    flat: int
    num_warps: int


SHIPPED = Tiles(rows=16, columns=256, tall=128, wide=2048, vector=512, flat=8192, num_warps=8)
# So small that matrices which are quick to interpret have several of everything.
INTERPRETED = Tiles(rows=8, columns=32, tall=32, wide=128, vector=64, flat=1024, num_warps=4)


class Work(NamedTuple):
    """Tables on the device (int64, but for `strips` and `blocks`, int32) and how long the buffers are."""

    tiles: Tiles
    layers: Tensor
    tall: Tensor  # (layer, strip of rows, block of columns)
    wide: Tensor  # (layer, block of rows, strip of columns)
    u_blocks: Tensor  # (layer, block)
    v_blocks: Tensor
    pieces: Tensor  # (kind, layer, index): 0 a flat tile of the weight, 1 a block of u, 2 a block of v
    vectors: Tensor  # the pieces of kinds 1 and 2
    num_vector_elements: int
    num_u_partials: int
    num_v_partials: int
    aligned: bool


@functools.lru_cache(maxsize=256)
def work_for(layouts: tuple[Layout, ...], chosen: tuple[int, ...], tiles: Tiles, device: torch.device) -> Work:
    """The work of the layers `chosen` among those of a batch with these layouts."""
    offsets, place = [], 0
    for layout in layouts:
        offsets.append((place, place + layout.rows))
        place += layout.rows + layout.columns
    layers: list[tuple[int, ...]] = []
    tall: list[tuple[int, ...]] = []
    wide: list[tuple[int, ...]] = []
    u_blocks: list[tuple[int, ...]] = []
    v_blocks: list[tuple[int, ...]] = []
    flat: list[tuple[int, ...]] = []
    u_partials = v_partials = 0
    for number, index in enumerate(chosen):
        layout = layouts[index]
        rows, columns = layout.rows, layout.columns
        down, across = _ceil(rows, tiles.tall), _ceil(columns, tiles.wide)
        u_count, v_count = _ceil(rows, tiles.vector), _ceil(columns, tiles.vector)
        strips = _ceil(rows, tiles.rows) * across
        numel = rows * columns
        layers.append(
            (rows, columns, layout.inner, layout.channels, *offsets[index], u_partials, v_partials,
             len(u_blocks), u_count, len(v_blocks), v_count, len(wide), strips, numel, index)
        )  # fmt: skip
        tall += [(number, i, j) for i in range(down) for j in range(_ceil(columns, tiles.columns))]
        wide += [(number, i, j) for i in range(_ceil(rows, tiles.rows)) for j in range(across)]
        u_blocks += [(number, i) for i in range(u_count)]
        v_blocks += [(number, i) for i in range(v_count)]
        flat += [(0, number, i) for i in range(_ceil(numel, tiles.flat))]
        u_partials += across * rows
        v_partials += down * columns
    vectors = [(kind, *block) for kind, blocks in ((1, u_blocks), (2, v_blocks)) for block in blocks]

    def small(entries: Sequence[tuple[int, ...]]) -> Tensor:
        return to_device([x for entry in entries for x in entry], torch.int32, device).view(len(entries), -1)

    return Work(
        tiles,
        to_device([x for layer in layers for x in layer], torch.int64, device),
        small(tall),
        small(wide),
        small(u_blocks),
        small(v_blocks),
        small(flat + vectors),
        small(vectors),
        place,
        u_partials,
        v_partials,
        any(layouts[i].inner % UNIT == 0 for i in chosen),
    )


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def pointers(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """The addresses of the tensors, as a tensor on the device; kept, since an allocator gives the same ones again."""
    if device.type == "meta":
        return torch.empty(len(tensors), dtype=torch.int64, device=device)
    key = (device, *(x.data_ptr() for x in tensors))
    table = _tables.get(key)
    if table is None:
        table = to_device(key[1:], torch.int64, device)
        if _capturing(device):
            _captured.append(table)
        else:
            _tables[key] = table
            if len(_tables) > _MOST_TABLES:
                _tables.popitem(last=False)
    else:
        _tables.move_to_end(key)
    return table


_MOST_TABLES = 1024
_tables: "OrderedDict[tuple[object, ...], Tensor]" = OrderedDict()
# A CUDA graph copies from host memory again at each replay: that memory must stay, and be pinned before the capture.
_captured: list[Tensor] = []
_STAGING = 1 << 16
_staging: Tensor | None = None
_staged = 0


def to_device(numbers: Sequence[object], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of whole numbers on the device, without waiting for the device."""
    if device.type != "cuda":
        return torch.tensor(numbers, dtype=dtype, device=device)
    host = torch.tensor(numbers, dtype=dtype)
    if _capturing(device):
        host = _stage(host)
    elif _staging is None:
        _new_staging()
    return host.to(device, non_blocking=True)


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _new_staging() -> Tensor:
    global _staging, _staged
    if _staging is not None:
        _captured.append(_staging)
    _staging, _staged = torch.empty(_STAGING, dtype=torch.int64, pin_memory=True), 0
    return _staging


def _stage(host: Tensor) -> Tensor:
    global _staged
    count = host.numel() * host.element_size() // 8 + 1
    if count > _STAGING:
        raise RuntimeError("spectral_normalize: run the model once before capturing a CUDA graph of it")
    arena = _staging if _staging is not None and _staged + count <= _STAGING else _new_staging()
    place = arena[_staged : _staged + count].view(host.dtype)[: host.numel()]
    _staged += count
    return place.copy_(host)
