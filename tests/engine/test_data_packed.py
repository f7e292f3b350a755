"""The packed form: equal to its source, read without a copy, whole or not there."""

import errno
import hashlib
import json
import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ganfuse.engine.data import (
    ImageDataset,
    UnreadableImageError,
    default_resolution,
    open_dataset,
    open_packed,
    pack_dataset,
)
from ganfuse.engine.data.packed import IMAGES, LABELS, META, read_meta
from tests.engine.pictures import noise, save, truncate


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(7):
        noise(tmp_path / "photos" / "abc"[index % 3] / f"{index}.png", 20 + index)
    return tmp_path / "photos"


def pack(source: Path | str, out: Path, **options: object) -> None:
    data = open_dataset(source, resolution=16, cache=False)
    pack_dataset(data, out, source=str(source), **options)  # type: ignore[arg-type]


def assert_equal(one: ImageDataset, other: ImageDataset) -> None:
    assert (one.class_names, one.labels.tolist()) == (other.class_names, other.labels.tolist())
    assert (one.channels, one.resolution) == (other.channels, other.resolution)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(one, other, strict=True))


def test_the_packed_set_equals_its_source(photos: Path, tmp_path: Path) -> None:
    pack(photos, tmp_path / "out" / "packed")
    source = open_dataset(photos, resolution=16)
    for name in (tmp_path / "out" / "packed", f"packed:{tmp_path / 'out' / 'packed'}"):
        assert_equal(open_dataset(name, resolution=16), source)
    assert_equal(open_packed(tmp_path / "out" / "packed", verify=True), source)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["packed"]
    assert default_resolution(tmp_path / "out" / "packed") == 16
    # The form is open to others: plain .npy files and JSON.
    assert np.load(tmp_path / "out" / "packed" / IMAGES).shape == (7, 3, 16, 16)
    meta = json.loads((tmp_path / "out" / "packed" / META).read_text())
    assert meta["source"] == str(photos)
    assert meta["images_sha256"] == hashlib.sha256(np.load(tmp_path / "out" / "packed" / IMAGES).tobytes()).hexdigest()


def test_named_sources_and_gray(tmp_path: Path) -> None:
    pack("digits", tmp_path / "x")
    assert_equal(open_dataset(tmp_path / "x", resolution=16, channels=1), open_dataset("digits", resolution=16))


def test_reading_copies_nothing_and_the_file_is_not_pickled(photos: Path, tmp_path: Path) -> None:
    pack(photos, tmp_path / "x")
    data = open_dataset(tmp_path / "x", resolution=16)
    assert data[3][0].data_ptr() == data[3][0].data_ptr()
    assert data[3][0].data_ptr() - data[2][0].data_ptr() == 3 * 16 * 16
    pickled = pickle.dumps(data)
    assert len(pickled) < 4000
    assert_equal(pickle.loads(pickled), data)
    # Writing to what was read must not reach the file.
    before = data[0][0].clone()
    data[0][0].zero_()
    assert torch.equal(open_dataset(tmp_path / "x", resolution=16)[0][0], before)


def test_worker_processes(photos: Path, tmp_path: Path) -> None:
    pack(photos, tmp_path / "x")
    data = open_dataset(tmp_path / "x", resolution=16)
    expected = torch.stack([image for image, _ in data])
    loader = DataLoader(data, batch_size=2, num_workers=2)
    assert torch.equal(torch.cat([images for images, _ in loader]), expected)


