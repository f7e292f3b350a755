"""Scores and monitors that options ask for, and the checkpoint of the best step."""

import json

import pytest
import torch

from ganfuse.engine import CheckpointError, Trainer, load_run
from ganfuse.engine.checkpoint import list_checkpoints
from ganfuse.engine.data import ImageDataset
from ganfuse.engine.metrics import read_evaluations
from ganfuse.engine.run_folder import RunFolder
from ganfuse.models import create
from tests.engine.test_resume import make_trainer
from tests.engine.toys import ToyData, toy_game


def mark_at(*steps):
    return lambda trainer: trainer.mark_best() if trainer.step in steps else None


def steps_of(out):
    return [checkpoint.step for checkpoint in list_checkpoints(out / "checkpoints")]


def test_the_best_checkpoint_stays_until_a_better_one(tmp_path):
    make_trainer(tmp_path, checkpoint_every=2, hooks=[mark_at(3)]).fit()
    assert steps_of(tmp_path) == [3, 8, 9]
    best = load_run(tmp_path, toy_game(1), checkpoint="best", weights="raw")
    weights = list_checkpoints(tmp_path / "checkpoints")[0].read_weights()
    assert torch.equal(best.generator.embed.weight, weights["game.generator.embed.weight"])
    make_trainer(tmp_path, steps=15, checkpoint_every=2, hooks=[mark_at(11)], resume=True).fit()
    assert steps_of(tmp_path) == [11, 14, 15]


def test_a_run_without_scores_has_no_best(tmp_path):
    make_trainer(tmp_path).fit()
    with pytest.raises(CheckpointError, match=r"was not scored while training \(evaluate_every\)"):
        load_run(tmp_path, toy_game(), checkpoint="best")


def test_options_score_and_watch(tmp_path):
    toy = ToyData(60)
    data = ImageDataset(name="toy", labels=toy.labels, class_names="abc", channels=1, resolution=8, images=toy.images)
    trainer = make_trainer(
        tmp_path, data=data, evaluate_every=3, evaluate_num=20, held_out=0.25, monitor_every=4, steps=8
    )
    trainer.fit()
    assert len(trainer.data) == 45
    lines = [json.loads(line)["losses"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "evaluation/fid" not in lines[1]
    assert lines[2]["evaluation/fid"] > 0
    assert "collapse/memorisation" in lines[3]
    assert any(key.startswith("singular_values/") for key in lines[3])
    scored = [json.loads(line) for line in (tmp_path / "evaluations.jsonl").read_text().splitlines()]
    assert [record["step"] for record in scored] == [3, 6]
    best = min(scored, key=lambda record: record["scores"]["fid"])["step"]
    assert trainer.best_step == best
    assert best in steps_of(tmp_path)


ASKED = {"gan-cls": {"embedding_dim": 64, "resolution": 32, "channels": 1}}


@pytest.mark.parametrize(("name", "data"), [
    ("bigan", "digits"), ("gan-cls", "captioned:digits"), ("cogan", "digits-thick"),
])  # fmt: skip
def test_discriminators_that_cannot_be_asked_about_an_image_are_named_at_the_start(tmp_path, name, data):
    """The first monitor's turn would have ended the run."""
    game = create(name, width=1, **({"discriminator_width": 1} if name != "bigan" else {}), **ASKED.get(name, {}))
    with pytest.raises(ValueError, match=f"monitor_every: game: the discriminator of '{name}' does not judge"):
        Trainer(game, data, out=tmp_path, device="cpu", held_out=0.1, monitor_every=2)
    baseline = create("bigan", width=2, resolution=8, inference="latent-regressor")
    options = {"held_out": 0.1, "monitor_every": 1, "log_every": 1, "steps": 1, "batch_size": 4, "progress": False}
    Trainer(baseline, "digits", out=tmp_path, device="cpu", **options).fit()
    assert "collapse/memorisation" in (tmp_path / "metrics.jsonl").read_text()


@pytest.mark.parametrize("metrics", ["kid", "kid, pr", ["kid"]])
def test_metrics_may_be_one_word(tmp_path, metrics):
    """Not one metric for each letter."""
    options = {"evaluate_every": 1, "evaluate_num": 6, "evaluate_metrics": metrics, "steps": 1, "batch_size": 4}
    Trainer(toy_game(), ToyData(), out=tmp_path, device="cpu", progress=False, **options).fit()
    scores = read_evaluations(RunFolder(tmp_path))[-1]["scores"]
    assert ("kid" in scores, "precision" in scores) == (True, "pr" in metrics)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"monitor_every": 5}, "monitor_every: .* set held_out"),
        ({"held_out": 0.5}, "held_out: a ToyData cannot be divided"),
        ({"held_out": 1.0}, "held_out: expected a share of the data"),
        ({"evaluate_every": 5, "evaluate_metrics": ["fidd"]}, "there is none called 'fidd'"),
        ({"evaluate_every": 5, "evaluate_metrics": "kid, fidd"}, "there is none called 'fidd'"),
        (
            {"evaluate_every": 5, "evaluate_metrics": 3},
            "evaluate_metrics: expected a name or a list of names",
        ),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        Trainer(toy_game(), ToyData(), out=tmp_path, device="cpu", **options)
