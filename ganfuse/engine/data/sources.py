"""`open_dataset`: from what a user writes as the source to a data set."""

import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ganfuse.engine.data.dataset import ImageDataset
from ganfuse.engine.data.digits import open_digits
from ganfuse.engine.data.fashion_mnist import open_fashion_mnist
from ganfuse.engine.data.folder import OnBadImage, open_folder

#: Sources that have a name; everything else is the path of a folder.
NAMED_SOURCES: dict[str, Callable[..., ImageDataset]] = {
    "digits": open_digits,
    "fashion-mnist": open_fashion_mnist,
}

MAX_RESOLUTION = 4096


def open_dataset(
    source: str | Path,
    *,
    resolution: int,
    channels: int | None = None,
    on_bad_image: OnBadImage = "error",
    cache: bool = True,
    **options: Any,
) -> ImageDataset:
    """Opens a data set by name or by path.

    Args:
        source: ``"digits"``, ``"fashion-mnist"``, or the path of a folder of images (class = sub-folder). A folder that
            has the name of a source is meant by ``./digits``.
        resolution: side of the (square) images in pixels, 4 to 4096.
        channels: 1 (gray), 3 (RGB), or None for the source's own: 1 for the named ones, 3 for folders.
        on_bad_image: folders only: ``"error"`` or ``"skip"`` (with a warning) for files that cannot be read.
        cache: hold the images in memory where they need at most `ganfuse.engine.data.CACHE_LIMIT` bytes.
        **options: of the source: ``split="train" | "test"`` for fashion-mnist.

    Returns:
        A map-style data set: ``dataset[i]`` is an image, uint8 ``(channels, resolution, resolution)``, and its label.

    Raises:
        ValueError: a wrong argument, no image in the folder, an unreadable image.
        FileNotFoundError: neither a name nor an existing folder; or a data set that could not be downloaded.
    """
    if isinstance(resolution, bool) or not isinstance(resolution, int) or not 4 <= resolution <= MAX_RESOLUTION:
        raise ValueError(f"resolution must be a whole number of pixels from 4 to {MAX_RESOLUTION}, got {resolution!r}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1, 3 or None (the source's own), got {channels!r}")
    if on_bad_image not in ("error", "skip"):
        raise ValueError(f"on_bad_image must be 'error' or 'skip', got {on_bad_image!r}")
    if isinstance(source, str) and source in NAMED_SOURCES:
        if source != "fashion-mnist":
            _refuse(options, source)
        _refuse({key: value for key, value in options.items() if key != "split"}, source)
        return NAMED_SOURCES[source](resolution=resolution, channels=channels, cache=cache, **options)
    if not Path(source).expanduser().exists():
        raise FileNotFoundError(_unknown(str(source)))
    _refuse(options, f"the folder {source}")
    return open_folder(source, resolution=resolution, channels=channels, on_bad_image=on_bad_image, cache=cache)


def _refuse(options: dict[str, Any], source: str) -> None:
    if options:
        raise ValueError(f"{source} has no option {', '.join(map(repr, options))}")


def _unknown(source: str) -> str:
    names = ", ".join(NAMED_SOURCES)
    near = difflib.get_close_matches(source.lower().replace("_", "-"), NAMED_SOURCES, n=1)
    meant = f" Did you mean {near[0]!r}?" if near else ""
    return f"data source {source!r} is neither a name ({names}) nor an existing folder.{meant}"