def test_broken_images_stop_or_are_left_out(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(20):
        save(photos / "d" / f"{number}.png", number)
    truncate(noise(photos / "b" / "1.png"))
    with pytest.raises(UnreadableImageError, match=r"b/1\.png"):
        pack(photos, tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with caplog.at_level(logging.WARNING):
        pack(photos, tmp_path / "x", on_bad_image="skip")
    assert "skipped 1 of 27 images" in caplog.text
    assert_equal(open_packed(tmp_path / "x", verify=True), open_dataset(photos, resolution=16, on_bad_image="skip"))
    assert not list(tmp_path.glob(".x*"))


def test_the_header_of_fewer_images_fits(photos: Path, tmp_path: Path) -> None:
    # From ten images to seven: the header, which is written first, has a digit less in the end.
    for number in range(3):
        truncate(noise(photos / "a" / f"bad{number}.png"))
    pack(photos, tmp_path / "x", on_bad_image="skip")
    assert len(open_packed(tmp_path / "x", verify=True)) == 7


def test_an_attempt_that_was_killed_leaves_nothing_that_counts(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".x.partial").mkdir()
    (tmp_path / ".x.partial" / IMAGES).write_bytes(b"half a file")
    with caplog.at_level(logging.WARNING):
        pack(photos, tmp_path / "x")
    assert "removing what an earlier attempt has left" in caplog.text
    assert open_packed(tmp_path / "x", verify=True)
    # Interrupted in the middle, with --overwrite: the old set stays.
    stamp = (tmp_path / "x" / META).read_bytes()
    monkeypatch.setattr(hashlib, "sha256", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        pack(photos, tmp_path / "x", overwrite=True)
    assert (tmp_path / "x" / META).read_bytes() == stamp
    assert not list(tmp_path.glob(".x*"))


def test_a_full_disk_leaves_nothing(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    pack("digits", tmp_path / "x")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        pack(photos, tmp_path / "x", overwrite=True)
    with pytest.raises(OSError, match="No space left on device"):
        pack(photos, tmp_path / "y")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "x"]
    assert open_packed(tmp_path / "x", verify=True).num_classes == 10


def test_only_packed_sets_are_overwritten(photos: Path, tmp_path: Path) -> None:
    pack(photos, tmp_path / "x")
    with pytest.raises(FileExistsError, match="x is already there"):
        pack(photos, tmp_path / "x")
    pack("digits", tmp_path / "x", overwrite=True)
    assert read_meta(tmp_path / "x").source == "digits"
    with pytest.raises(FileExistsError, match="no packed data set; it is not overwritten"):
        pack("digits", photos, overwrite=True)
    assert len(list(photos.rglob("*.png"))) == 7
    (tmp_path / "empty").mkdir()
    pack(photos, tmp_path / "empty")
    assert open_packed(tmp_path / "empty")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"resolution": 32},
            "resolution: .* was packed with resolution 16, but 32 was asked for; pack its source again",
        ),
        ({"resolution": 16, "channels": 1}, "channels: .* was packed with channels 3, but 1 was asked for"),
        ({"resolution": 16, "split": "test"}, "has no option 'split'"),
    ],
)
def test_what_was_packed_otherwise(photos: Path, tmp_path: Path, options: dict[str, int], message: str) -> None:
    pack(photos, tmp_path / "x")
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path / "x", **options)  # type: ignore[call-overload]


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / IMAGES).read_bytes())
    content[-1] ^= 1
    (folder / IMAGES).write_bytes(content)


def rewrite(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / META).write_text(json.dumps({**json.loads((folder / META).read_text()), **values}))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_byte, r"images\.npy: SHA-256 is .*, expected .*; pack the source again"),
        (lambda folder: truncate(folder / IMAGES), r"images\.npy: not a complete \.npy file"),
        (lambda folder: (folder / LABELS).unlink(), r"labels\.npy is missing"),
        (lambda folder: np.save(folder / LABELS, np.zeros(3)), r"labels\.npy: expected int64 \(7,\), got float64"),
        (lambda folder: np.save(folder / LABELS, np.ones(7, dtype=np.int64)), r"labels\.npy: SHA-256"),
        (lambda folder: (folder / META).write_text("{"), r"packed\.json: damaged"),
        (lambda folder: (folder / META).write_text("{}"), "not the description of a packed data set"),
        (rewrite(version=99), "packed in version 99 of the form, this reads 1"),
        (rewrite(class_names=None), "it lacks class_names"),
        (rewrite(count=8), r"images\.npy: expected uint8 \(8, 3, 16, 16\), got uint8 \(7, 3, 16, 16\)"),
    ],
)
def test_a_damaged_set(photos: Path, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    pack(photos, tmp_path / "x")
    damage(tmp_path / "x")
    with pytest.raises(ValueError, match=message):
        open_packed(tmp_path / "x", verify=True)


def test_what_is_no_packed_set(photos: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"not a packed data set: it has no packed\.json"):
        open_dataset(f"packed:{photos}", resolution=16)
