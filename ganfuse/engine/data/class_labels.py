"""Which image has which label: from the folders it lies in, or from StyleGAN2-ADA's ``dataset.json``."""

import json
import logging
import os
from typing import Any

from ganfuse.engine.data.image_decoding import IMAGE_SUFFIXES
from ganfuse.engine.data.image_store import ImageStore

logger = logging.getLogger("ganfuse.data")

LABEL_FILE = "dataset.json"


def find_labels(store: ImageStore) -> tuple[list[int], list[str]]:
    """A label for each image of the store, and the classes' names.

    With a ``dataset.json`` beside the images, their labels are what it says, ``{"labels": [["a/1.png", 3], ...]}``, and
    its folders mean nothing; ``{"labels": null}`` makes one class. Otherwise the outermost folders are the classes, and
    images without a folder are one class.

    Raises:
        ValueError: no image; images both beside and inside folders; a ``dataset.json`` that does not fit.
    """
    if not len(store):
        hint = (
            f"it has {store.num_others} other files, such as {_base(store.others[0])}"
            if store.others
            else "it is empty"
        )
        raise ValueError(f"no image in {store.label} ({hint}); image files end in {' '.join(sorted(IMAGE_SUFFIXES))}")
    if store.num_others:
        logger.warning(
            "%s: left out %d files that are not images, such as %s", store.label, store.num_others, store.others[0]
        )
    content = store.read_side_file(LABEL_FILE)
    if content is not None:
        where = f"{store.label}/{LABEL_FILE}"
        labels = _parse(content, where)
        if labels is None:
            return _one_class(store)
        return _from_file(store, labels, where)
    return _from_folders(store)


def _one_class(store: ImageStore) -> tuple[list[int], list[str]]:
    name = os.path.splitext(os.path.basename(os.path.realpath(store.label)))[0]
    return [0] * len(store), [name or "image"]


def _from_folders(store: ImageStore) -> tuple[list[int], list[str]]:
    folders = [name.partition("/")[0] if "/" in name else "" for name in store.names]
    names = sorted(set(folders))
    if names == [""]:
        return _one_class(store)
    if names[0] == "":
        raise ValueError(
            f"{store.label} has images in itself ({store.names[folders.index('')]}, ...) and in sub-folders (such as "
            f"{names[1]}); put every image into the sub-folder of its class, or all of them into one folder without "
            "sub-folders"
        )
    for folder in store.empty_folders:
        logger.warning("%s: sub-folder %s has no image and is no class", store.label, folder)
    number = {name: label for label, name in enumerate(names)}
    return [number[folder] for folder in folders], names


def _parse(content: bytes, where: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(parsed, dict) or "labels" not in parsed:
        raise ValueError(f'{where}: expected {{"labels": [["path", 3], ...]}}; move it away if it is no list of labels')
    labels = parsed["labels"]
    if labels is None:
        return None
    try:
        return {str(name).replace("\\", "/"): label for name, label in dict(labels).items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f'{where}: "labels" must be a list of [path, label] pairs ({error})') from error


def _from_file(store: ImageStore, labels: dict[str, Any], where: str) -> tuple[list[int], list[str]]:
    found = []
    for name in store.names:
        if name not in labels:
            raise ValueError(f"{where}: no label for {name}")
        label = labels[name]
        if isinstance(label, bool) or not isinstance(label, int) or label < 0:
            raise ValueError(f"{where}: the label of {name} must be a whole number of at least 0, got {label!r}")
        found.append(label)
    unused = len(labels.keys() - set(store.names))
    if unused:
        logger.warning("%s: %d of its %d labels belong to no image here", where, unused, len(labels))
    return found, [str(label) for label in range(max(found) + 1)]


def _base(name: str) -> str:
    return name.rpartition("/")[2]
