"""Every noise-to-image system from the command line: trained, gone on with, drawn and scored."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ganfuse import cli

WIDE = ["width=1", "channel_max=4", "latent_dim=4"]
SETTINGS = {
    "gan": ["width=4"],
    "dcgan": ["width=2"],
    "cgan": ["width=2", "conditioning=projection", "architecture=convolutional"],
    "gan-cls": ["width=2", "discriminator_width=2"],
    "progan": WIDE,
    "stylegan": [*WIDE, "style_features=4"],
    "stylegan2": [*WIDE, "style_features=4", "augment=ada"],
    "sagan": ["width=2"],
    "biggan": ["width=2", "shared_features=2"],
    "biggan-deep": ["width=4", "shared_features=2", "latent_dim=4"],
    "logan": ["base=sn-cnn", "width=2", "latent_dim=4"],
    "unet-gan": ["width=2", "latent_dim=4", "cutmix=always"],
}
TRUNCATES = {"stylegan", "stylegan2", "biggan", "biggan-deep", "logan", "unet-gan"}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.slow
@pytest.mark.parametrize("model", list(SETTINGS))
def test_trained_resumed_sampled_and_scored(tmp_path: Path, model: str) -> None:
    out, picture = tmp_path / "run", tmp_path / "picture.png"
    settings = [part for setting in SETTINGS[model] for part in ("--set", setting)]
    run("train", model, "--out", out, "--steps", 1, "--batch-size", 4, "--resolution", 32, "--device", "cpu", *settings)
    assert "step 2 of 2" in run("train", "--out", out, "--resume", "--steps", 2).stdout
    truncation = ["--truncation", 0.5] if model in TRUNCATES else []
    statistics = ["--standing-statistics", 2] if model in TRUNCATES - {"stylegan", "stylegan2"} else []
    run("sample", out, "--num", 3, "--device", "cpu", "--out", picture, *truncation, *statistics)
    assert picture.stat().st_size > 0
    run("evaluate", out, "--extractor", "random", "--metrics", "fid,pr", "--num", 16, "--device", "cpu", *truncation)
    (line,) = (out / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(line)
    assert record["step"] == 2
    assert record["scores"]["fid"] > 0
    assert record["truncation"] == (0.5 if truncation else None)
