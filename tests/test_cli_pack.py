"""`ganfuse pack`."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.engine.data import open_dataset, open_packed
from tests.engine.pictures import noise, truncate


def pack(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["pack", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(5):
        noise(tmp_path / "photos" / "ab"[index % 2] / f"{index}.png", 24)
    return tmp_path / "photos"


def test_a_folder(photos: Path, tmp_path: Path) -> None:
    result = pack(photos, tmp_path / "x", "--resolution", 16, "--verify")
    assert result.exit_code == 0
    assert "Packed 5 images of 3×16×16, 2 classes, 0.0 MiB, checksums verified" in result.stdout
    assert f"ganfuse train --data {tmp_path / 'x'} --resolution 16" in result.stdout
    assert open_dataset(tmp_path / "x", resolution=16).class_names == ("a", "b")


def test_options(photos: Path, tmp_path: Path) -> None:
    result = pack(photos, tmp_path / "x", "--channels", 1, "--resize", "pad", "--max-images", 3)
    assert result.exit_code == 0
    data = open_packed(tmp_path / "x")
    assert (len(data), data.channels, data.resolution) == (3, 1, 64)


def test_a_broken_image_is_named_or_left_out(photos: Path, tmp_path: Path) -> None:
    truncate(noise(photos / "a" / "0.png"))
    result = pack(photos, tmp_path / "x")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot read image")
    assert "a/0.png" in result.stderr
    assert pack(photos, tmp_path / "x", "--on-bad-image", "skip").exit_code == 0
    assert len(open_packed(tmp_path / "x")) == 4


def test_nothing_is_overwritten_unasked(photos: Path, tmp_path: Path) -> None:
    assert pack("digits", tmp_path / "x").exit_code == 0
    result = pack(photos, tmp_path / "x")
    assert result.exit_code == 2
    assert "is already there" in result.stderr
    assert "hint: --overwrite replaces a packed data set" in result.stderr
    assert pack(photos, tmp_path / "x", "--overwrite").exit_code == 0
    assert open_packed(tmp_path / "x").num_classes == 2


def test_help_and_wrong_source(tmp_path: Path) -> None:
    assert "Example: ganfuse pack" in pack("--help").stdout
    result = pack("nowhere", tmp_path / "x")
    assert result.exit_code == 2
    assert "neither a name (digits, fashion-mnist)" in result.stderr
    assert pack("digits-thick", tmp_path / "x").exit_code == 2
