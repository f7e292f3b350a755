"""Where image files lie: a folder or a zip archive, which everything above reads alike."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TypeVar

from ganfuse.engine.data.image_decoding import IMAGE_SUFFIXES

StoreT = TypeVar("StoreT", bound="ImageStore")


class ImageStore(ABC):
    """Image files with names, in a fixed order. Picklable, and safe in worker processes and threads.

    Attributes:
        label: of the whole, for messages.
        names: of the images, relative to the whole, with "/" between folders.
        others: names of some files that are no images (at least one if there are any), for messages.
        num_others: how many there are.
        empty_folders: outermost folders without an image.
    """

    label: str
    names: Sequence[str]
    others: tuple[str, ...] = ()
    num_others: int = 0
    empty_folders: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def full_name(self, index: int) -> str:
        """The image's name in messages."""
        return f"{self.label}/{self.names[index]}"

    @abstractmethod
    def open(self, index: int) -> Path | IO[bytes]:
        """The image's file: a path, or an open file."""

    @abstractmethod
    def read_side_file(self, name: str) -> bytes | None:
        """A file that is no image, beside them; None if there is none of that name."""

    @abstractmethod
    def select(self: StoreT, indices: Iterable[int]) -> StoreT:
        """A store of some of the images, in that order."""

    @abstractmethod
    def below(self: StoreT, folder: str) -> StoreT:
        """A store of the images in one of the outermost folders, with names that are relative to it."""

    def _names_below(self, folder: str) -> list[str]:
        return [name.removeprefix(f"{folder}/") for name in self.names if name.startswith(f"{folder}/")]


class FolderStore(ImageStore):
    """The images below a folder. Hidden files and folders (a leading dot) are left out.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: the path is a file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.root = Path(folder).expanduser()
        if not self.root.exists():
            raise FileNotFoundError(f"no such folder: {self.root}")
        if not self.root.is_dir():
            raise NotADirectoryError(f"not a folder: {self.root}")
        self.label = str(self.root)
        names: list[str] = []
        others: list[str] = []
        _list_below(self.root, "", names, others)
        self.names = names
        self.others, self.num_others = tuple(others[:1]), len(others)
        filled = {name.partition("/")[0] for name in names}
        self.empty_folders = tuple(name for name in visible_folders(self.root) if name not in filled)

    def open(self, index: int) -> Path:
        return self.root / self.names[index]

    def read_side_file(self, name: str) -> bytes | None:
        path = self.root / name
        return path.read_bytes() if path.is_file() else None

    def select(self, indices: Iterable[int]) -> "FolderStore":
        chosen = FolderStore.__new__(FolderStore)
        chosen.root, chosen.label = self.root, self.label
        chosen.names = [self.names[index] for index in indices]
        return chosen

    def below(self, folder: str) -> "FolderStore":
        part = FolderStore.__new__(FolderStore)
        part.root, part.label, part.names = self.root / folder, f"{self.label}/{folder}", self._names_below(folder)
        return part


def open_store(path: str | Path) -> ImageStore:
    """A folder, or a zip archive of images.

    Raises:
        FileNotFoundError: nothing there.
        NotADirectoryError: a file that is no zip archive.
        ValueError: a damaged zip archive.
    """
    from ganfuse.engine.data.zip_store import ZipStore

    file = Path(path).expanduser()
    return ZipStore(file) if file.is_file() and file.suffix.lower() == ".zip" else FolderStore(path)


def visible_folders(folder: Path) -> list[str]:
    """Names of the sub-folders that are not hidden, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def reading_order(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts names as a walk does that lists a folder's own files before it enters its sub-folders."""
    *folders, file = name.split("/")
    return (*((1, folder) for folder in folders), (0, file))


# What tells about the images rather than being one of the user's stray files.
SIDE_FILES = frozenset({"dataset.json", "embeddings.npy", "embeddings.safetensors"})


def _list_below(root: Path, prefix: str, names: list[str], others: list[str], above: tuple[str, ...] = ()) -> None:
    folder = root / prefix
    # A link to a folder above would otherwise be followed without end.
    real = os.path.realpath(folder)
    if real in above:
        return
    subfolders = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                subfolders.append(name + "/")
            elif is_image_name(name):
                names.append(name)
            elif name not in SIDE_FILES:
                others.append(name)
    for subfolder in subfolders:
        _list_below(root, subfolder, names, others, (*above, real))
