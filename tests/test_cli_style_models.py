"""Systems that grow, and StyleGAN2, from the command line: settings that are tables, and what follows the batch."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.engine import load_run

SMALL = ["latent_dim=4", "width=1", "channel_max=4"]
GROWTH = [*SMALL, "stable_kimg=0.004", "fade_kimg=0.008", "batch_sizes={4: 4, 16: 2}"]
SETTINGS = {
    "progan": GROWTH,
    "stylegan": [*GROWTH, "style_features=4", "lr_by_resolution={16: 2e-3}"],
    "stylegan2": [*SMALL, "config=auto", "style_features=4"],
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("model", list(SETTINGS))
def test_trained_resumed_and_sampled(tmp_path: Path, model: str) -> None:
    out = tmp_path / "run"
    settings = [part for setting in SETTINGS[model] for part in ("--set", setting)]
    result = run("train", model, "--out", out, "--steps", 2, "--batch-size", 8, "--device", "cpu", *settings)
    assert result.exit_code == 0, result.stderr
    result = run("train", "--out", out, "--resume", "--steps", 3)
    assert result.exit_code == 0, result.stderr
    assert "step 3 of 3" in result.stdout
    result = run("sample", out, "--num", 3, "--device", "cpu", "--out", tmp_path / "grid.png")
    assert result.exit_code == 0, result.stderr
    game = load_run(out)
    assert game.sample(1).shape == (1, 1, 32, 32)
    if model == "stylegan2":
        # γ of the preset "auto" for batches of 8.
        assert game.penalties["r1"] == pytest.approx(0.0002 * 32**2 / 8)
    else:
        # The third step, after two batches of 4, or 2 from 16 px on, is within the first fade.
        assert game.growth.alpha is not None
        assert game.growth.level == {"progan": 1, "stylegan": 2}[model]
