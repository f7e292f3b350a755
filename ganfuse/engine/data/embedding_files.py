"""Images beside ``embeddings.npy`` or ``embeddings.safetensors``, in a folder or zip archive."""

import logging
import os
from pathlib import Path

import torch
from torch import Tensor

from ganfuse.engine.data.class_labels import find_labels
from ganfuse.engine.data.dataset import ImageDataset, fits_in_memory
from ganfuse.engine.data.decoders import (
    DecodeOnAccess,
    Decoding,
    OnBadImage,
    StoreDecoder,
    decode_all,
    decode_in_order,
)
from ganfuse.engine.data.embedded import EmbeddedDataset, EmbeddingTable
from ganfuse.engine.data.image_store import FolderStore, ImageStore, open_store
from ganfuse.engine.data.mapped_array import MappedArray

logger = logging.getLogger("ganfuse.data")

_NPY, _SAFETENSORS = "embeddings.npy", "embeddings.safetensors"
_TABLE_KEY = "embeddings"


def open_embedded_files(
    path: str | Path,
    decoding: Decoding,
    *,
    on_bad_image: OnBadImage = "error",
    cache: bool = True,
) -> EmbeddedDataset:
    """Images with the embeddings of their captions.

    ``embeddings.npy`` has the shape ``(N, features)`` or ``(N, captions, features)``, in the order of the images: by
    name, a folder's own images before those in its sub-folders. ``embeddings.safetensors`` has either one such tensor
    named ``embeddings``, or a tensor ``(features,)`` or ``(captions, features)`` for each image, under the image's name
    relative to the folder, with or without its ending. Where some images have fewer captions than others, theirs are
    repeated in turn. Classes are those of `find_labels`.

    Args:
        path: of the folder or zip archive (in which there is only ``embeddings.safetensors``).
        decoding: what the images become.
        on_bad_image: "error", or "skip" to leave unreadable ones out; without ``cache`` all are read once for that.
        cache: hold the decoded images in memory where they fit.

    Raises:
        ValueError: no embeddings, or not those of the images.
        UnreadableImageError: a bad image with ``on_bad_image="error"``.
    """
    store = open_store(path)
    labels, class_names = find_labels(store)
    table = _read_table(store)
    if table.shape[0] != len(store):
        raise ValueError(f"{store.label}: there are embeddings for {table.shape[0]} images, but {len(store)} images")
    decoder = StoreDecoder(store, decoding)
    shape = (decoding.channels, decoding.resolution, decoding.resolution)
    images: Tensor | None = None
    load = None
    kept = list(range(len(store)))
    if cache and fits_in_memory(len(store), decoding.channels, decoding.resolution):
        images, kept = decode_all(decoder, shape, on_bad_image)
    else:
        if on_bad_image == "skip":
            # No other image may stand in for a bad one here: the caption would not describe it.
            kept = [index for index, _ in decode_in_order(decoder, on_bad_image, "Checking images")]
            decoder = StoreDecoder(store.select(kept), decoding)
        load = DecodeOnAccess(decoder, [labels[index] for index in kept], skip=False)
    dataset = ImageDataset(
        name=str(path),
        labels=[labels[index] for index in kept],
        class_names=class_names,
        channels=decoding.channels,
        resolution=decoding.resolution,
        load=load,
        images=images,
    )
    return EmbeddedDataset(dataset, table, rows=kept)


def _read_table(store: ImageStore) -> EmbeddingTable:
    if isinstance(store, FolderStore) and (store.root / _NPY).is_file():
        if (store.root / _SAFETENSORS).is_file():
            raise ValueError(f"{store.label} has both {_NPY} and {_SAFETENSORS}; keep one")
        table = MappedArray(store.root / _NPY)
        if table.dtype.kind != "f":
            raise ValueError(f"{store.label}/{_NPY}: expected floating point numbers, got {table.dtype}")
        return table
    content = store.read_side_file(_SAFETENSORS)
    if content is None:
        raise ValueError(f"{store.label}: the images have no embeddings; expected {_NPY} or {_SAFETENSORS} beside them")
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(f"{store.label}/{_SAFETENSORS}: not a safetensors file ({error})") from error
    if set(tensors) == {_TABLE_KEY}:
        return tensors[_TABLE_KEY].float()
    return _by_name(store, tensors)


def _by_name(store: ImageStore, tensors: dict[str, Tensor]) -> Tensor:
    where = f"{store.label}/{_SAFETENSORS}"
    rows = []
    for name in store.names:
        stem = os.path.splitext(name)[0]
        key = name if name in tensors else stem
        if key not in tensors:
            raise ValueError(f"{where}: no embedding for {name} (looked for {name!r} and {stem!r})")
        row = tensors[key].float()
        if row.ndim not in (1, 2) or row.numel() == 0:
            raise ValueError(f"{where}: {key!r} must be (features,) or (captions, features), got {tuple(row.shape)}")
        rows.append(row.reshape(-1, row.shape[-1]))
    features = {row.shape[1] for row in rows}
    if len(features) > 1:
        raise ValueError(f"{where}: the embeddings have different numbers of features: {sorted(features)}")
    captions = max(len(row) for row in rows)
    if any(len(row) < captions for row in rows):
        logger.warning("%s: images have up to %d captions; those with fewer repeat theirs", where, captions)
    return torch.stack([row[torch.arange(captions) % len(row)] for row in rows])
