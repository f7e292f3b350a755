"""`ganfuse sample`, `translate` and `train` with ``--from``: other codebases' weights without a run in between."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.engine import load_run
from ganfuse.interop import load, load_game
from tests.interop.small_checkpoints import SMALL

# What BigGAN's and StyleGAN2's training scripts save beside the weights.
ARGUMENTS = argparse.Namespace(batch=4, path="data")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """Saves a small checkpoint, and gives the text for --from."""

    def save(source: str, *parts: str, **further: object) -> str:
        path = tmp_path / f"{source}-{'-'.join(parts)}.pth"
        states: dict[str, Any] = {part: SMALL[source, part].state() for part in parts}
        torch.save(states[parts[0]] if len(parts) == 1 and not further else {**states, **further}, path)
        return f"{source}:{path}"

    return save


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_sample_with_classes_is_what_a_run_draws(saved: Any, tmp_path: Path) -> None:
    given, options = saved("biggan-pytorch", "generator"), ("--classes", "0,3", "--num", 4, "--seed", 5)
    result = run("sample", "--from", given, "--out", tmp_path / "a.png", *options)
    assert result.exit_code == 0, result.output
    source, _, file = given.partition(":")
    assert run("import", source, file, tmp_path / "run").exit_code == 0
    assert run("sample", tmp_path / "run", "--out", tmp_path / "b.png", *options).exit_code == 0
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


@pytest.mark.parametrize("source", sorted({source for (source, part), small in SMALL.items() if small.latents}))
def test_each_generator_draws(source: str, saved: Any, tmp_path: Path) -> None:
    result = run("sample", "--from", saved(source, "generator"), "--npz", tmp_path / "images.npz", "--num", 2)
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "images.npz") as drawn:
        side = SMALL[source, "generator"].image
        assert drawn["arr_0"].shape == (2, side, side, 3)
        assert drawn["arr_0"].std() > 1


def test_a_network_of_no_registered_model(saved: Any, tmp_path: Path) -> None:
    given = saved("sagan", "generator")
    options = ("--truncation", 0.5, "--standing-statistics", 1, "--num", 2)
    result = run("sample", "--from", given, "--out", tmp_path / "grid.png", *options)
    assert result.exit_code == 0, result.output
    refused = run("train", "--from", given, "--data", "digits", "--out", tmp_path / "run")
    assert refused.exit_code == 2
    assert "of no configuration of sagan" in refused.stderr
    assert run("sample", "--from", given, "--classes", "1").exit_code == 2


def test_style_models_in_files_of_several_networks(tmp_path: Path) -> None:
    file = {"g_ema": SMALL["stylegan2-rosinality", "generator"].state(), "args": ARGUMENTS, "ada_aug_p": 0.1}
    file["d"] = SMALL["stylegan2-rosinality", "discriminator"].state()
    torch.save(file, tmp_path / "model.pt")
    options = ("--truncation", 0.5, "--num", 2, "--npz", tmp_path / "images.npz")
    result = run("sample", "--from", f"stylegan2-rosinality:{tmp_path / 'model.pt'}", *options)
    assert result.exit_code == 0, result.output
    rng = torch.Generator().manual_seed(0)
    expected = load_game("stylegan2-rosinality", file).sample(2, rng=rng, truncation=0.5)
    with np.load(tmp_path / "images.npz") as drawn:
        difference = drawn["arr_0"].astype(float) - ((expected + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(difference).max() <= 1


def test_tabulated_statistics_go_with_the_truncation(saved: Any, tmp_path: Path) -> None:
    given = saved("hf-biggan-deep", "generator")
    common = ("--truncation", 0.6, "--num", 1, "--classes", "1")
    for name, options in {"a": (), "b": ("--set", "truncation=0.6", "--standing-statistics", 0)}.items():
        assert run("sample", "--from", given, "--out", tmp_path / f"{name}.png", *common, *options).exit_code == 0
    assert np.array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_translate(saved: Any, tmp_path: Path) -> None:
    given = saved("cyclegan-pix2pix", "generator")
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.png")
    network = load(*given.split(":"))
    with torch.no_grad():
        image = torch.from_numpy(values).permute(2, 0, 1)[None].float() / 127.5 - 1
        expected = ((network(image)[0] + 1) * 127.5).permute(1, 2, 0).numpy()
    # A single network goes in whatever direction is asked for.
    for direction in ("ab", "ba"):
        out = tmp_path / f"{direction}.png"
        result = run("translate", "--from", given, tmp_path / "photo.png", out, "--direction", direction)
        assert result.exit_code == 0, result.output
        assert np.abs(pixels(out) - expected).max() <= 1


def test_translate_with_files_of_several_networks(tmp_path: Path) -> None:
    state = SMALL["ugatit-pytorch", "generator"].state()
    torch.save({"genA2B": state}, tmp_path / "model.pt")
    Image.new("RGB", (16, 16), (90, 10, 200)).save(tmp_path / "photo.png")
    given = ("translate", "--from", f"ugatit-pytorch:{tmp_path / 'model.pt'}", tmp_path / "photo.png")
    assert run(*given, tmp_path / "out.png", "--heat-map", tmp_path / "heat").exit_code == 0
    assert (tmp_path / "heat" / "out.png").is_file()
    wrong = run(*given, tmp_path / "other.png", "--direction", "ba")
    assert wrong.exit_code == 2
    assert "holds generator_ab, but no generator_ba, and --direction asks for it" in wrong.stderr
    cycle = run(*given, tmp_path / "other.png", "--cycle", tmp_path / "cycle")
    assert "--cycle needs both" in cycle.stderr
    # The way back may be in a file of its own.
    torch.save(state, tmp_path / "back.pt")
    back = ("--also", f"generator_ba={tmp_path / 'back.pt'}", "--cycle", tmp_path / "cycle")
    result = run(*given, tmp_path / "other.png", *back)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "cycle" / "other.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sample",), "Missing argument 'RUN', or --from SOURCE:FILE"),
        (("sample", "runs/x", "--from", "{G}"), "got the run runs/x and --from"),
        (("sample", "runs/x", "--part", "G"), "--part goes with --from"),
        (("sample", "--from", "{G}", "--weights", "raw"), "--weights is of runs"),
        (("sample", "--from", "{G}", "--checkpoint", "5"), "--checkpoint is of runs"),
        (("sample", "--from", "{G}", "--set", "depth=3"), "biggan has no configuration key 'depth'"),
        (("sample", "--from", "G.pth"), "--from expects SOURCE:FILE, got 'G.pth'"),
        (("sample", "--from", "biggan:G.pth"), "did you mean"),
        (("sample", "--from", "{D}"), "it holds discriminator, and no generator to draw with"),
        (("sample", "--from", "{C}"), "cyclegan draws nothing from noise"),
        (("translate", "--from", "{G}", "photo.png", "out.png"), "biggan, which does not translate pictures"),
        (("translate", "photo.png", "out.png"), "expected RUN IN OUT, got 2 paths"),
        (("translate", "--from", "{C}", "runs/x", "photo.png", "out.png"), "expected IN OUT with --from, got 3 paths"),
        (("train", "--from", "{G}", "--resume"), "a run goes on with its own weights"),
        (("train", "stylegan2", "--from", "{G}"), "model: "),
        (("train", "--from", "{G}", "--resolution", "64"), "resolution: "),
        (("train", "--also", "discriminator=D.pth"), "--also goes with --from"),
        (("train", "--from", ".", "--part", "generator"), "--part is of checkpoints"),
        (("train", "--from", "nowhere"), "nowhere"),
    ],
)
def test_what_does_not_go_together(
    arguments: tuple[str, ...], message: str, saved: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "{G}": saved("biggan-pytorch", "generator"),
        "{D}": saved("biggan-pytorch", "discriminator"),
        "{C}": saved("cyclegan-pix2pix", "generator"),
    }
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("photo.png")
    result = run(*(files.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "out.png").exists()


def test_a_checkpoint_in_place_of_a_run(saved: Any) -> None:
    file = saved("biggan-pytorch", "generator").partition(":")[2]
    for command in (("sample", file), ("export", file, "--to", "onnx")):
        result = run(*command)
        assert result.exit_code == 2
        assert "is a file, expected the folder of a run" in result.stderr
        assert "ganfuse import SOURCE" in result.stderr


def test_fine_tuning(tmp_path: Path) -> None:
    file = {"g_ema": SMALL["stylegan2-rosinality", "generator"].state(), "args": ARGUMENTS}
    file["d"] = SMALL["stylegan2-rosinality", "discriminator"].state()
    torch.save(file, tmp_path / "model.pt")
    few = ("--batch-size", 4, "--set", "num_samples=4", "--set", "log_every=1", "--device", "cpu")
    given = ("--from", f"stylegan2-rosinality:{tmp_path / 'model.pt'}", "--data", "digits")
    # At a rate of nothing, what comes out is what went in.
    result = run("train", *given, "--out", tmp_path / "run", "--steps", 1, *few, "--set", "lr=1e-30")
    assert result.exit_code == 0, result.output
    tuned, imported = load_run(tmp_path / "run", weights="raw"), load_game("stylegan2-rosinality", file)
    assert (tuned.name, tuned.config["resolution"], tuned.config["conv_clamp"]) == ("stylegan2", 16, None)
    z = torch.randn(2, 7)
    torch.testing.assert_close(tuned.generator(z), imported.generator(z))
    x = torch.rand(4, 3, 16, 16)
    torch.testing.assert_close(tuned.discriminator(x), imported.discriminator(x))
    # A run is as good to begin with, and the new one goes on by itself.
    again = ("--from", tmp_path / "run", "--data", "digits", "--out", tmp_path / "second")
    assert run("train", *again, "--steps", 1, *few, "--set", "augment=diffaugment").exit_code == 0
    resumed = run("train", "--out", tmp_path / "second", "--resume", "--steps", 2)
    assert resumed.exit_code == 0, resumed.output
    rows = (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows if "step" in json.loads(row)][-1] == 2


def test_an_imported_run_says_how_to_train_on(saved: Any, tmp_path: Path) -> None:
    source, _, file = saved("progan", "generator").partition(":")
    assert run("import", source, file, tmp_path / "run").exit_code == 0
    result = run("train", "--out", tmp_path / "run", "--resume")
    assert result.exit_code == 2
    assert f"ganfuse train --from {tmp_path / 'run'} --data SOURCE --out RUN" in result.stderr
