"""The first systems from the command line, each on data of the kind that it asks for, with nothing but its name."""

from pathlib import Path

import pytest
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
