"""Systems that grow, and StyleGAN2, from the command line: settings that are tables, and what follows the batch."""

from pathlib import Path

import pytest
import torch
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


def train(out: Path, *arguments: object, settings: list[str]) -> Result:
    chosen = [part for setting in settings for part in ("--set", setting)]
    return run("train", *arguments, "--out", out, "--device", "cpu", *chosen)


@pytest.mark.parametrize("model", ["progan", "stylegan"])
def test_a_chosen_batch_size_goes_before_the_papers(tmp_path: Path, model: str) -> None:
    small = [*SMALL, "stable_kimg=0.004", "fade_kimg=0.008", "sample_every=0"]
    result = train(tmp_path / "chosen", model, "--steps", 1, "--batch-size", 2, settings=small)
    assert result.exit_code == 0, result.stderr
    assert load_run(tmp_path / "chosen").config["batch_sizes"] is None
    assert _images(tmp_path / "chosen") == 2
    result = train(tmp_path / "papers", model, "--steps", 1, settings=[*small, "batch_sizes=paper", "log_every=1"])
    assert result.exit_code == 0, result.stderr
    assert _images(tmp_path / "papers") == {"progan": 16, "stylegan": 256}[model]
    both = [*small, "batch_sizes={4: 3}"]
    result = train(tmp_path / "both", model, "--steps", 1, "--batch-size", 2, settings=both)
    assert result.exit_code == 0, result.stderr
    assert _images(tmp_path / "both") == 3
    # A run that is resumed keeps what it was begun with.
    result = run("train", "--out", tmp_path / "papers", "--resume", "--steps", 2)
    assert result.exit_code == 0, result.stderr


def _images(folder: Path) -> int:
    (checkpoint,) = (folder / "checkpoints").iterdir()
    return int(torch.load(checkpoint / "state.pt", weights_only=True)["images_drawn"])


@pytest.mark.parametrize("model", ["progan", "stylegan"])
def test_a_run_that_is_trained_on_begins_at_the_size_it_has_reached(tmp_path: Path, model: str) -> None:
    settings = [*SETTINGS[model], "sample_every=0"]
    # In the fade of 16 px (ProGAN, from 4 px on) or 32 px (StyleGAN, from 8 px on).
    result = train(tmp_path / "first", model, "--steps", 6 if model == "progan" else 8, settings=settings)
    assert result.exit_code == 0, result.stderr
    first = load_run(tmp_path / "first")
    assert first.growth.alpha is not None
    reached = {"progan": 8, "stylegan": 16}[model]
    assert first.growth.reached == reached
    result = train(tmp_path / "second", "--from", tmp_path / "first", "--steps", 1, settings=["sample_every=0"])
    assert result.exit_code == 0, result.stderr
    second = load_run(tmp_path / "second")
    assert second.config["start"] == reached
    assert (4 << second.growth.level, second.growth.alpha) == (reached, None)


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


def test_truncated_walks(tmp_path: Path) -> None:
    style, batch_norm, plain = tmp_path / "style", tmp_path / "batch-norm", tmp_path / "plain"
    settings = [*SMALL, "style_features=4", "mapping_layers=2", "sample_every=0"]
    assert train(style, "stylegan2", "--steps", 1, "--batch-size", 4, settings=settings).exit_code == 0
    assert train(batch_norm, "biggan", "--steps", 1, "--batch-size", 4, settings=["width=1"]).exit_code == 0
    assert train(plain, "progan", "--steps", 1, "--batch-size", 4, settings=[*SMALL, "sample_every=0"]).exit_code == 0

    def walk(folder: Path, *arguments: object) -> bytes:
        out = tmp_path / "walk.png"
        result = run("interpolate", folder, "--out", out, "--walks", 2, "--steps", 2, "--device", "cpu", *arguments)
        assert result.exit_code == 0, result.stderr
        return out.read_bytes()

    for folder, truncation in ((style, 0.3), (batch_norm, 0.3)):
        assert walk(folder, "--truncation", truncation) != walk(folder)
    assert walk(style, "--truncation", 0.3, "--truncation-cutoff", 0) == walk(style)
    assert walk(style, "--space", "class", "--classes", "0,1,2,3") != walk(style)
    for arguments, message in (
        ([style, "--truncation-cutoff", 2], "--truncation-cutoff goes with --truncation"),
        ([style, "--truncation", "nan"], "truncation: expected a finite number, got nan"),
        ([batch_norm, "--truncation", 1, "--truncation-cutoff", 2], "--truncation-cutoff: biggan cannot do that"),
        ([plain, "--truncation", 1], "--truncation: progan cannot do that"),
    ):
        result = run("interpolate", *arguments, "--out", tmp_path / "walk.png")
        assert result.exit_code == 2
        assert message in result.stderr
    result = run("sample", style, "--truncation-cutoff", 2, "--out", tmp_path / "grid.png")
    assert result.exit_code == 2
    assert "truncation_cutoff: has a meaning only with truncation" in result.stderr
