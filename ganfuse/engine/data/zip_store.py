"""Images in a zip archive, read where they are: nothing is unpacked to the disk."""

import io
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ganfuse.engine.data.image_store import SIDE_FILES, ImageStore, is_image_name, reading_order


class ZipStore(ImageStore):
    """The images of a zip archive.

    Left out are hidden files, and what macOS adds (``__MACOSX``). An archive of one folder that holds only further
    folders (``cats.zip`` with ``cats/black/1.png``) is seen from inside that folder.

    Raises:
        ValueError: not a zip archive, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.label = str(path)
        self._handle: tuple[int, zipfile.ZipFile] | None = None
        members = sorted((name for name in self._archive().namelist() if _visible(name)), key=reading_order)
        images = [name for name in members if is_image_name(name)]
        self._prefix = _wrapping_folder(images)
        self.names = [name.removeprefix(self._prefix) for name in images]
        others = [name for name in members if not is_image_name(name) and Path(name).name not in SIDE_FILES]
        self.others, self.num_others = tuple(others[:1]), len(others)

    def open(self, index: int) -> io.BytesIO:
        return io.BytesIO(self._archive().read(self._prefix + self.names[index]))

    def read_side_file(self, name: str) -> bytes | None:
        try:
            return self._archive().read(self._prefix + name)
        except KeyError:
            return None

    def select(self, indices: Iterable[int]) -> "ZipStore":
        chosen = ZipStore.__new__(ZipStore)
        chosen.path, chosen.label, chosen._prefix, chosen._handle = self.path, self.label, self._prefix, None
        chosen.names = [self.names[index] for index in indices]
        return chosen

    def below(self, folder: str) -> "ZipStore":
        part = ZipStore.__new__(ZipStore)
        part.path, part.label, part._handle = self.path, f"{self.label}/{folder}", None
        part._prefix, part.names = f"{self._prefix}{folder}/", self._names_below(folder)
        return part

    def _archive(self) -> zipfile.ZipFile:
        # A forked process shares the file's position with its parent: each needs a handle of its own.
        if self._handle is None or self._handle[0] != os.getpid():
            try:
                self._handle = os.getpid(), zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise ValueError(f"{self.path} is not a zip archive, or a damaged one ({error})") from error
        return self._handle[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}


def _visible(name: str) -> bool:
    parts = name.split("/")
    return parts[-1] != "" and parts[0] != "__MACOSX" and not any(part.startswith(".") for part in parts)


def _wrapping_folder(names: list[str]) -> str:
    folder, slash, _ = names[0].partition("/") if names else ("", "", "")
    prefix = folder + slash
    wraps = bool(slash) and all(name.startswith(prefix) and "/" in name[len(prefix) :] for name in names)
    return prefix if wraps and len({name[len(prefix) :].split("/")[0] for name in names}) > 1 else ""
