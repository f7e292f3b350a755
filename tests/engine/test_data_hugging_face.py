"""Data sets of the Hugging Face Hub, through a stand-in for the library `datasets`."""

import builtins
import io
import logging
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as PillowImage

from ganfuse.engine.data import UnreadableImageError, open_dataset
from ganfuse.engine.data.hugging_face import parse_source


class Image:
    """Like `datasets.Image`."""

    def __init__(self, decode: bool = True) -> None:
        self.decode = decode


class ClassLabel:
    """Like `datasets.ClassLabel`."""

    def __init__(self, names: list[str]) -> None:
        self.names = names


class Table:
    """Like `datasets.Dataset`: rows by number, columns by name."""

    def __init__(self, features: dict[str, Any], columns: dict[str, list[Any]]) -> None:
        self.features, self.columns = features, columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        row = {name: values[key] for name, values in self.columns.items()}
        for name, feature in self.features.items():
            assert not (isinstance(feature, Image) and feature.decode), f"{name} would be decoded"
        return row

    def cast_column(self, name: str, feature: Any) -> "Table":
        return Table({**self.features, name: feature}, self.columns)


class Hub:
    """Like the module `datasets`."""

    Image = Image
    ClassLabel = ClassLabel

    def __init__(self) -> None:
        self.asked: list[tuple[str, str | None, str]] = []
        self.table = Table({}, {})

    def load_dataset(self, path: str, name: str | None = None, *, split: str) -> Table:
        self.asked.append((path, name, split))
        return self.table


def png(level: int) -> bytes:
    buffer = io.BytesIO()
    PillowImage.new("L", (8, 8), level).save(buffer, format="png")
    return buffer.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    hub = Hub()
    monkeypatch.setitem(sys.modules, "datasets", hub)
    (tmp_path / "outside.png").write_bytes(png(30))
    images = [{"bytes": png(10), "path": "a.png"}, {"bytes": png(20), "path": None}]
    images.append({"bytes": None, "path": str(tmp_path / "outside.png")})
    hub.table = Table(
        {"id": object(), "picture": Image(), "kind": ClassLabel(["cat", "dog"])},
        {"id": [7, 8, 9], "picture": images, "kind": [1, 0, 1]},
    )
    return hub


@pytest.mark.parametrize("cache", [True, False])
def test_images_and_labels(hub: Hub, cache: bool) -> None:
    data = open_dataset("hf:owner/pets", resolution=4, channels=1, cache=cache)
    assert hub.asked == [("owner/pets", None, "train")]
    assert (data.name, data.class_names, data.labels.tolist()) == ("hf:owner/pets", ("cat", "dog"), [1, 0, 1])
    assert [int(image[0, 0, 0]) for image, _ in data] == [10, 20, 30]
    assert len(pickle.loads(pickle.dumps(data))) == 3


def test_without_labels_one_class(hub: Hub) -> None:
    hub.table = Table({"image": Image()}, {"image": [{"bytes": png(1), "path": None}]})
    data = open_dataset("hf:faces:test", resolution=4)
    assert hub.asked == [("faces", None, "test")]
    assert data.class_names == ("faces",)


def test_rows_that_cannot_be_read(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    hub.table.columns["picture"][:2] = [{"bytes": b"no picture", "path": None}, None]
    with pytest.raises(UnreadableImageError, match="cannot read image hf:owner/pets, row 0: not an image"):
        open_dataset("hf:owner/pets", resolution=4)
    with caplog.at_level(logging.WARNING):
        data = open_dataset("hf:owner/pets", resolution=4, on_bad_image="skip")
    assert data.labels.tolist() == [1]
    assert "row 1: the row has no image" in caplog.text


def test_tables_that_do_not_fit(hub: Hub) -> None:
    hub.table.columns["kind"] = [1, -1, 0]
    with pytest.raises(ValueError, match="some labels are -1"):
        open_dataset("hf:owner/pets", resolution=4)
    hub.table = Table({"text": object()}, {"text": ["a"]})
    with pytest.raises(ValueError, match="hf:owner/pets has no column of images; its columns are text"):
        open_dataset("hf:owner/pets", resolution=4)


def test_the_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def missing(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ModuleNotFoundError(name)
        return original(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ValueError, match=r"needs the package `datasets`, .* pip install 'ganfuse\[huggingface\]'"):
        open_dataset("hf:owner/pets", resolution=4)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hf:mnist", ("mnist", None, "train")),
        ("hf:a/b:validation", ("a/b", None, "validation")),
        ("hf:a/b/c:train[:10%]", ("a/b", "c", "train[:10%]")),
    ],
)
def test_how_a_source_is_read(source: str, expected: tuple[str, str | None, str]) -> None:
    assert parse_source(source) == expected


@pytest.mark.parametrize("source", ["hf:", "hf:a//b", "hf:a/b/c/d", "hf::train"])
def test_malformed_sources(source: str) -> None:
    with pytest.raises(ValueError, match="expected hf:owner/name or hf:owner/name:split"):
        open_dataset(source, resolution=4)
