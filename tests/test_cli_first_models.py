"""The first systems from the command line, each on data of the kind that it asks for, with nothing but its name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.engine import load_run

SETTINGS = {
    "gan-cls": ["width=1", "discriminator_width=1"],
    "cogan": ["width=1", "discriminator_width=1", "num_classes=10"],
    "bigan": ["width=4", "latent_regressor=0.25"],
    "cgan": ["width=2", "conditioning=acgan", "replay=6"],
}
SOURCES = {"gan-cls": "captioned:digits", "cogan": "digits-thick"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("model", list(SETTINGS))
def test_trained_resumed_and_sampled(tmp_path: Path, model: str) -> None:
    out = tmp_path / "run"
    settings = [part for setting in SETTINGS[model] for part in ("--set", setting)]
    result = run("train", model, "--out", out, "--steps", 1, "--batch-size", 4, "--device", "cpu", *settings)
    assert result.exit_code == 0, result.stderr
    assert f"Trained {model} on {SOURCES.get(model, 'digits')}, step 1 of 1" in result.stdout
    result = run("train", "--out", out, "--resume", "--steps", 2)
    assert result.exit_code == 0, result.stderr
    assert "step 2 of 2" in result.stdout
    result = run("sample", out, "--num", 3, "--device", "cpu", "--out", tmp_path / "grid.png")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "grid.png").stat().st_size > 0
    game = load_run(out)
    assert game.sample(1).shape == (1, 1, 32, 32)
    if model == "gan-cls":
        assert game.config is not None
        assert game.config["embedding_dim"] == 64


def test_more_classes_than_the_data_have(tmp_path: Path) -> None:
    """Said when the training begins; what is drawn afterwards is of the classes that were learnt."""
    out, grid, archive = tmp_path / "run", tmp_path / "grid.png", tmp_path / "images.npz"
    settings = ["--set", "num_classes=40", "--set", "width=2", "--set", "conditioning=projection"]
    result = run("train", "cgan", "--out", out, "--steps", 1, "--batch-size", 4, "--device", "cpu", *settings)
    assert result.exit_code == 0, result.stderr
    assert (
        "warning: num_classes: the game has 40 classes, the data has images of 10; the other 30 (10," in result.stderr
    )
    result = run("sample", out, "--classes", "each", "--out", grid, "--num", 10, "--columns", 1)
    assert result.exit_code == 0, result.stderr
    with Image.open(grid) as picture:
        assert picture.height == 10 * 34 + 2
    assert run("sample", out, "--npz", archive, "--num", 50).exit_code == 0
    with np.load(archive) as found:
        assert found["labels"].max() < 10
    assert run("sample", out, "--classes", "39", "--out", grid).exit_code == 0


def test_walks_of_texts_and_of_pairs(tmp_path: Path) -> None:
    for model, space, rows in (("gan-cls", "z", 2), ("gan-cls", "class", 2), ("cogan", "z", 4)):
        out, picture = tmp_path / model, tmp_path / "walk.png"
        settings = [part for setting in SETTINGS[model] for part in ("--set", setting)]
        if not out.exists():
            result = run("train", model, "--out", out, "--steps", 1, "--batch-size", 4, "--device", "cpu", *settings)
            assert result.exit_code == 0, result.stderr
        walk = ("interpolate", out, "--space", space, "--walks", 2, "--steps", 3, "--out", picture)
        result = run(*walk)
        assert result.exit_code == 0, result.stderr
        with Image.open(picture) as found:
            assert found.size == (3 * 34 + 2, rows * 34 + 2)
    assert run(*walk, "--domain", "b").exit_code == 0
    with Image.open(picture) as found:
        assert found.size == (3 * 34 + 2, 2 * 34 + 2)
    result = run("interpolate", tmp_path / "gan-cls", "--domain", "b")
    assert result.exit_code == 2
    assert "--domain: gan-cls draws images of one domain" in result.stderr
