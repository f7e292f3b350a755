"""`open_dataset`: from what a user writes as the source to a data set."""

import difflib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, overload

from ganfuse.engine.data import captioned, hugging_face, packed
from ganfuse.engine.data.dataset import ImageDataset
from ganfuse.engine.data.decoders import Decoding, OnBadImage
from ganfuse.engine.data.demo_domains import open_digits_thick, open_fashion_edges
from ganfuse.engine.data.digits import open_digits
from ganfuse.engine.data.embedded import EmbeddedDataset
from ganfuse.engine.data.embedding_files import open_embedded_files
from ganfuse.engine.data.fashion_mnist import open_fashion_mnist
from ganfuse.engine.data.image_files import open_image_files
from ganfuse.engine.data.image_fit import Resize, check_resize
from ganfuse.engine.data.image_store import open_store
from ganfuse.engine.data.pair_files import open_paired_files, open_unpaired_files, pair_stores, parse_two_sources
from ganfuse.engine.data.pairs import PairedDataset, UnpairedDataset
from ganfuse.engine.data.subset import limit_dataset

#: Sources of images that have a name.
NAMED_SOURCES: dict[str, Callable[..., ImageDataset]] = {
    "digits": open_digits,
    "fashion-mnist": open_fashion_mnist,
}
#: Sources of two domains that have a name.
NAMED_DOMAINS: dict[str, Callable[..., PairedDataset | UnpairedDataset]] = {
    "digits-thick": open_digits_thick,
    "fashion-edges": open_fashion_edges,
}
_NAMES_WITH_SPLITS = ("fashion-mnist", "fashion-edges")

#: What a game can ask for; each is a class of data sets.
DataKind = Literal["images", "unpaired", "paired", "embedded"]
AnyDataset = ImageDataset | UnpairedDataset | PairedDataset | EmbeddedDataset

MAX_RESOLUTION = 4096
_PICTURES_RESOLUTION = {"digits": 32, "fashion-mnist": 32, "digits-thick": 32, "fashion-edges": 32}
_FILES_RESOLUTION = 64


