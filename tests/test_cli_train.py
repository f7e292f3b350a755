"""`ganfuse train` and `ganfuse sample` on tiny runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.commands import _settings
from ganfuse.commands._errors import CommandError
from ganfuse.commands.train import create_game, default_data, supported_resolution
from ganfuse.engine import load_run
from ganfuse.engine.data import default_resolution, open_dataset
from ganfuse.models import list_models, model_info

TINY = ["--batch-size", "4", "--set", "width=2", "--set", "log_every=1", "--set", "num_samples=50"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def train(out: Path, *arguments: object) -> Result:
    return run("train", "--out", out, *TINY, *arguments)


def config_of(out: Path) -> dict[str, dict[str, object]]:
    loaded = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def metrics_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on the digits. Tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    result = train(out, "--steps", 2, "--set", "checkpoint_every=1")
    assert result.exit_code == 0, result.stderr
    return out


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for index in range(3):
            pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


# train


def test_what_a_run_leaves_and_prints(tmp_path: Path) -> None:
    out = tmp_path / "my run"
    result = train(out, "--steps", 3, "--set", "sample_every=2")
    assert result.exit_code == 0, result.stderr
    assert [line["step"] for line in metrics_of(out)] == [1, 2, 3]
    assert sorted(file.name for file in (out / "samples").iterdir()) == ["step_000002.png", "step_000003.png"]
    with Image.open(out / "samples" / "step_000003.png") as grid:
        assert grid.size == (10 * 34 + 2, 5 * 34 + 2)  # one column per class
    for path in ("samples/step_000003.png", "checkpoints/step_00000003", "metrics.jsonl"):
        assert str(out / path) in result.stdout
        assert (out / path).exists()
    assert f"ganfuse sample '{out}' --out grid.png" in result.stdout
    assert "go on" not in result.stdout
    assert "1,797 images of 1×32×32, 10 classes" in result.stderr


def test_the_data_set_decides_channels_and_classes(finished: Path) -> None:
    described = config_of(finished)
    assert described["game"]["name"] == "sagan"
    game = described["game"]["config"]
    assert isinstance(game, dict)
    assert (game["channels"], game["num_classes"], game["resolution"], game["width"]) == (1, 10, 32, 2)


def test_a_folder_of_photos(photos: Path, tmp_path: Path) -> None:
    result = train(tmp_path / "run", "--data", photos, "--resolution", 32, "--steps", 1)
    assert result.exit_code == 0, result.stderr
    described = config_of(tmp_path / "run")
    assert described["data"]["class_names"] == ["cat", "dog"]
    game = described["game"]["config"]
    assert isinstance(game, dict)
    assert (game["channels"], game["num_classes"]) == (3, 2)
    # One class is none; and settings can overrule what the data say.
    result = train(tmp_path / "one", "--data", photos / "cat", "--resolution", 32, "--steps", 1, "--set", "channels=1")
    assert result.exit_code == 0, result.stderr
    game = config_of(tmp_path / "one")["game"]["config"]
    assert isinstance(game, dict)
    assert (game["channels"], game["num_classes"]) == (1, None)
    result = run("sample", tmp_path / "one", "--classes", "each", "--out", tmp_path / "grid.png")
    assert result.exit_code == 2
    assert "trained without classes" in result.stderr


def test_a_broken_image_is_named_or_skipped(photos: Path, tmp_path: Path) -> None:
    (photos / "dog" / "1.png").write_bytes(b"")
    arguments = ("--data", photos, "--resolution", 32, "--steps", 1)
    result = train(tmp_path / "run", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: cannot read image")
    assert "1.png: the file is empty" in result.stderr
    assert not (tmp_path / "run").exists()
    result = train(tmp_path / "run", *arguments, "--set", "on_bad_image=skip")
    assert result.exit_code == 0, result.stderr
    assert "warning: skipped 1 of 6 images" in result.stderr


def test_settings_from_file_set_and_options_in_that_order(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("steps: 7\nbatch-size: 5\ngenerator_lr: 1e-3\nsample_every: 0\n", encoding="utf-8")
    out = tmp_path / "run"
    result = run(
        "train", "--out", out, "--config", file, "--set", "width=2", "--set", "batch_size=4", "--steps", 1, "--seed", 3
    )
    assert result.exit_code == 0, result.stderr
    described = config_of(out)
    trainer, game = described["trainer"], described["game"]["config"]
    assert (trainer["steps"], trainer["batch_size"], trainer["seed"], trainer["sample_every"]) == (1, 4, 3, 0)
    assert isinstance(game, dict)
    assert game["generator_lr"] == 1e-3
    # The configuration that a run wrote is such a file: the same run again, bit for bit.
    again = tmp_path / "again"
    assert run("train", "--out", again, "--config", out / "config.yaml").exit_code == 0
    first, second = load_run(out).state_dict(), load_run(again).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_seed_decides_the_weights(finished: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert train(other, "--steps", 1, "--seed", 1).exit_code == 0
    a, b = load_run(finished, checkpoint=1).state_dict(), load_run(other).state_dict()
    assert any(not torch.equal(a[key], b[key]) for key in a if key.startswith("generator"))


def test_resume_goes_on_with_the_settings_of_the_run(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, "--steps", 4).exit_code == 0
    assert train(parts, "--steps", 2).exit_code == 0
    result = run("train", "--out", parts, "--resume", "--steps", 4)
    assert result.exit_code == 0, result.stderr
    assert "at step 2" in result.stderr
    a, b = load_run(whole).state_dict(), load_run(parts).state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    result = run("train", "--out", parts, "--resume", "--data", "fashion-mnist")
    assert result.exit_code == 2
    assert "is a run of sagan on digits, but data is fashion-mnist" in result.stderr


def test_resume_begins_a_run_that_is_not_there_if_it_knows_which(tmp_path: Path) -> None:
    """So that a job that may be restarted has one command."""
    out = tmp_path / "run"
    for step in (1, 2):
        assert run("train", "sagan", "--out", out, "--resume", "--steps", step, *TINY).exit_code == 0
    assert metrics_of(out)[-1]["step"] == 2


def test_none_is_no_classes(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--steps", 1, "--set", "num_classes=none").exit_code == 0
    assert load_run(tmp_path / "run").num_classes is None
    # A word where words are meant.
    values, defaults = {"cutmix": "none", "ema_decay": "None", "width": 2}, {"cutmix": "always", "ema_decay": 0.9}
    assert _settings.with_none(values, defaults) == {"cutmix": "none", "ema_decay": None, "width": 2}


def test_a_folder_without_classes_is_not_for_a_model_with_classes(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    for index in range(4):
        Image.new("L", (32, 32), 60 * index).save(tmp_path / "flat" / f"{index}.png")
    arguments = ("--data", tmp_path / "flat", "--resolution", 32, "--steps", 1, "--out", tmp_path / "run")
    result = run("train", *arguments, "--set", "num_classes=10", *TINY)
    assert (result.exit_code, "the data has no classes, the game was made for 10" in result.stderr) == (2, True)


def test_a_run_is_neither_overwritten_nor_mixed_up(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert train(out, "--steps", 1).exit_code == 0
    result = train(out, "--steps", 1)
    assert result.exit_code == 2
    assert "already holds a run" in result.stderr
    assert "--resume goes on with it, --overwrite replaces it" in result.stderr
    assert train(out, "--steps", 2, "--overwrite").exit_code == 0
    assert len(metrics_of(out)) == 2
    (tmp_path / "file").write_text("x")
    result = train(tmp_path / "file")
    assert (result.exit_code, "file is a file" in result.stderr) == (2, True)


def test_time_limit(tmp_path: Path) -> None:
    result = train(tmp_path / "run", "--steps", 10**6, "--time-limit", "0.2s")
    assert result.exit_code == 0
    assert "Reached the time limit: sagan on digits, step" in result.stdout
    assert "--resume" in result.stdout
    assert run("train", "--out", tmp_path / "run", "--resume", "--time-limit", "0.1").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sagn"], "did you mean 'sagan'"),
        (["--data", "digit"], "Did you mean 'digits'"),
        (["--data", "no/such/folder"], "nor an existing folder"),
        (["--set", "widht=3"], "unknown setting 'widht'; did you mean 'width'?"),
        (["--set", "checkpoint_evry=3"], "did you mean 'checkpoint_every'?"),
        (["--set", "resume=true"], "unknown setting 'resume'"),
        (["--set", "width"], "--set expects key=value, got 'width'"),
        (["--set", "width=[1"], "cannot read the value '[1'"),
        (["--set", "width=wide"], "width"),
        (["--set", "width=3", "--set", "width=4"], "--set gives width twice"),
        (["--set", "steps=3", "--steps", "4"], "steps is given both as an option and by --set"),
        (["--set", "checkpoint_every=often"], "checkpoint_every: expected a whole number"),
        (["--resolution", "48"], "32, 64, 128"),
        (["--resolution", "2"], "from 4 to 4096, got 2"),
        (["--steps", "0"], "steps: expected a whole number of at least 1"),
        (["--seed", "-1"], "seed: expected a whole number of at least 0, got -1"),
        (["--device", "abacus"], "device"),
        (["--time-limit", "soon"], "expects a duration such as 90s, 10m or 1h30m, got 'soon'"),
        (["--config", "missing.yaml"], "missing.yaml: No such file"),
        (["sagan", "--resume", "--overwrite"], "resume: cannot be combined with overwrite"),
        (["--resume"], "--resume: there is no run in"),
        (["--set", "betas=0.5"], "betas: expected two numbers, got 0.5"),
        (["--set", "num_classes=10.5"], "num_classes: expected a whole number or None, got 10.5"),
    ],
)
def test_bad_input(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run("train", "--out", tmp_path / "run", *arguments)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert len(lines) == 1 or lines[1].startswith("hint: ")
    assert not (tmp_path / "run").exists()


def test_a_failure_while_running_is_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Steps far too large for float32: the losses overflow at once.
    result = train(tmp_path / "run", "--steps", 50, "--set", "generator_lr=1e38", "--set", "discriminator_lr=1e38")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_saves_and_exits_with_130(tmp_path: Path) -> None:
    out = tmp_path / "run"
    program = [sys.executable, "-m", "ganfuse", "train", "--out", str(out), "--steps", "1000000", *TINY]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not ((out / "metrics.jsonl").exists() and metrics_of_lines(out) >= 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, stderr
    assert "Interrupted and saved: sagan on digits, step" in stdout
    assert f"ganfuse train --out {out} --resume" in stdout
    assert "Traceback" not in stderr
    assert "\x1b" not in stdout + stderr
    saved = int(next((out / "checkpoints").iterdir()).name.removeprefix("step_"))
    result = run("train", "--out", out, "--resume", "--steps", saved + 1)
    assert result.exit_code == 0, result.stderr
    assert metrics_of(out)[-1]["step"] == saved + 1


def metrics_of_lines(out: Path) -> int:
    return (out / "metrics.jsonl").read_text(encoding="utf-8").count("\n")


# sample


def pixels(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(path) as picture:
        return np.array(picture)


def test_sample(finished: Path, tmp_path: Path) -> None:
    grids = {}
    for name, arguments in {
        "a": [],
        "same": [],
        "seed": ["--seed", "1"],
        "raw": ["--weights", "raw"],
        "earlier": ["--checkpoint", "1"],
    }.items():
        result = run("sample", finished, "--out", tmp_path / f"{name}.png", "--num", 9, *arguments)
        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"{tmp_path / name}.png\n"
        grids[name] = pixels(tmp_path / f"{name}.png")
    assert grids["a"].shape == (3 * 34 + 2, 3 * 34 + 2)
    assert (grids["a"] == grids["same"]).all()
    for other in ("seed", "raw", "earlier"):
        assert (grids["a"] != grids[other]).any(), other


def test_sample_in_a_process_of_its_own(finished: Path, tmp_path: Path) -> None:
    # Here nothing but the run's config.yaml leads to the model's code.
    program = [sys.executable, "-m", "ganfuse", "sample", str(finished), "--out", str(tmp_path / "grid.png")]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'grid.png'}\n"


def test_sample_by_class(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "grid.png"
    for arguments, rows, columns in (
        (["--classes", "each"], 10, 8),
        (["--classes", "3, 1", "--num", "5"], 2, 3),
        (["--classes", "each", "--columns", "40", "--scale", "2"], 2, 40),
        (["--num", "10", "--columns", "10"], 1, 10),
    ):
        assert run("sample", finished, "--out", out, *arguments).exit_code == 0
        cell = 66 if "--scale" in arguments else 34
        assert pixels(out).shape == (rows * cell + 2, columns * cell + 2)


def test_each_row_has_its_class(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = load_run(finished)

    def sample(n: int, *, labels: torch.Tensor | None = None, rng: torch.Generator | None = None) -> torch.Tensor:
        assert labels is not None
        assert len(labels) == n <= 64
        asked.extend(labels.tolist())
        return torch.zeros(n, 1, 32, 32)

    monkeypatch.setattr(real, "sample", sample)
    monkeypatch.setattr("ganfuse.engine.load_run", lambda *arguments, **options: real)
    result = run("sample", finished, "--out", tmp_path / "grid.png", "--classes", "7,2,7", "--num", 90)
    assert result.exit_code == 0, result.stderr
    assert asked == [7] * 30 + [2] * 30 + [7] * 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "3,11"], "there is no class '11'"),
        (["--classes", ""], "there is no class ''"),
        (["--checkpoint", "99"], "there is no checkpoint of step 99; there are: 1, 2"),
        (["--checkpoint", "newest"], "expects 'latest', 'best' or a step, got 'newest'"),
        (["--out", "grid.txt"], "its ending must name a format"),
        (["--weights", "best"], "Invalid value for '--weights'"),
    ],
)
def test_sample_bad_input(finished: Path, arguments: list[str], message: str) -> None:
    result = run("sample", finished, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[0]


def test_sample_from_what_is_no_run(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "grid.png"
    for folder, message in ((tmp_path / "none", "no such folder"), (tmp_path, "not the folder of a run")):
        result = run("sample", folder, "--out", out)
        assert (result.exit_code, message in result.stderr) == (2, True)
    damaged = tmp_path / "damaged"
    (damaged / "checkpoints" / "step_00000002").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/step_00000002/state.pt"):
        (damaged / name).write_bytes((finished / name).read_bytes())
    whole = (finished / "checkpoints/step_00000002/weights.safetensors").read_bytes()
    (damaged / "checkpoints/step_00000002/weights.safetensors").write_bytes(whole[: len(whole) // 2])
    result = run("sample", damaged, "--out", out)
    assert result.exit_code == 2
    assert "weights.safetensors" in result.stderr
    assert "truncated or damaged" in result.stderr
    assert not out.exists()


# settings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("10m", 600), ("1h30m", 5400), (" 2D ", 172800), ("0.5", 0.5)],
)
def test_durations(text: str, seconds: float) -> None:
    assert _settings.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "5x", "m", "1h30", "1 h", "inf"])
def test_wrong_durations(text: str) -> None:
    with pytest.raises(CommandError, match="expects a duration"):
        _settings.parse_duration(text)


def test_values_are_yaml_and_1e_4_is_a_number() -> None:
    assignments = ["generator-lr=1e-4", "decay-every=1e5", "betas=[0, 9e-1]", "pool_keys=false", "num_classes=null"]
    parsed = _settings.parse_assignments([*assignments, "loss=hinge", "a=b=c"])
    assert isinstance(parsed["decay_every"], int)
    assert parsed == {
        "generator_lr": 1e-4,
        "decay_every": 100_000,
        "betas": [0, 0.9],
        "pool_keys": False,
        "num_classes": None,
        "loss": "hinge",
        "a": "b=c",
    }


def test_a_settings_file_must_be_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    for text, message in (("- a\n- b\n", "expected a mapping"), ("a: [", "is not YAML"), ("", "expected a mapping")):
        file.write_text(text)
        with pytest.raises(CommandError, match=message):
            _settings.read_settings_file(file)


def test_a_run_config_leaves_the_number_of_classes_to_the_data(finished: Path, tmp_path: Path) -> None:
    settings = _settings.read_settings_file(finished / "config.yaml")
    assert (settings["model"], settings["data"], settings["width"]) == ("sagan", "digits", 2)
    assert "num_classes" not in settings
    described = config_of(finished)
    game = described["game"]["config"]
    assert isinstance(game, dict)
    game["num_classes"] = None  # the user's choice, not the data's
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(described))
    assert _settings.read_settings_file(tmp_path / "config.yaml")["num_classes"] is None


def test_sample_to_an_archive(finished: Path, tmp_path: Path) -> None:
    result = run("sample", finished, "--npz", tmp_path / "deep" / "images.npz", "--num", 70)
    assert result.exit_code == 0, result.stderr
    with np.load(tmp_path / "deep" / "images.npz") as archive:
        assert archive["arr_0"].shape == (70, 32, 32, 1)
        assert archive["arr_0"].dtype == np.uint8
        assert archive["labels"].shape == (70,)
        assert 0 <= archive["labels"].min() < archive["labels"].max() <= 9
    result = run("sample", finished, "--npz", tmp_path / "images.npz", "--out", tmp_path / "grid.png")
    assert result.exit_code == 2
    assert "give one of the two" in result.stderr


@pytest.mark.parametrize("option", ["--truncation", "--truncation-cutoff", "--standing-statistics"])
def test_sample_what_a_game_cannot_do(finished: Path, tmp_path: Path, option: str) -> None:
    result = run("sample", finished, "--out", tmp_path / "grid.png", option, "1")
    assert result.exit_code == 2
    assert f"error: {option}: sagan cannot do that" in result.stderr


def test_interpolate(finished: Path, tmp_path: Path) -> None:
    for name, arguments, size in (
        ("a.png", ("--walks", 2, "--steps", 3), (3 * 34 + 2, 2 * 34 + 2)),
        ("b.gif", ("--space", "class", "--classes", "0,1,7,3", "--walks", 2, "--steps", 3), (2 * 34 + 2, 34 + 2)),
    ):
        result = run("interpolate", finished, "--out", tmp_path / name, *arguments)
        assert result.exit_code == 0, result.stderr
        with Image.open(tmp_path / name) as picture:
            assert picture.size == size
            assert getattr(picture, "n_frames", 1) == (4 if name == "b.gif" else 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--space", "class", "--classes", "0,1,2"], "for --space class give pairs"),
        (["--space", "w"], "space: 'sagan' has no styles w"),
        (["--out", "walk.txt"], "its ending must name a format"),
    ],
)
def test_interpolate_bad_input(finished: Path, arguments: list[str], message: str) -> None:
    result = run("interpolate", finished, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("model", list_models())
def test_every_model_takes_the_data_that_it_is_trained_on_unless_told(model: str) -> None:
    info = model_info(model)
    resolution = supported_resolution(default_resolution(default_data(model)), info.resolutions)
    data = open_dataset(default_data(model), kind=info.data_kind, resolution=resolution)
    with torch.device("meta"):
        game = create_game(model, info.config, _settings.Settings(), data)
    game.check_data(data)
    assert game.players()
