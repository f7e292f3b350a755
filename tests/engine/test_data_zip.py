"""Zip archives of images, and the labels of StyleGAN2-ADA's dataset.json."""

import json
import logging
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from ganfuse.engine.data import UnreadableImageError, open_dataset
from ganfuse.engine.data.image_store import FolderStore, open_store, reading_order
from ganfuse.engine.data.zip_store import ZipStore
from tests.engine.pictures import noise, save


def pack_up(folder: Path, archive: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, prefix + path.relative_to(folder).as_posix())
    return archive


@pytest.fixture
def animals(tmp_path: Path) -> Path:
    """Three classes of four images each, one of them with a sub-folder."""
    for number, name in enumerate(("cat", "dog", "eel")):
        for index in range(4):
            save(tmp_path / "animals" / name / ("deep/" * (index == 2)) / f"{index}.png", 40 * number + index)
    return tmp_path / "animals"


def test_an_archive_is_what_its_folder_would_be(animals: Path, tmp_path: Path) -> None:
    folder = open_dataset(animals, resolution=8, channels=1)
    for prefix in ("", "animals/"):
        archive = pack_up(animals, tmp_path / "animals.zip", prefix)
        for cache in (True, False):
            data = open_dataset(archive, resolution=8, channels=1, cache=cache)
            assert (data.class_names, data.labels.tolist()) == (folder.class_names, folder.labels.tolist())
            assert all(torch.equal(a, b) for (a, _), (b, _) in zip(data, folder, strict=True))
    assert not list(tmp_path.glob("*.png"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["animals", "animals.zip"]


def test_one_folder_in_an_archive_is_one_class(tmp_path: Path) -> None:
    save(tmp_path / "in" / "cats" / "1.png")
    data = open_dataset(pack_up(tmp_path / "in", tmp_path / "x.zip"), resolution=4)
    assert data.class_names == ("cats",)
    save(tmp_path / "flat" / "1.png")
    assert open_dataset(pack_up(tmp_path / "flat", tmp_path / "x.ZIP"), resolution=4).class_names == ("x",)


def test_what_macos_adds_and_hidden_files_are_left_out(
    animals: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive = pack_up(animals, tmp_path / "x.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("__MACOSX/cat/._0.png", b"resource fork")
        file.writestr("cat/.thumbnail.png", b"x")
        file.writestr("cat/readme.txt", b"x")
    with caplog.at_level(logging.WARNING):
        assert len(open_dataset(archive, resolution=4)) == 12
    assert "left out 1 files that are not images, such as cat/readme.txt" in caplog.text


def test_both_stores_read_in_the_same_order(tmp_path: Path) -> None:
    names = ["b/2.png", "a.png", "b/1.png", "b/a/9.png", "c.png", "b/c/0.png", "a/z.png", "a-b/y.png"]
    for name in names:
        save(tmp_path / "in" / name)
    folder = FolderStore(tmp_path / "in")
    archive = open_store(pack_up(tmp_path / "in", tmp_path / "x.zip"))
    assert folder.names == archive.names == sorted(names, key=reading_order)
    assert folder.names[0] == "a.png"


def test_worker_processes_read_the_same_archive_at_once(tmp_path: Path) -> None:
    for index in range(40):
        noise(tmp_path / "in" / f"{index:02}.png", 24 + index)
    archive = pack_up(tmp_path / "in", tmp_path / "x.zip")
    data = open_dataset(archive, resolution=16, cache=False)
    expected = torch.stack([image for image, _ in data])
    # The handle is open here; a worker that shared it would read at another's place.
    loader = DataLoader(data, batch_size=5, num_workers=2)
    assert torch.equal(torch.cat([images for images, _ in loader]), expected)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[7][0], expected[7])


def test_a_store_reopens_in_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "in" / "1.png")
    store = ZipStore(pack_up(tmp_path / "in", tmp_path / "x.zip"))
    mine = store._archive()
    assert store._archive() is mine
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert store._archive() is not mine


def test_a_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"x\.zip is not a zip archive, or a damaged one"):
        open_dataset(tmp_path / "x.zip", resolution=4)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(ValueError, match=r"no image in .*empty\.zip \(it is empty\)"):
        open_dataset(tmp_path / "empty.zip", resolution=4)


def test_a_damaged_member_is_named_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(3):
        noise(tmp_path / "in" / f"{index}.png")
    (tmp_path / "in" / "3.png").write_bytes(b"")
    archive = pack_up(tmp_path / "in", tmp_path / "x.zip")
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        member = file.getinfo("1.png")
    name_size, extra_size = struct.unpack("<HH", content[member.header_offset + 26 : member.header_offset + 30])
    content[member.header_offset + 30 + name_size + extra_size + 300] ^= 0xFF
    archive.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"cannot read image .*x\.zip/1\.png: Bad CRC-32"):
        open_dataset(archive, resolution=4)
    with caplog.at_level(logging.WARNING):
        data = open_dataset(archive, resolution=4, on_bad_image="skip")
    assert len(data) == 2
    assert "x.zip/3.png: the file is empty" in caplog.text
    assert "skipped 2 of 4 images" in caplog.text


