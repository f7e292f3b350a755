"""Pairs of domains in files: two folders, ``trainA`` and ``trainB``, or both images side by side in one file."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ganfuse.engine.data.class_labels import find_labels
from ganfuse.engine.data.dataset import ImageDataset, fits_in_memory
from ganfuse.engine.data.decoders import (
    DecodeOnAccess,
    Decoder,
    Decoding,
    JointDecoder,
    OnBadImage,
    StoreDecoder,
    decode_all,
)
from ganfuse.engine.data.image_files import dataset_from_store
from ganfuse.engine.data.image_store import ImageStore, open_store
from ganfuse.engine.data.pairs import PairedDataset, UnpairedDataset

SPLITS = ("train", "val", "test")
_TWO_SOURCES = re.compile(r"a=(?P<a>.+),\s*b=(?P<b>.+)")


def parse_two_sources(source: str) -> tuple[str, str] | None:
    """``"a=photos,b=paintings"`` as ``("photos", "paintings")``; None for anything else."""
    match = _TWO_SOURCES.fullmatch(source)
    return None if match is None else (match["a"].strip(), match["b"].strip())


def open_unpaired_files(
    path: str | Path,
    decoding: Decoding,
    *,
    split: str = "train",
    on_bad_image: OnBadImage = "error",
    cache: bool = True,
) -> UnpairedDataset:
    """The two domains in a folder or zip archive: its folders ``trainA`` and ``trainB`` (or of another split), its
    folders ``A`` and ``B``, or the only two folders that it has.

    Raises:
        ValueError: neither; unknown split.
        UnreadableImageError: a bad image with ``on_bad_image="error"``.
    """
    store = open_store(path)
    folders = _domain_folders(store, _checked_split(split))
    if folders is None:
        found = ", ".join(_folders(store)) or "no folder"
        raise ValueError(
            f"{store.label}: expected the folders {split}A and {split}B, A and B, or two folders, found {found}; or "
            "give two sources, a=PATH,b=PATH"
        )
    domains = []
    for folder in folders:
        part = store.below(folder)
        labels = [0] * len(part)
        name = f"{path}/{folder}"
        domains.append(
            dataset_from_store(part, labels, [folder], decoding, name, on_bad_image=on_bad_image, cache=cache)
        )
    return UnpairedDataset(domains[0], domains[1], name=str(path), domain_names=folders)


def open_paired_files(
    path: str | Path,
    decoding: Decoding,
    *,
    split: str = "train",
    on_bad_image: OnBadImage = "error",
    cache: bool = True,
) -> PairedDataset:
    """Pairs in a folder or zip archive.

    Either two folders of domains as in `open_unpaired_files`, whose images of the same name (without the ending) belong
    together; or images that hold both, A on the left and B on the right, as pix2pix has them, directly in it or in its
    folder ``train`` (or of another split).

    Raises:
        ValueError: an image without a partner; unknown split; no image.
        UnreadableImageError: a bad image with ``on_bad_image="error"``, such as one of an odd width.
    """
    store = open_store(path)
    folders = _domain_folders(store, _checked_split(split))
    if folders is not None:
        stores = store.below(folders[0]), store.below(folders[1])
        return pair_stores(*stores, decoding, str(path), folders, on_bad_image=on_bad_image, cache=cache)
    if split in _folders(store):
        store = store.below(split)
    elif split != "train":
        raise ValueError(f"{store.label}: there is no split {split!r} (no folder {split}, nor {split}A and {split}B)")
    labels, class_names = find_labels(store)
    decoder = StoreDecoder(store, decoding, columns=2)
    return _dataset(decoder, labels, class_names, decoding, str(path), ("a", "b"), on_bad_image, cache)


def pair_stores(
    first: ImageStore,
    second: ImageStore,
    decoding: Decoding,
    name: str,
    domain_names: tuple[str, str],
    *,
    on_bad_image: OnBadImage,
    cache: bool,
) -> PairedDataset:
    """Pairs of the images that have the same name in both stores, whatever their endings.

    Raises:
        ValueError: an image without a partner, or two images of the same name.
    """
    firsts, seconds = _by_stem(first), _by_stem(second)
    for alone, store in ((firsts.keys() - seconds.keys(), second), (seconds.keys() - firsts.keys(), first)):
        if alone:
            raise ValueError(
                f"{name}: {len(alone)} images have no partner of the same name in {store.label}, such as {min(alone)}"
            )
    if not firsts:
        raise ValueError(f"{name}: no image in {first.label}")
    aligned = second.select(seconds[stem] for stem in firsts)
    decoder = JointDecoder((StoreDecoder(first, decoding), StoreDecoder(aligned, decoding)))
    return _dataset(decoder, [0] * len(first), ["pair"], decoding, name, domain_names, on_bad_image, cache)


def _dataset(
    decoder: Decoder,
    labels: list[int],
    class_names: list[str],
    decoding: Decoding,
    name: str,
    domain_names: tuple[str, str],
    on_bad_image: OnBadImage,
    cache: bool,
) -> PairedDataset:
    load, images = None, None
    if cache and fits_in_memory(2 * len(decoder), decoding.channels, decoding.resolution):
        shape = (2, decoding.channels, decoding.resolution, decoding.resolution)
        images, kept = decode_all(decoder, shape, on_bad_image)
        labels = [labels[index] for index in kept]
    else:
        load = DecodeOnAccess(decoder, labels, on_bad_image == "skip")
    first, second = (
        ImageDataset(
            name=f"{name} ({domain_names[side]})",
            labels=labels,
            class_names=class_names,
            channels=decoding.channels,
            resolution=decoding.resolution,
            load=None if load is None else _LoadSide(load, side),
            images=None if images is None else images[:, side],
        )
        for side in range(2)
    )
    return PairedDataset(first, second, name=name, domain_names=domain_names, load_pair=load)


@dataclass(frozen=True)
class _LoadSide:
    load: DecodeOnAccess
    side: int

    def __call__(self, index: int) -> Tensor:
        return self.load(index)[self.side]


def _checked_split(split: str) -> str:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    return split


def _folders(store: ImageStore) -> list[str]:
    return sorted({name.partition("/")[0] for name in store.names if "/" in name})


def _domain_folders(store: ImageStore, split: str) -> tuple[str, str] | None:
    folders = _folders(store)
    for pair in ((f"{split}A", f"{split}B"), ("A", "B")):
        # A and B hold no splits, so they are the training images.
        if set(pair) <= set(folders) and (split == "train" or pair[0] != "A"):
            return pair
    known = {name for each in SPLITS for name in (each, f"{each}A", f"{each}B")}
    if split == "train" and len(folders) == 2 and not known & set(folders) and all("/" in name for name in store.names):
        return folders[0], folders[1]
    return None


def _by_stem(store: ImageStore) -> dict[str, int]:
    by_stem: dict[str, int] = {}
    for index, name in enumerate(store.names):
        stem = os.path.splitext(name)[0]
        if stem in by_stem:
            raise ValueError(
                f"{store.label}: {store.names[by_stem[stem]]} and {name} have the same name; pairs go by it"
            )
        by_stem[stem] = index
    return by_stem
