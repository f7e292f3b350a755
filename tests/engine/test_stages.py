"""What the trainer makes of a game's stages: checked before it begins, and told while it goes on."""

import json

import pytest

from ganfuse.engine import Trainer
from ganfuse.engine.game import Stage
from tests.engine.toys import ToyData, toy_game


def staged(second_batch: int | None = None):
    """A toy game whose second stage begins after 12 images, its third after 24."""
    game = toy_game()
    stages = [(0.0, Stage("first")), (0.012, Stage("second", second_batch)), (0.024, Stage("third"))]
    game.stages = lambda: stages
    game.stage = lambda progress: [stage for begins, stage in stages if begins <= progress.kimg][-1]
    return game


def trainer(game, folder, **options):
    common = {"batch_size": 4, "device": "cpu", "progress": False, "sample_every": 0, "num_samples": 1, "log_every": 1}
    return Trainer(game, ToyData(), out=folder, **{**common, **options})


def test_batches_that_do_not_divide_are_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"batch_size: 3 images cannot be divided equally into 2 .*stage 'second'"):
        trainer(staged(3), tmp_path / "run", accumulation=2)
    assert not (tmp_path / "run").exists()
    trainer(staged(6), tmp_path / "run", accumulation=2)


@pytest.mark.parametrize(("options", "ends_in"), [
    ({"steps": 2}, "first"),
    ({"steps": 3}, "second"),
    ({"steps": 5}, "second"),
    ({"steps": 6}, None),
    ({"steps": 1000, "kimg": 0.02}, "second"),
    ({"steps": 1000, "kimg": 0.03}, None),
])  # fmt: skip
def test_a_run_that_ends_too_early_is_warned_of(tmp_path, caplog, options, ends_in):
    with caplog.at_level("WARNING", logger="ganfuse"):
        trainer(staged(), tmp_path / "run", **options)
    said = [record.getMessage() for record in caplog.records if "ends in stage" in record.getMessage()]
    if ends_in is None:
        assert not said
    else:
        assert said == [
            f"the run ends in stage {ends_in!r}, before the last one, 'third', which begins after 0.024 thousand "
            "images: it takes more steps, or shorter stages"
        ]


def test_larger_batches_get_there_sooner(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="ganfuse"):
        trainer(staged(12), tmp_path / "run", steps=4)
    assert not caplog.records


def test_the_stage_is_logged_and_shown(tmp_path, capsys):
    trainer(staged(), tmp_path / "run", steps=4, progress=True).fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["first", "first", "first", "second"]
    assert "step 4/4  second  discriminator" in capsys.readouterr().err


def test_games_without_stages_say_nothing_of_them(tmp_path):
    trainer(toy_game(), tmp_path / "run", steps=1).fit()
    assert "stage" not in json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
