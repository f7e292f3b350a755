"""Writing the packed form of a data set (see `ganfuse.engine.data.packed`)."""

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from ganfuse.engine.atomic_file import atomic_write
from ganfuse.engine.data.dataset import ImageDataset
from ganfuse.engine.data.decoders import OnBadImage, decode_in_order
from ganfuse.engine.data.packed import IMAGES, LABELS, META, PackedMeta, is_packed

logger = logging.getLogger("ganfuse.data")


def pack_dataset(
    data: ImageDataset,
    out: str | Path,
    *,
    source: str,
    resize: str = "crop",
    on_bad_image: OnBadImage = "error",
    overwrite: bool = False,
) -> PackedMeta:
    """Writes all images of a data set, in their order, as a packed set.

    Everything is written to a folder beside ``out`` and takes its name at the end, so that ``out`` is whole or not
    there. What an attempt that was killed has left is removed by the next one.

    Args:
        data: opened with ``cache=False`` and ``on_bad_image="error"``, since no image may stand in for another here.
        out: the folder to make.
        source: what the user called the source.
        resize: how its pictures were made square.
        on_bad_image: "skip" leaves unreadable images out, with a warning.
        overwrite: replace a packed set that is there; nothing else is ever replaced.

    Raises:
        FileExistsError: something is there.
        UnreadableImageError: a bad image with ``on_bad_image="error"``.
    """
    target = Path(out).expanduser()
    require_free(target, overwrite=overwrite)
    with _partial_folder(target) as partial:
        kept, images_sha256 = _write_images(data, partial / IMAGES, on_bad_image)
        labels = data.labels[torch.tensor(kept)].contiguous().numpy()
        with atomic_write(partial / LABELS) as file:
            np.save(file, labels, allow_pickle=False)
        meta = PackedMeta(
            source=source,
            resize=resize,
            count=len(kept),
            channels=data.channels,
            resolution=data.resolution,
            class_names=data.class_names,
            images_sha256=images_sha256,
            labels_sha256=hashlib.sha256(labels.tobytes()).hexdigest(),
        )
        with atomic_write(partial / META) as file:
            file.write(meta.to_json())
    return meta


def require_free(target: Path, *, overwrite: bool) -> None:
    """Raises a FileExistsError unless ``target`` may be written: nothing there, an empty folder, or, with
    ``overwrite``, a packed set."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"out: {target} is already there")
    if not is_packed(target):
        raise FileExistsError(f"out: {target} is there and no packed data set; it is not overwritten")


@dataclass(frozen=True)
class _Items:
    """The images of a data set as a `Decoder`."""

    data: ImageDataset

    def __len__(self) -> int:
        return len(self.data)

    def __call__(self, index: int) -> Tensor:
        return self.data[index][0]

    def name(self, index: int) -> str:
        return f"{self.data.name}, image {index}"


def _write_images(data: ImageDataset, path: Path, on_bad_image: OnBadImage) -> tuple[list[int], str]:
    """The numbers of the images written, and the SHA-256 of their bytes."""
    kept: list[int] = []
    digest = hashlib.sha256()
    with open(path, "xb") as file:
        file.write(_header(data, len(data)))
        for index, image in decode_in_order(_Items(data), on_bad_image, "Packing images"):
            content = image.contiguous().numpy().tobytes()
            file.write(content)
            digest.update(content)
            kept.append(index)
        _finish(file, data, len(kept))
    return kept, digest.hexdigest()


def _finish(file: IO[bytes], data: ImageDataset, count: int) -> None:
    if count != len(data):
        # Left room for at the start: headers are padded, and fewer images need no more digits.
        header = _header(data, count)
        if len(header) != len(_header(data, len(data))):
            raise RuntimeError("the header of a .npy file changed its length")
        file.seek(0)
        file.write(header)
    file.flush()
    os.fsync(file.fileno())


def _header(data: ImageDataset, count: int) -> bytes:
    buffer = io.BytesIO()
    shape = (count, data.channels, data.resolution, data.resolution)
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


@contextmanager
def _partial_folder(target: Path) -> Iterator[Path]:
    """A new folder beside ``target`` that takes its name when the block ends, and vanishes if the block raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, replaced = (target.with_name(f".{target.name}.{what}") for what in ("partial", "replaced"))
    if partial.exists():
        logger.warning("%s: removing what an earlier attempt has left", partial)
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        yield partial
        if target.exists():
            # A folder cannot be renamed over another that is not empty.
            shutil.rmtree(replaced, ignore_errors=True)
            target.rename(replaced)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if replaced.exists() and not target.exists():
            replaced.rename(target)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
