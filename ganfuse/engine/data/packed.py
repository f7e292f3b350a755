"""The packed form of a data set: decoded images in one memory-mapped file, so that reading costs a page fault.

A packed set is a folder of

* ``images.npy``: uint8 ``(count, channels, resolution, resolution)``,
* ``labels.npy``: int64 ``(count,)``,
* ``packed.json``: what it was made from, sizes, class names, and the SHA-256 of both arrays' bytes.

`ganfuse.engine.data.packing` writes it.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganfuse.engine.data.dataset import ImageDataset
from ganfuse.engine.data.mapped_array import MappedArray

PREFIX = "packed:"
IMAGES, LABELS, META = "images.npy", "labels.npy", "packed.json"
FORMAT = "ganfuse packed images"
VERSION = 1


@dataclass(frozen=True)
class PackedMeta:
    """The content of ``packed.json``.

    Attributes:
        source: what was packed, as the user wrote it.
        resize: how the pictures were made square.
        count, channels, resolution: the shape of the images.
        class_names: of the labels.
        images_sha256, labels_sha256: of the arrays' bytes, without the headers of the files.
    """

    source: str
    resize: str
    count: int
    channels: int
    resolution: int
    class_names: tuple[str, ...]
    images_sha256: str
    labels_sha256: str

    def to_json(self) -> bytes:
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(content, indent=1, ensure_ascii=False).encode()


def is_packed(folder: str | Path) -> bool:
    """Whether the folder is a packed set."""
    return (Path(folder).expanduser() / META).is_file()


def read_meta(folder: str | Path) -> PackedMeta:
    """What is packed in the folder.

    Raises:
        FileNotFoundError: the folder is no packed set.
        ValueError: ``packed.json`` is damaged, or of a version that this one cannot read.
    """
    path = Path(folder).expanduser() / META
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} is not a packed data set: it has no {META} (see: ganfuse pack --help)")
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); pack the source again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path}: not the description of a packed data set")
    if content.get("version") != VERSION:
        raise ValueError(f"{path}: packed in version {content.get('version')} of the form, this reads {VERSION}")
    return _meta(content, path)


def _meta(content: Mapping[str, Any], path: Path) -> PackedMeta:
    values = {field.name: content.get(field.name) for field in fields(PackedMeta)}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise ValueError(f"{path}: it lacks {', '.join(missing)}; pack the source again")
    return PackedMeta(**{**values, "class_names": tuple(values["class_names"] or ())})  # type: ignore[arg-type]


@dataclass(frozen=True)
class LoadPacked:
    """Image ``index`` as a view of the file's memory, without a copy. It must not be written to."""

    images: MappedArray

    def __call__(self, index: int) -> Tensor:
        return torch.from_numpy(self.images[index])


def open_packed(
    folder: str | Path, *, resolution: int | None = None, channels: int | None = None, verify: bool = False
) -> ImageDataset:
    """A data set that `ganfuse pack` has written; ``dataset[i]`` is a view of the file, without a copy.

    Args:
        folder: of the packed set.
        resolution: that which is expected; None takes the set's own.
        channels: those which are expected; None takes the set's own.
        verify: read everything once and compare its checksums.

    Raises:
        FileNotFoundError: not a packed set.
        ValueError: it was packed at another resolution or with other channels, or is damaged.
    """
    path = Path(folder).expanduser()
    meta = read_meta(path)
    for what, wanted, has in (("resolution", resolution, meta.resolution), ("channels", channels, meta.channels)):
        if wanted is not None and wanted != has:
            raise ValueError(
                f"{what}: {folder} was packed with {what} {has}, but {wanted} was asked for; pack its source again "
                f"(ganfuse pack {meta.source} OUT --{what} {wanted})"
            )
    images, labels = _arrays(path, meta)
    if verify:
        _verify(path, meta, images, labels)
    return ImageDataset(
        name=str(folder),
        labels=torch.from_numpy(labels),
        class_names=meta.class_names,
        channels=meta.channels,
        resolution=meta.resolution,
        load=LoadPacked(images),
    )


def _arrays(path: Path, meta: PackedMeta) -> tuple[MappedArray, np.ndarray[Any, np.dtype[np.int64]]]:
    for name in (IMAGES, LABELS):
        if not (path / name).is_file():
            raise ValueError(f"{path}: {name} is missing; pack the source again")
    images = MappedArray(path / IMAGES)
    labels = np.load(path / LABELS, allow_pickle=False)
    expected = (meta.count, meta.channels, meta.resolution, meta.resolution)
    if images.shape != expected or images.dtype != np.uint8:
        raise ValueError(f"{path / IMAGES}: expected uint8 {expected}, got {images.dtype} {images.shape}")
    if labels.shape != (meta.count,) or labels.dtype != np.int64:
        raise ValueError(f"{path / LABELS}: expected int64 ({meta.count},), got {labels.dtype} {labels.shape}")
    return images, labels


def _verify(path: Path, meta: PackedMeta, images: MappedArray, labels: Any) -> None:
    digest = hashlib.sha256()
    for index in range(len(images)):
        digest.update(np.ascontiguousarray(images[index]).data)
    for name, found, expected in (
        (IMAGES, digest.hexdigest(), meta.images_sha256),
        (LABELS, hashlib.sha256(labels.tobytes()).hexdigest(), meta.labels_sha256),
    ):
        if found != expected:
            raise ValueError(f"{path / name}: SHA-256 is {found}, expected {expected}; pack the source again")
