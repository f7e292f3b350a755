"""The first systems from the command line, each on data of the kind that it asks for, with nothing but its name."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.engine import load_run
from ganfuse.engine.data.captioned import embed_words
from ganfuse.engine.grid import save_grid

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
    # Those that the data have go by their names, too.
    config = out / "config.yaml"
    text = config.read_text(encoding="utf-8")
    assert "- '7'" in text
    config.write_text(text.replace("- '7'", "- seven"), encoding="utf-8")
    pictures = []
    for name in ("7", "seven"):
        assert run("sample", out, "--classes", name, "--out", grid).exit_code == 0
        pictures.append(grid.read_bytes())
    assert pictures[0] == pictures[1]


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


def test_sentences_and_embeddings_are_drawn(tmp_path: Path) -> None:
    out, picture = tmp_path / "run", tmp_path / "grid.png"
    settings = [part for setting in SETTINGS["gan-cls"] for part in ("--set", setting)]
    result = run("train", "gan-cls", "--out", out, "--steps", 1, "--batch-size", 4, "--device", "cpu", *settings)
    assert result.exit_code == 0, result.stderr
    result = run("sample", out, "--text", "a picture of 3", "--text", "7", "--num", 6, "--out", picture)
    assert (result.exit_code, result.stderr) == (0, "")
    with Image.open(picture) as found:
        assert found.size == (3 * 34 + 2, 2 * 34 + 2)
    vectors = embed_words(["a picture of 3", "7"])
    images = load_run(out).sample(6, embeddings=vectors.repeat_interleave(3, 0), rng=torch.Generator().manual_seed(0))
    save_grid(images, tmp_path / "expected.png", columns=3)
    assert picture.read_bytes() == (tmp_path / "expected.png").read_bytes()
    assert run("sample", out, "--text", "each", "--num", 20, "--out", picture).exit_code == 0
    with Image.open(picture) as found:
        assert found.size == (2 * 34 + 2, 10 * 34 + 2)
    np.save(tmp_path / "vectors.npy", vectors.numpy())
    captions = torch.stack([vectors - 1.0, vectors + 1.0], 1)
    save_file({"embeddings": captions.contiguous()}, tmp_path / "vectors.safetensors")
    for name in ("vectors.npy", "vectors.safetensors"):
        archive = tmp_path / f"{name}.npz"
        result = run("sample", out, "--embeddings", tmp_path / name, "--num", 6, "--npz", archive)
        assert result.exit_code == 0, result.stderr
        with np.load(archive) as found:
            expected = images.add(1.0).mul(127.5).round().clamp(0, 255).permute(0, 2, 3, 1).numpy()
            assert np.abs(found["arr_0"] - expected).max() <= 1
    result = run("sample", out, "--text", "one elephant", "--out", picture)
    assert "no caption of the data has the words elephant" in result.stderr


def test_sentences_that_cannot_be_drawn(tmp_path: Path) -> None:
    runs = {}
    for model in ("gan-cls", "cgan"):
        runs[model] = tmp_path / model
        settings = [part for setting in SETTINGS[model] for part in ("--set", setting)]
        run("train", model, "--out", runs[model], "--steps", 1, "--batch-size", 4, "--device", "cpu", *settings)
    np.save(tmp_path / "wrong.npy", np.zeros((2, 9), np.float32))
    np.save(tmp_path / "whole.npy", np.zeros((2, 64), np.int64))
    (tmp_path / "text.npy").write_text("no numbers")
    other = tmp_path / "gan-cls" / "config.yaml"
    for model, arguments, message in (
        ("cgan", ("--text", "3"), "--text: cgan draws images of no texts"),
        ("cgan", ("--embeddings", tmp_path / "wrong.npy"), "--embeddings: cgan draws images of no texts"),
        ("gan-cls", ("--text", "3", "--embeddings", tmp_path / "wrong.npy"), "give one of the two"),
        ("gan-cls", ("--text", "!"), "expected words in each, got '!'"),
        ("gan-cls", ("--embeddings", tmp_path / "wrong.npy"), "has the shape (2, 9), expected (N, 64)"),
        ("gan-cls", ("--embeddings", tmp_path / "whole.npy"), "has torch.int64, expected floating point numbers"),
        ("gan-cls", ("--embeddings", tmp_path / "text.npy"), "is neither .npy nor .safetensors"),
        ("gan-cls", ("--embeddings", other), "is neither .npy nor .safetensors"),
        ("gan-cls", ("--embeddings", tmp_path / "none.npy"), "there is no file"),
    ):
        result = run("sample", runs[model], *arguments, "--out", tmp_path / "grid.png")
        assert result.exit_code == 2, (arguments, result.stdout)
        assert message in result.stderr
    other.write_text(other.read_text(encoding="utf-8").replace("captioned:digits", "birds"), encoding="utf-8")
    result = run("sample", runs["gan-cls"], "--text", "3", "--out", tmp_path / "grid.png")
    assert "has embeddings of an encoder of its own" in result.stderr
