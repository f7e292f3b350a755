"""Steps that change nothing, since the learning rates are 0, are said to."""

import itertools
import logging

import pytest
import torch
from torch import nn

from ganfuse.engine import Trainer
from ganfuse.engine.idle_steps import first_idle_step
from ganfuse.engine.schedules import ConstantThenLinear, Cosine, Progress
from tests.engine.test_translation import ShiftGame
from tests.models.translation_checks import ToyDomains


def at(step: int) -> Progress:
    return Progress(step, images=10 * (step - 1), dataset_size=20, batch_size=10, steps=100)


@pytest.mark.parametrize(
    ("schedules", "expected"),
    [
        # 4 epochs of 2 steps each have passed when step 9 begins.
        ([ConstantThenLinear(2, 2)], 9),
        ([ConstantThenLinear(0, 30, "steps"), ConstantThenLinear(2, 2)], 31),
        ([ConstantThenLinear(0, 99, "steps")], 100),
        ([ConstantThenLinear(0, 100, "steps")], None),
        ([ConstantThenLinear(2, 2, final=0.1)], None),
        ([Cosine(50), ConstantThenLinear(2, 2)], 51),
        ([ConstantThenLinear(2, 2), None], None),
    ],
)
def test_the_first_step_at_which_all_rates_are_0(schedules, expected):
    assert first_idle_step(schedules, at, 1, 100) == expected
    played = [step for step in range(1, 101) if all(s is not None and s(at(step)) == 0 for s in schedules)]
    assert played == ([] if expected is None else list(range(expected, 101)))
    assert first_idle_step(schedules, at, 60, 59) is None


@pytest.mark.parametrize("options", [{"steps": 8}, {"steps": 99, "kimg": 0.016}])
def test_the_trainer_says_from_which_step_on(tmp_path, caplog, options):
    """Passes are over the larger domain, of 6 images: 2 of them are over when step 7 of batches of 2 begins."""
    game = ShiftGame(schedule=ConstantThenLinear(1, 1))
    weights = []

    def remember(trainer: Trainer) -> None:
        weights.append(nn.utils.parameters_to_vector(game.parameters()).clone())

    common = {"batch_size": 2, "device": "cpu", "progress": False, "sample_every": 0}
    with caplog.at_level(logging.WARNING, "ganfuse.train"):
        Trainer(game, ToyDomains(1, 8), out=tmp_path / "run", hooks=[remember], **common, **options).fit()
    (record,) = caplog.records
    assert "all learning rates are 0 from step 7 on" in record.getMessage()
    assert "the steps from there to 8 change no weight" in record.getMessage()
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert moved == [True] * 5 + [False] * 2
    caplog.clear()
    # Six steps are complete when the rates are 0; a run that goes on says it again.
    with caplog.at_level(logging.WARNING, "ganfuse.train"):
        Trainer(
            ShiftGame(schedule=ConstantThenLinear(1, 1)), ToyDomains(1, 8), out=tmp_path / "6", steps=6, **common
        ).fit()
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "ganfuse.train"):
        again = ShiftGame(schedule=ConstantThenLinear(1, 1))
        Trainer(again, ToyDomains(1, 8), out=tmp_path / "6", steps=9, resume=True, **common).fit()
    assert "from step 7 on" in caplog.text