def test_an_encrypted_member_is_named(tmp_path: Path) -> None:
    noise(tmp_path / "in" / "1.png")
    archive = pack_up(tmp_path / "in", tmp_path / "x.zip")
    content = bytearray(archive.read_bytes())
    # Bit 0 of the flags, in the member's header and in the directory.
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"1\.png: .*encrypted"):
        open_dataset(archive, resolution=4)


# dataset.json


def label_file(folder: Path, content: object) -> None:
    (folder / "dataset.json").write_text(json.dumps(content))


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """As StyleGAN2-ADA's dataset tool lays images out: folders that are no classes."""
    folder = tmp_path / "shards"
    for index in range(4):
        save(folder / f"0000{index // 2}" / f"img{index}.png", index)
    return folder


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", [list, dict])
def test_labels_from_dataset_json(shards: Path, tmp_path: Path, packed: bool, form: type) -> None:
    pairs = [[f"0000{index // 2}/img{index}.png", label] for index, label in enumerate((3, 0, 1, 3))]
    pairs[1][0] = str(pairs[1][0]).replace("/", "\\")
    label_file(shards, {"labels": form(pairs)})
    source = pack_up(shards, tmp_path / "x.zip", "wrapped/") if packed else shards
    data = open_dataset(source, resolution=4, channels=1)
    assert data.labels.tolist() == [3, 0, 1, 3]
    assert data.class_names == ("0", "1", "2", "3")
    assert [int(image[0, 0, 0]) for image, _ in data] == [0, 1, 2, 3]


def test_null_labels_are_one_class(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    label_file(shards, {"labels": None})
    data = open_dataset(shards, resolution=4)
    assert (data.class_names, data.labels.tolist()) == (("shards",), [0, 0, 0, 0])
    assert not caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], r'expected {"labels": \[\["path", 3\], ...\]}; move it away'),
        ({"other": 1}, "expected"),
        ({"labels": [["00000/img0.png", 1]]}, r"dataset\.json: no label for 00000/img1\.png"),
        (
            {"labels": [["00000/img0.png", [0.1, 0.2]]]},
            r"label of 00000/img0\.png must be a whole number .* \[0.1, 0.2\]",
        ),
        ({"labels": [["00000/img0.png", -1]]}, "must be a whole number of at least 0, got -1"),
        ({"labels": [["00000/img0.png", True]]}, "got True"),
        ({"labels": [1, 2]}, r"must be a list of \[path, label\] pairs"),
    ],
)
def test_a_wrong_dataset_json(shards: Path, content: object, message: str) -> None:
    label_file(shards, content)
    with pytest.raises(ValueError, match=message):
        open_dataset(shards, resolution=4)


def test_dataset_json_that_is_no_json_and_labels_without_images(shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    (shards / "dataset.json").write_text("{")
    with pytest.raises(ValueError, match=r"dataset\.json: not JSON"):
        open_dataset(shards, resolution=4)
    label_file(shards, {"labels": [[f"0000{i // 2}/img{i}.png", 0] for i in range(4)] + [["gone.png", 7]]})
    with caplog.at_level(logging.WARNING):
        assert open_dataset(shards, resolution=4).num_classes == 1
    assert "1 of its 5 labels belong to no image here" in caplog.text
