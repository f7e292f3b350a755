"""A .npy file as memory-mapped rows: nothing is read before it is used, and nothing is copied."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class MappedArray:
    """``mapped[i]`` is row ``i`` of the array in a .npy file, a view of the file's pages in memory.

    Every process maps the file for itself, so that worker processes neither copy it nor receive it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a .npy file, truncated, or of Python objects.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: tuple[int, NDArray[Any]] | None = None
        array = self._array()
        self.shape: tuple[int, ...] = array.shape
        self.dtype = array.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int) -> NDArray[Any]:
        row: NDArray[Any] = self._array()[index]
        return row

    def _array(self) -> NDArray[Any]:
        if self._map is None or self._map[0] != os.getpid():
            try:
                # Copy on write: PyTorch wants memory that it may write to, and the file must never be changed.
                array = np.load(self.path, mmap_mode="c", allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise ValueError(f"{self.path}: not a complete .npy file of numbers ({error})") from error
            if not isinstance(array, np.ndarray) or array.ndim == 0:
                raise ValueError(f"{self.path}: not a .npy file of an array")
            self._map = os.getpid(), array
        return self._map[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}
