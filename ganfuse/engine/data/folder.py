"""A folder of images: each sub-folder is a class; images directly in the folder are one class."""

import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ganfuse.engine.data.dataset import ImageDataset, fits_in_memory
from ganfuse.engine.data.image_decoding import IMAGE_SUFFIXES, UnreadableImageError, decode_image
from ganfuse.engine.data.progress import progress_bar

logger = logging.getLogger("ganfuse.data")

OnBadImage = Literal["error", "skip"]


@dataclass(frozen=True)
class DecodeOnAccess:
    """Loads image ``index`` from its file. With ``skip``, the next readable one in order stands in for a bad one."""

    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    resolution: int
    channels: int
    skip: bool

    def __call__(self, index: int) -> Tensor:
        try:
            return decode_image(self.paths[index], resolution=self.resolution, channels=self.channels)
        except UnreadableImageError as error:
            if not self.skip:
                raise
            return self._stand_in(index, error)

    def _stand_in(self, index: int, first_error: UnreadableImageError) -> Tensor:
        # Of the same class: the label that goes with the image stays true.
        mates = [other for other in range(len(self.paths)) if self.labels[other] == self.labels[index]]
        start = mates.index(index) + 1
        for other in mates[start:] + mates[: start - 1]:
            try:
                image = decode_image(self.paths[other], resolution=self.resolution, channels=self.channels)
            except UnreadableImageError:
                continue
            logger.warning("skipped: %s (%s stands in for it)", first_error, self.paths[other].name)
            return image
        raise UnreadableImageError(f"no image of this class can be read; the first: {first_error}")


def open_folder(
    folder: str | Path,
    *,
    resolution: int,
    channels: int | None = None,
    on_bad_image: OnBadImage = "error",
    cache: bool = True,
) -> ImageDataset:
    """The images under ``folder``, in the order of their names, decoded as `decode_image` says.

    Classes are the sub-folders that hold images at any depth, sorted by name. Hidden files and folders (a leading dot)
    are left out; so are files without an image's suffix, with a warning. Sets that fit in `CACHE_LIMIT` are decoded at
    once, so that a bad image shows before training starts; larger ones as they are read.

    Args:
        folder: path of the folder.
        resolution: side of the images in pixels.
        channels: 1 or 3; None means 3.
        on_bad_image: "error" raises with the file's name. "skip" warns with its name and leaves it out; in a set that
            is read on access, the next readable image of its class stands in for it.
        cache: hold the decoded images in memory where they fit.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: the path is a file.
        ValueError: no image, or images both beside and inside sub-folders.
        UnreadableImageError: a bad image with ``on_bad_image="error"``, or not one good image.
    """
    root = Path(folder).expanduser()
    if not root.exists():
        raise FileNotFoundError(f"no such folder: {root}")
    if not root.is_dir():
        raise NotADirectoryError(f"not a folder: {root}")
    class_names, paths, labels = _find_classes(root)
    channels = 3 if channels is None else channels
    dataset = partial(ImageDataset, name=str(folder), class_names=class_names, channels=channels, resolution=resolution)
    if not (cache and fits_in_memory(len(paths), channels, resolution)):
        load = DecodeOnAccess(tuple(paths), tuple(labels), resolution, channels, on_bad_image == "skip")
        return dataset(labels=labels, load=load)
    images, kept = _decode_all(paths, resolution, channels, skip=on_bad_image == "skip")
    kept_labels = [labels[index] for index in kept]
    for label in sorted(set(labels) - set(kept_labels)):
        logger.warning("class %s has no image that can be read", class_names[label])
    return dataset(labels=kept_labels, images=images)


def _find_classes(root: Path) -> tuple[list[str], list[Path], list[int]]:
    others: list[Path] = []
    loose, subfolders = _list(root, others)
    found = {subfolder.name: _images_below(subfolder, others) for subfolder in subfolders}
    classes = {name: paths for name, paths in found.items() if paths}
    if not classes and not loose:
        hint = f"it has {len(others)} other files, such as {others[0].name}" if others else "it is empty"
        raise ValueError(f"no image in {root} ({hint}); image files end in {' '.join(sorted(IMAGE_SUFFIXES))}")
    if others:
        logger.warning("%s: left out %d files that are not images, such as %s", root, len(others), others[0])
    if not classes:
        return [root.resolve().name or "image"], loose, [0] * len(loose)
    if loose:
        raise ValueError(
            f"{root} has images in itself ({loose[0].name}, ...) and in sub-folders (such as {next(iter(classes))}); "
            "put every image into the sub-folder of its class, or all of them into one folder without sub-folders"
        )
    for name in found:
        if name not in classes:
            logger.warning("%s: sub-folder %s has no image and is no class", root, name)
    names = list(classes)
    paths = [path for name in names for path in classes[name]]
    return names, paths, [label for label, name in enumerate(names) for _ in classes[name]]


def _list(folder: Path, others: list[Path]) -> tuple[list[Path], list[Path]]:
    """Images and sub-folders of one folder by name; the rest is appended to ``others``."""
    images: list[Path] = []
    subfolders: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                subfolders.append(path)
            else:
                (images if path.suffix.lower() in IMAGE_SUFFIXES else others).append(path)
    return images, subfolders


def _images_below(folder: Path, others: list[Path], above: tuple[str, ...] = ()) -> list[Path]:
    # A link to a folder above would otherwise be followed without end.
    real = os.path.realpath(folder)
    if real in above:
        return []
    images, subfolders = _list(folder, others)
    for subfolder in subfolders:
        images += _images_below(subfolder, others, (*above, real))
    return images


def _decode_all(paths: list[Path], resolution: int, channels: int, *, skip: bool) -> tuple[Tensor, list[int]]:
    images = torch.empty(len(paths), channels, resolution, resolution, dtype=torch.uint8)
    kept: list[int] = []
    bad: list[UnreadableImageError] = []
    with progress_bar("Reading images", len(paths)) as advance:
        for index, result in enumerate(_decode_in_order(paths, resolution, channels)):
            advance(1)
            if isinstance(result, Tensor):
                images[len(kept)] = result
                kept.append(index)
                continue
            if not skip:
                raise result
            bad.append(result)
            logger.warning("skipped: %s", result)
    if not kept:
        raise UnreadableImageError(f"none of the {len(paths)} images can be read; the first: {bad[0]}")
    if bad:
        logger.warning("skipped %d of %d images, which cannot be read", len(bad), len(paths))
    return images[: len(kept)], kept


def _decode_in_order(paths: Iterable[Path], resolution: int, channels: int) -> Iterator[Tensor | UnreadableImageError]:
    def attempt(path: Path) -> Tensor | UnreadableImageError:
        try:
            return decode_image(path, resolution=resolution, channels=channels)
        except UnreadableImageError as error:
            return error

    # Threads suffice, since Pillow lets go of the interpreter while it decodes and resizes. The queue is bounded, so
    # that an error on the first image does not wait for all the others.
    workers = min(8, os.cpu_count() or 1)
    pending: deque[Future[Tensor | UnreadableImageError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for path in paths:
            pending.append(pool.submit(attempt, path))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
