"""`ganfuse evaluate` on a tiny run."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.engine import Trainer
from tests.engine.toys import ToyData, plain_game


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two checkpoints on the digits."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    tiny = ["--set", "width=2", "--set", "num_samples=10", "--set", "checkpoint_every=1"]
    result = run("train", "--out", out, "--steps", 2, "--batch-size", 4, *tiny)
    assert result.exit_code == 0, result.stderr
    return out


def records_of(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()]


def evaluate(out: Path, *arguments: object) -> Result:
    return run("evaluate", out, "--extractor", "random", "--num", 40, "--device", "cpu", *arguments)


def test_what_is_printed_and_stored(finished: Path, tmp_path: Path) -> None:
    result = evaluate(finished, "--json", tmp_path / "scores.json", "--seed", 3)
    assert result.exit_code == 0, result.stderr
    header, row, about = result.stdout.splitlines()
    assert header.split() == ["step", "fid", "kid", "precision", "recall", "density", "coverage"]
    assert row.split()[0] == "2"
    assert about == ("40 ema samples against 40 images of digits; features: random, 32 px (bilinear, antialiased)")
    record = records_of(finished)[-1]
    assert json.loads((tmp_path / "scores.json").read_text()) == [record]
    scores = record["scores"]
    assert isinstance(scores, dict)
    assert row.split()[1] == f"{scores['fid']:.4g}"
    kept = ("step", "weights", "seed", "num_real", "num_fake", "standing_statistics", "truncation", "split", "data")
    assert [record[key] for key in kept] == [2, "ema", 3, 40, 40, 0, None, None, "digits"]
    assert "features from 40 images is biased upwards" in result.stderr.replace("\n", " ")


def test_all_checkpoints_weights_and_a_choice_of_metrics(finished: Path) -> None:
    result = evaluate(finished, "--checkpoint", "all", "--metrics", "pr, fid", "--weights", "raw")
    assert result.exit_code == 0, result.stderr
    rows = result.stdout.splitlines()
    assert rows[0].split() == ["step", "precision", "recall", "fid"]
    assert [row.split()[0] for row in rows[1:3]] == ["1", "2"]
    assert [(record["step"], record["weights"]) for record in records_of(finished)[-2:]] == [(1, "raw"), (2, "raw")]
    result = evaluate(finished, "--checkpoint", 1, "--metrics", "fid", "--weights", "raw")
    assert result.stdout.splitlines()[1].split() == ["1", rows[1].split()[3]]


def test_standing_statistics_change_the_scores(finished: Path) -> None:
    fids = []
    for batches in (0, 2):
        result = evaluate(finished, "--metrics", "fid", "--standing-statistics", batches)
        assert result.exit_code == 0, result.stderr
        fids.append(result.stdout.splitlines()[1])
    assert fids[0] != fids[1]


def test_statistics_that_there_are_not_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny = ["--set", "width=1", "--set", "channel_max=4", "--set", "latent_dim=4", "--resolution", 8]
    assert (
        run("train", "progan", "--out", out, "--steps", 1, "--batch-size", 4, "--device", "cpu", *tiny).exit_code == 0
    )
    result = evaluate(out, "--metrics", "kid", "--standing-statistics", 2)
    assert result.exit_code == 2
    assert "standing_statistics: 'progan' has no batch normalisation" in result.stderr
    assert not (out / "evaluations.jsonl").exists()


def test_the_classifier_is_the_default_for_data_with_classes(finished: Path, tmp_path: Path, monkeypatch) -> None:
    from ganfuse.engine.metrics import classifier_training

    monkeypatch.setenv("GANFUSE_CACHE", str(tmp_path))
    monkeypatch.setattr(classifier_training, "_MOST_STEPS", 3)
    result = run("evaluate", finished, "--num", 20, "--device", "cpu", "--metrics", "is,fid")
    assert result.exit_code == 0, result.stderr
    assert "features: classifier, accuracy 0." in result.stdout
    assert len(list((tmp_path / "classifiers").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "fdi"], "metrics: there is none called 'fdi'; did you mean 'fid'?"),
        (["--metrics", ","], "metrics: expected at least one of fid, kid, is, pr, dc"),
        (["--metrics", "is"], "metrics: 'is' needs an extractor with class probabilities"),
        (["--checkpoint", "new"], "--checkpoint expects 'latest', 'best', 'all' or a step, got 'new'"),
        (["--checkpoint", "7"], "there is no checkpoint of step 7; there are: 1, 2"),
        (["--truncation", "0.5"], "truncation: the game 'sagan' cannot truncate its latents"),
        (["--data", "nowhere"], "data source 'nowhere' is neither a name"),
        (["--split", "test"], "digits has no option 'split'"),
        (["--extractor", "inceptoin"], "extractor: there is none called 'inceptoin'; did you mean 'inception'?"),
        (["--extractor", "nowhere.pt"], "extractor: there is no file nowhere.pt"),
        (["--device", "cuda:99"], "device: cuda:99 was asked for"),
    ],
)
def test_errors(finished: Path, arguments: list[str], message: str) -> None:
    before = (finished / "evaluations.jsonl").exists() and (finished / "evaluations.jsonl").read_text()
    result = evaluate(finished, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert len(result.stderr.splitlines()) == 1
    assert ((finished / "evaluations.jsonl").exists() and (finished / "evaluations.jsonl").read_text()) == before


def test_a_run_that_cannot_be_written_is_scored_all_the_same(finished: Path, tmp_path: Path) -> None:
    for name in ("checkpoints", "config.yaml"):
        (tmp_path / name).symlink_to(finished / name)
    (tmp_path / "evaluations.jsonl").mkdir()
    result = evaluate(tmp_path, "--metrics", "fid")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("step  fid")
    assert "warning: not stored" in result.stderr


def test_a_model_that_translates_says_so_at_once(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ganfuse.engine import AdversarialGame

    def sample(self: object, n: int, **options: object) -> torch.Tensor:
        raise NotImplementedError

    monkeypatch.setattr(AdversarialGame, "sample", sample)
    result = run("evaluate", finished)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: game: 'sagan' does not draw images from noise")


def test_folders_without_a_run_or_a_checkpoint(finished: Path, tmp_path: Path) -> None:
    assert "there is no such folder" in run("evaluate", tmp_path / "no").stderr
    assert "not the folder of a run" in run("evaluate", tmp_path).stderr
    (tmp_path / "config.yaml").write_text((finished / "config.yaml").read_text())
    for which in ("latest", "all"):
        result = run("evaluate", tmp_path, "--checkpoint", which)
        assert result.exit_code == 2
        assert "the run has no checkpoint yet" in result.stderr


def test_a_run_on_a_data_set_of_ones_own_is_scored_from_python(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to(finished / "checkpoints")
    text = (finished / "config.yaml").read_text()
    assert "  name: digits\n" in text
    (tmp_path / "config.yaml").write_text(text.replace("  name: digits\n", ""))
    result = run("evaluate", tmp_path)
    assert result.exit_code == 2
    assert "does not say which data the run was trained on (it has no name)" in result.stderr
    assert "hint: score it from Python" in result.stderr


def test_weights_without_averages_are_called_what_they_are(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny = ["--set", "width=2", "--set", "num_samples=10", "--set", "ema_decay=null"]
    assert run("train", "--out", out, "--steps", 1, "--batch-size", 4, *tiny).exit_code == 0
    result = evaluate(out, "--metrics", "fid")
    assert "40 raw samples against" in result.stdout
    assert records_of(out)[-1]["weights"] == "raw"


def test_a_run_of_networks_of_ones_own_is_scored_from_python(tmp_path: Path) -> None:
    Trainer(plain_game(), ToyData(), out=tmp_path, steps=1, batch_size=2, device="cpu", progress=False).fit()
    result = run("evaluate", tmp_path)
    assert result.exit_code == 2
    assert "was made from its owner's networks" in result.stderr


def test_the_data_are_opened_as_they_were_for_training(tmp_path: Path) -> None:
    out = tmp_path / "run"
    tiny = ["--set", "width=2", "--set", "num_samples=10", "--set", "max_images=30"]
    assert run("train", "--out", out, "--steps", 1, "--batch-size", 4, *tiny).exit_code == 0
    for arguments, count in (((), 30), (("--data", "digits"), 40)):
        result = evaluate(out, "--metrics", "fid", *arguments)
        assert result.exit_code == 0, result.stderr
        assert records_of(out)[-1]["num_real"] == count


def test_data_that_have_changed_are_named(finished: Path, tmp_path: Path) -> None:
    text = (finished / "config.yaml").read_text()
    assert "length: 1797" in text
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "checkpoints").symlink_to(finished / "checkpoints")
    (copy / "config.yaml").write_text(text.replace("length: 1797", "length: 1800"))
    result = evaluate(copy, "--metrics", "fid")
    assert result.exit_code == 0, result.stderr
    assert "the run was trained on 1800 images of digits; now there are 1797" in " ".join(result.stderr.split())