@overload
def open_dataset(
    source: str | Path,
    *,
    resolution: int,
    channels: int | None = ...,
    kind: Literal["images"] = ...,
    on_bad_image: OnBadImage = ...,
    cache: bool = ...,
    resize: Resize = ...,
    max_images: int | None = ...,
    **options: Any,
) -> ImageDataset: ...
@overload
def open_dataset(
    source: str | Path,
    *,
    resolution: int,
    channels: int | None = ...,
    kind: Literal["unpaired"],
    on_bad_image: OnBadImage = ...,
    cache: bool = ...,
    resize: Resize = ...,
    max_images: int | None = ...,
    **options: Any,
) -> UnpairedDataset: ...
@overload
def open_dataset(
    source: str | Path,
    *,
    resolution: int,
    channels: int | None = ...,
    kind: Literal["paired"],
    on_bad_image: OnBadImage = ...,
    cache: bool = ...,
    resize: Resize = ...,
    max_images: int | None = ...,
    **options: Any,
) -> PairedDataset: ...
@overload
def open_dataset(
    source: str | Path,
    *,
    resolution: int,
    channels: int | None = ...,
    kind: Literal["embedded"],
    on_bad_image: OnBadImage = ...,
    cache: bool = ...,
    resize: Resize = ...,
    max_images: int | None = ...,
    **options: Any,
) -> EmbeddedDataset: ...
@overload
def open_dataset(
    source: str | Path,
    *,
    resolution: int,
    channels: int | None = ...,
    kind: DataKind,
    on_bad_image: OnBadImage = ...,
    cache: bool = ...,
    resize: Resize = ...,
    max_images: int | None = ...,
    **options: Any,
) -> AnyDataset: ...
def open_dataset(
    source: str | Path,
    *,
    resolution: int,
    channels: int | None = None,
    kind: DataKind = "images",
    on_bad_image: OnBadImage = "error",
    cache: bool = True,
    resize: Resize = "crop",
    max_images: int | None = None,
    **options: Any,
) -> AnyDataset:
    """Opens a data set by name or by path.

    Args:
        source: for images ``"digits"``, ``"fashion-mnist"``, the path of a folder or zip archive of images (its folders
            are the classes), of a packed set (also ``"packed:DIR"``), or ``"hf:owner/name"``. For domains
            ``"digits-thick"``, ``"fashion-edges"``, a folder or archive with ``trainA`` and ``trainB``, or
            ``"a=SOURCE,b=SOURCE"``. For captions a folder or archive with embeddings, or ``"captioned:SOURCE"``, any
            source of images with sentences about its classes. A folder that has the name of a source is meant by
            ``./digits``.
        resolution: side of the (square) images in pixels, 4 to 4096.
        channels: 1 (gray), 3 (RGB), or None for the source's own: 1 for the named ones, 3 for files.
        kind: ``"images"`` with labels; ``"unpaired"`` or ``"paired"`` domains for translation; images with
            ``"embedded"`` captions.
        on_bad_image: files only: ``"error"`` or ``"skip"`` (with a warning) for those that cannot be read.
        cache: hold the images in memory where they need at most `ganfuse.engine.data.CACHE_LIMIT` bytes.
        resize: how pictures become square: ``"crop"``, ``"squash"`` or ``"pad"``; see `fit_image`.
        max_images: take at most so many, see `limit_dataset`.
        **options: of the source: ``split="train" | "test"`` for fashion-mnist, fashion-edges and folders of domains.

    Returns:
        A map-style data set of uint8 images: an `ImageDataset`, `UnpairedDataset`, `PairedDataset` or
        `EmbeddedDataset`, as ``kind`` says.

    Raises:
        ValueError: a wrong argument, a source that is not of this kind, no image in it, an unreadable image.
        FileNotFoundError: neither a name nor an existing path; or a data set that could not be downloaded.
    """
    _check_resolution(resolution)
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1, 3 or None (the source's own), got {channels!r}")
    if kind not in get_args(DataKind):
        raise ValueError(f"kind must be one of {', '.join(map(repr, get_args(DataKind)))}, got {kind!r}")
    if on_bad_image not in get_args(OnBadImage):
        raise ValueError(f"on_bad_image must be 'error' or 'skip', got {on_bad_image!r}")
    check_resize(resize)
    reading = _Reading(resolution, channels, on_bad_image, cache, resize)
    name = os.fspath(source)
    data: AnyDataset
    if kind == "images":
        data = reading.images(name, options)
    elif kind == "embedded":
        data = reading.embedded(name, options)
    else:
        data = reading.domains(name, kind == "paired", options)
    if max_images is not None:
        data = limit_dataset(data, max_images)
    chosen = {"resize": resize, "on_bad_image": on_bad_image, "max_images": max_images, **options}
    usual = {"resize": "crop", "on_bad_image": "error", "max_images": None}
    data.options = {key: value for key, value in chosen.items() if key not in usual or value != usual[key]}
    return data


def default_resolution(source: str | Path) -> int:
    """The side in pixels at which to open a source if nobody says: a packed set's own, 32 for the named sources (whose
    pictures are small), 64 for others."""
    name = os.fspath(source).removeprefix(captioned.PREFIX)
    folder = name.removeprefix(packed.PREFIX)
    if name not in _PICTURES_RESOLUTION and packed.is_packed(folder):
        return packed.read_meta(folder).resolution
    return _PICTURES_RESOLUTION.get(name, _FILES_RESOLUTION)


class _Reading:
    """The checked arguments of `open_dataset`, and a method for each kind."""

    def __init__(
        self, resolution: int, channels: int | None, on_bad_image: OnBadImage, cache: bool, resize: Resize
    ) -> None:
        self.resolution, self.channels, self.on_bad_image = resolution, channels, on_bad_image
        self.cache, self.resize = cache, resize
        self.decoding = Decoding(resolution, 3 if channels is None else channels, resize)

    def images(self, source: str, options: dict[str, Any]) -> ImageDataset:
        if source in NAMED_SOURCES:
            _refuse(options, source, allowed=("split",) if source in _NAMES_WITH_SPLITS else ())
            return NAMED_SOURCES[source](
                resolution=self.resolution, channels=self.channels, cache=self.cache, **options
            )
        if source.startswith(captioned.PREFIX):
            raise ValueError(f"data: {source} has captions, for models that take text; a set of images is needed here")
        if source in NAMED_DOMAINS or parse_two_sources(source):
            raise ValueError(
                f"data: {source} is two domains, for models that translate; a set of images is needed here"
            )
        _refuse(options, source)
        if source.startswith(hugging_face.PREFIX):
            return hugging_face.open_hugging_face(
                source, decoding=self.decoding, on_bad_image=self.on_bad_image, cache=self.cache
            )
        if source.startswith(packed.PREFIX) or packed.is_packed(source):
            folder = source.removeprefix(packed.PREFIX)
            return packed.open_packed(folder, resolution=self.resolution, channels=self.channels)
        _require_path(source, NAMED_SOURCES)
        return open_image_files(
            source,
            resolution=self.resolution,
            channels=self.channels,
            on_bad_image=self.on_bad_image,
            cache=self.cache,
            resize=self.resize,
        )

    def embedded(self, source: str, options: dict[str, Any]) -> EmbeddedDataset:
        if source.startswith(captioned.PREFIX):
            return captioned.add_captions(self.images(source.removeprefix(captioned.PREFIX), options))
        _refuse(options, source)
        if source in (*NAMED_SOURCES, *NAMED_DOMAINS):
            raise ValueError(
                f"data: {source} has no captions; expected a folder or zip archive with embeddings, or "
                f"{captioned.PREFIX}{source} for captions that name the classes"
            )
        _require_path(source, ())
        return open_embedded_files(source, self.decoding, on_bad_image=self.on_bad_image, cache=self.cache)

    def domains(self, source: str, paired: bool, options: dict[str, Any]) -> PairedDataset | UnpairedDataset:
        if source in NAMED_DOMAINS:
            _refuse(options, source, allowed=("split",) if source in _NAMES_WITH_SPLITS else ())
            return NAMED_DOMAINS[source](
                resolution=self.resolution, channels=self.channels, cache=self.cache, paired=paired, **options
            )
        both = parse_two_sources(source)
        if both is not None:
            _refuse(options, source)
            return self._paired(source, both) if paired else self._unpaired(source, both)
        if source in NAMED_SOURCES or source.startswith((hugging_face.PREFIX, packed.PREFIX)):
            raise ValueError(f"data: {source} is one set of images; two domains are needed: a={source},b=...")
        _require_path(source, NAMED_DOMAINS)
        _refuse(options, source, allowed=("split",))
        open_files = open_paired_files if paired else open_unpaired_files
        return open_files(source, self.decoding, on_bad_image=self.on_bad_image, cache=self.cache, **options)

    def _unpaired(self, source: str, both: tuple[str, str]) -> UnpairedDataset:
        first, second = (self.images(each, {}) for each in both)
        if first.channels != second.channels:
            # Gray pictures beside coloured ones become RGB, as they do in a folder of both.
            self.channels, self.decoding = 3, replace(self.decoding, channels=3)
            first, second = (self.images(each, {}) for each in both)
        return UnpairedDataset(first, second, name=source)

    def _paired(self, source: str, both: tuple[str, str]) -> PairedDataset:
        for each in both:
            _require_path(each, ())
        first, second = (open_store(each) for each in both)
        return pair_stores(
            first, second, self.decoding, source, ("a", "b"), on_bad_image=self.on_bad_image, cache=self.cache
        )


def _check_resolution(resolution: object) -> None:
    if isinstance(resolution, bool) or not isinstance(resolution, int) or not 4 <= resolution <= MAX_RESOLUTION:
        raise ValueError(f"resolution must be a whole number of pixels from 4 to {MAX_RESOLUTION}, got {resolution!r}")


def _refuse(options: dict[str, Any], source: str, allowed: tuple[str, ...] = ()) -> None:
    unknown = [name for name in options if name not in allowed]
    if unknown:
        raise ValueError(f"{source} has no option {', '.join(map(repr, unknown))}")


def _require_path(source: str, names: Any) -> None:
    if Path(source).expanduser().exists():
        return
    known = f"neither a name ({', '.join(names)}) nor" if names else "not"
    near = difflib.get_close_matches(source.lower().replace("_", "-"), names, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    raise FileNotFoundError(f"data source {source!r} is {known} an existing folder or zip archive.{meant}")
