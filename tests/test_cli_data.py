"""Options of the data in `ganfuse train`: they reach the data set, the run's configuration, and a run that goes on."""

from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from ganfuse import cli

TINY = ("--batch-size", "2", "--resolution", "32", "--set", "width=2", "--set", "num_samples=2")


def train(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index in range(6):
        path = tmp_path / "photos" / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (48, 24), (40 * index, 99, 9)).save(path)
    return tmp_path / "photos"


def data_of(out: Path) -> dict[str, object]:
    section = yaml.safe_load((out / "config.yaml").read_text())["data"]
    assert isinstance(section, dict)
    return section


def test_a_run_goes_on_with_the_data_as_they_were_opened(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ("--set", "resize=pad", "--set", "max_images=4")
    assert train("sagan", "--data", photos, "--out", out, "--steps", 1, *TINY, *options).exit_code == 0
    assert {"resize": "pad", "max_images": 4, "length": 4}.items() <= data_of(out).items()
    result = train("--out", out, "--resume", "--steps", 2)
    assert result.exit_code == 0, result.stderr
    assert {"resize": "pad", "max_images": 4, "length": 4}.items() <= data_of(out).items()
    result = train("--out", out, "--resume", "--steps", 3, "--set", "resize=squash")
    assert result.exit_code == 2
    assert "data resize was 'pad', now 'squash'" in result.stderr


def test_what_is_usual_is_not_recorded(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train("sagan", "--data", photos, "--out", out, "--steps", 1, *TINY, "--set", "resize=crop").exit_code == 0
    assert not {"resize", "max_images", "on_bad_image", "split"} & data_of(out).keys()


def test_a_packed_set_is_trained_on(photos: Path, tmp_path: Path) -> None:
    packed, out = tmp_path / "packed", tmp_path / "run"
    assert CliRunner().invoke(cli.app, ["pack", str(photos), str(packed), "--resolution", "32"]).exit_code == 0
    assert train("sagan", "--data", packed, "--out", out, "--steps", 1, *TINY).exit_code == 0
    assert data_of(out)["class_names"] == ["a", "b"]
