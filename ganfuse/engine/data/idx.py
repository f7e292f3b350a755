"""The IDX format of the MNIST family: a big-endian header, then the array."""

import math
import struct

import numpy as np
import torch
from torch import Tensor

_UNSIGNED_BYTE = 0x08


def parse_idx(content: bytes, *, source: str) -> Tensor:
    """The uint8 array of an IDX file.

    Layout: two zero bytes, one byte for the type (0x08, unsigned byte, is what MNIST and its relatives use), one for
    the number of dimensions, each dimension as a big-endian uint32, the values in C order (LeCun, the MNIST page).

    Args:
        content: the uncompressed file.
        source: its name, for error messages.

    Raises:
        ValueError: not IDX, another element type, or a size that differs from the header's.
    """
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(f"{source}: not an IDX file (it starts with {content[:4].hex() or 'nothing'})")
    if content[2] != _UNSIGNED_BYTE:
        raise ValueError(f"{source}: IDX element type 0x{content[2]:02x}, expected 0x08 (unsigned byte)")
    header_size = 4 + 4 * content[3]
    if content[3] == 0 or len(content) < header_size:
        raise ValueError(f"{source}: truncated IDX header ({content[3]} dimensions in {len(content)} bytes)")
    shape = struct.unpack(f">{content[3]}I", content[4:header_size])
    count = math.prod(shape)
    if len(content) - header_size != count:
        raise ValueError(
            f"{source}: the IDX header promises {' × '.join(map(str, shape))} = {count:,} values, "
            f"the file has {len(content) - header_size:,}"
        )
    # frombuffer gives a read-only view of `content`, which PyTorch must not share.
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape).copy())
