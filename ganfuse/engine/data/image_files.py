"""A folder or a zip archive of images: each folder in it is a class; images without a folder are one class."""

import logging
from pathlib import Path

from ganfuse.engine.data.class_labels import find_labels
from ganfuse.engine.data.dataset import ImageDataset, fits_in_memory
from ganfuse.engine.data.decoders import DecodeOnAccess, Decoding, OnBadImage, StoreDecoder, decode_all
from ganfuse.engine.data.image_fit import Resize
from ganfuse.engine.data.image_store import ImageStore, open_store

logger = logging.getLogger("ganfuse.data")


def open_image_files(
    path: str | Path,
    *,
    resolution: int,
    channels: int | None = None,
    on_bad_image: OnBadImage = "error",
    cache: bool = True,
    resize: Resize = "crop",
) -> ImageDataset:
    """The images below a folder or in a zip archive, in the order of their names, decoded as `decode_image` says.

    Labels are those of `find_labels`: the folders, or ``dataset.json``. Hidden files and folders (a leading dot) are
    left out; so are files without an image's suffix, with a warning. Sets that fit in `CACHE_LIMIT` are decoded at
    once, so that a bad image shows before training starts; larger ones as they are read.

    Args:
        path: of the folder or archive.
        resolution: side of the images in pixels.
        channels: 1 or 3; None means 3.
        on_bad_image: "error" raises with the file's name. "skip" warns with its name and leaves it out; in a set that
            is read on access, the next readable image of its class stands in for it.
        cache: hold the decoded images in memory where they fit.
        resize: how pictures become square; see `fit_image`.

    Raises:
        FileNotFoundError: no such folder or archive.
        NotADirectoryError: the path is a file, and no archive.
        ValueError: no image, images both beside and inside folders, a damaged archive, or a wrong ``dataset.json``.
        UnreadableImageError: a bad image with ``on_bad_image="error"``, or not one good image.
    """
    store = open_store(path)
    labels, class_names = find_labels(store)
    decoding = Decoding(resolution, 3 if channels is None else channels, resize)
    return dataset_from_store(store, labels, class_names, decoding, str(path), on_bad_image=on_bad_image, cache=cache)


def dataset_from_store(
    store: ImageStore,
    labels: list[int],
    class_names: list[str],
    decoding: Decoding,
    name: str,
    *,
    on_bad_image: OnBadImage,
    cache: bool,
) -> ImageDataset:
    """A data set of the store's images, in memory if ``cache`` and they fit."""
    decoder = StoreDecoder(store, decoding)
    channels, resolution = decoding.channels, decoding.resolution
    if not (cache and fits_in_memory(len(store), channels, resolution)):
        load = DecodeOnAccess(decoder, labels, on_bad_image == "skip")
        return ImageDataset(
            name=name, class_names=class_names, channels=channels, resolution=resolution, labels=labels, load=load
        )
    images, kept = decode_all(decoder, (channels, resolution, resolution), on_bad_image)
    kept_labels = [labels[index] for index in kept]
    for label in sorted(set(labels) - set(kept_labels)):
        logger.warning("class %s has no image that can be read", class_names[label])
    return ImageDataset(
        name=name, class_names=class_names, channels=channels, resolution=resolution, labels=kept_labels, images=images
    )
