"""``hf:owner/name[:split]``: data sets of the Hugging Face Hub, through their library `datasets`, which is optional."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

from ganfuse.engine.data.dataset import ImageDataset
from ganfuse.engine.data.decoders import Decoding, OnBadImage
from ganfuse.engine.data.image_files import dataset_from_store
from ganfuse.engine.data.image_store import ImageStore

PREFIX = "hf:"


def open_hugging_face(
    source: str,
    *,
    decoding: Decoding,
    on_bad_image: OnBadImage = "error",
    cache: bool = True,
) -> ImageDataset:
    """A data set of the Hub: its first column of images, and its first column of class labels if it has one.

    Args:
        source: ``hf:name``, ``hf:owner/name`` or ``hf:owner/name/configuration``, and ``:split`` unless it is
            ``train``.
        decoding: what the images become.
        on_bad_image: as for `open_image_files`.
        cache: hold the decoded images in memory where they fit.

    Raises:
        ValueError: `datasets` is not installed; a malformed source, a data set without images, or an unknown split.
    """
    path, config, split = parse_source(source)
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError(
            f"data: {source} needs the package `datasets`, which is not installed; pip install 'ganfuse[huggingface]'"
        ) from error
    table = datasets.load_dataset(path, config, split=split)
    image_column = _column(table.features, "Image")
    if image_column is None:
        raise ValueError(f"{source} has no column of images; its columns are {', '.join(table.features)}")
    label_column = _column(table.features, "ClassLabel")
    if label_column is None:
        labels, class_names = [0] * len(table), [path.rpartition("/")[2]]
    else:
        class_names = [str(name) for name in table.features[label_column].names]
        labels = [int(label) for label in table[label_column]]
        if any(label < 0 for label in labels):
            raise ValueError(f"{source}: some labels are -1, as in test splits without labels; choose another split")
    # The files' bytes rather than decoded pictures: they then become the same as those of a folder.
    encoded = table.cast_column(image_column, datasets.Image(decode=False))
    store = HubStore(source, encoded, image_column)
    return dataset_from_store(store, labels, class_names, decoding, source, on_bad_image=on_bad_image, cache=cache)


def parse_source(source: str) -> tuple[str, str | None, str]:
    """``"hf:owner/name/config:split"`` as ``("owner/name", "config", "split")``.

    Raises:
        ValueError: anything that is not of that form.
    """
    path, _, split = source.removeprefix(PREFIX).partition(":")
    parts = path.split("/")
    if not source.startswith(PREFIX) or not all(parts) or len(parts) > 3:
        raise ValueError(f"data source {source!r}: expected hf:owner/name or hf:owner/name:split")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split or "train"


class HubStore(ImageStore):
    """The image files in one column of a table."""

    def __init__(self, label: str, table: Any, column: str, rows: Sequence[int] | None = None) -> None:
        self.label = label
        self._table = table
        self._column = column
        self._rows = range(len(table)) if rows is None else rows
        self.names = _Numbers(self._rows)

    def open(self, index: int) -> Path | io.BytesIO:
        entry = self._table[self._rows[index]][self._column]
        if entry is None:
            raise ValueError("the row has no image")
        return io.BytesIO(entry["bytes"]) if entry.get("bytes") is not None else Path(entry["path"])

    def full_name(self, index: int) -> str:
        return f"{self.label}, row {self.names[index]}"

    def read_side_file(self, name: str) -> None:
        return None

    def select(self, indices: Iterable[int]) -> "HubStore":
        return HubStore(self.label, self._table, self._column, [self._rows[index] for index in indices])

    def below(self, folder: str) -> "HubStore":
        raise ValueError(f"{self.label} has no folders")


class _Numbers(Sequence[str]):
    """Row numbers as names, without a list of a million strings."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        return _Numbers(self._rows[index]) if isinstance(index, slice) else str(self._rows[index])


def _column(features: Any, kind: str) -> str | None:
    # By the type's name, which is stable, rather than by importing the types.
    return next((name for name, feature in features.items() if type(feature).__name__ == kind), None)
