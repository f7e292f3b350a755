"""Scores while training: logged, stored, without a trace in the training, and the best step found again on resuming."""

import json

import pytest
import torch

from ganfuse.engine import Evaluate, Trainer, load_run
from ganfuse.engine.metrics import Evaluator, read_evaluations
from ganfuse.engine.metrics.random_network import RandomExtractor
from ganfuse.engine.run_folder import RunFolder
from tests.engine.toys import ToyData, plain_game, toy_game


def fit(out, hooks=(), game=None, **options):
    options = {"steps": 6, "batch_size": 4, "log_every": 1, "sample_every": 0, "checkpoint_every": 2, **options}
    trainer = Trainer(
        toy_game() if game is None else game, ToyData(), out=out, device="cpu", progress=False, hooks=hooks, **options
    )
    trainer.fit()
    return trainer


def evaluate(**options):
    return Evaluate(**{"every": 2, "num": 20, "extractor": "random", **options})


def weights_of(out):
    return load_run(out, toy_game(1), weights="raw").state_dict()


def test_scores_are_logged_and_stored_with_their_circumstances(tmp_path):
    hook = evaluate(metrics=("kid", "fid"))
    trainer = fit(tmp_path, [hook])
    records = read_evaluations(RunFolder(tmp_path))
    assert [record["step"] for record in records] == [2, 4, 6]
    last = records[-1]
    assert last["scores"] == hook.scores
    assert list(last["scores"]) == ["kid", "kid_std", "fid"]
    assert (last["during"], last["weights"], last["num_fake"], last["data"]) == ("training", "ema", 20, "toy")
    assert last["extractor"]["name"] == "random"
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert "evaluation/fid" not in lines[0]["losses"]
    assert lines[1]["losses"]["evaluation/fid"] == pytest.approx(records[0]["scores"]["fid"])
    assert trainer.record.latest["evaluation/kid"] == pytest.approx(last["scores"]["kid"])


def test_the_averaged_weights_are_scored(tmp_path):
    hook = evaluate(every=6)
    fit(tmp_path, [hook])
    data = ToyData()
    evaluator = Evaluator(RandomExtractor(channels=1, resolution=8), data, ["fid"], num=20)
    assert evaluator.evaluate(load_run(tmp_path, toy_game(1))) == hook.scores
    assert evaluator.evaluate(load_run(tmp_path, toy_game(1), weights="raw")) != hook.scores


def test_a_game_without_averages_is_scored_as_it_is(tmp_path):
    fit(tmp_path, [evaluate()], game=plain_game(ema_decay=None))
    assert read_evaluations(RunFolder(tmp_path))[-1]["weights"] == "raw"


@pytest.mark.parametrize("extractor", ["random", "auto"])
def test_training_is_the_same_with_and_without(tmp_path, monkeypatch, extractor):
    monkeypatch.setenv("GANFUSE_CACHE", str(tmp_path / "cache"))
    fit(tmp_path / "without")
    fit(tmp_path / "with", [evaluate(extractor=extractor)])
    without, with_ = weights_of(tmp_path / "without"), weights_of(tmp_path / "with")
    assert all(torch.equal(without[key], with_[key]) for key in without)


def test_the_best_step(tmp_path):
    for metrics, better in ((("fid",), min), (("dc", "fid"), max)):
        hook = evaluate(every=1, metrics=metrics)
        fit(tmp_path / metrics[0], [hook])
        main = "fid" if metrics[0] == "fid" else "density"
        scores = {r["step"]: r["scores"][main] for r in read_evaluations(RunFolder(tmp_path / metrics[0]))}
        assert hook.best.score == better(scores.values())
        assert hook.best.step == next(step for step, score in scores.items() if score == hook.best.score)


def test_a_resumed_run_knows_its_best_step_but_not_that_of_other_circumstances(tmp_path):
    first = evaluate()
    fit(tmp_path, [first], steps=4)
    run = RunFolder(tmp_path)
    record = read_evaluations(run)[0]
    # A better score with other samples, one by the command, and one that a rollback has left behind.
    for change in ({"num_fake": 21}, {"during": "evaluate"}, {"step": 6}):
        with open(run.evaluations_file, "a") as file:
            file.write(json.dumps({**record, "scores": {"fid": 0.0}, **change}) + "\n")
    second = evaluate()
    assert second.best is None
    fit(tmp_path, [second], steps=6, resume=True)
    scores = {2: record["scores"]["fid"], 4: first.scores["fid"], 6: second.scores["fid"]}
    step = min(scores, key=scores.get)
    assert second.best == (step, scores[step])


def test_only_the_first_process_scores():
    class Second:
        is_first = False

    class Waiting:
        step = 2
        processes = Second()

    hook = evaluate()
    hook(Waiting())
    assert hook.scores == {}
    assert hook.best is None


def test_real_images_of_ones_own(tmp_path):
    class Other(ToyData):
        name = "other"

    hook = evaluate(data=Other(30), num=30)
    fit(tmp_path, [hook])
    record = read_evaluations(RunFolder(tmp_path))[-1]
    assert (record["data"], record["num_real"]) == ("other", 30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every: expected a positive whole number, got 0"),
        ({"num": 0}, "num: expected a positive"),
        ({"metrics": "fid"}, "metrics: expected several names"),
        ({"metrics": ("fdi",)}, "did you mean 'fid'"),
        ({"metrics": ()}, "metrics: expected at least one"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        Evaluate(**options)
