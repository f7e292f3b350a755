"""The benchmark of whole steps of translators: the two ways are the same before they are timed."""

import argparse
import json
from dataclasses import replace

import pytest
import torch

from benchmarks import translation_step
from benchmarks.plain_cyclegan import PlainCycleGAN
from benchmarks.translation_step import MODELS, GanfuseStep, Settings, largest_difference, make_batch

TINY = Settings(side=32, width=2)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_both_ways_have_the_same_losses_and_gradients(name):
    model = MODELS[name]
    assert largest_difference(model, model.small) < translation_step.TOLERANCE


def test_a_difference_is_seen(monkeypatch):
    monkeypatch.setattr(PlainCycleGAN, "generator_loss", _without_identity)
    assert largest_difference(MODELS["cyclegan"], TINY) > 1e-3


def _without_identity(self, batch):
    fake_b, fake_a = self.generator_ab(batch.images), self.generator_ba(batch.images_b)
    return self.generator_ba(fake_b).abs().mean() + self.generator_ab(fake_a).abs().mean(), fake_a, fake_b


@pytest.mark.parametrize("channels_last", [False, True])
def test_both_ways_step_alike(channels_last):
    """Three steps from the same weights leave the same translations; pools of fifty show what was just made."""
    model, batch = MODELS["cyclegan"], make_batch(TINY, torch.device("cpu"), torch.float64)
    torch.manual_seed(0)
    game = model.game(TINY).double()
    plain = model.plain(game, TINY)
    ours = GanfuseStep(game, torch.device("cpu"), channels_last=channels_last)
    for index in range(3):
        shown = replace(batch, images=batch.images.roll(index, 2))
        plain.step(shown)
        ours.step(shown)
    # Biases in front of norms have no gradient but rounding, which Adam scales up; translations do not see them.
    expected = plain.generator_ab(batch.images)
    torch.testing.assert_close(game.generator_ab(batch.images), expected, rtol=1e-6, atol=1e-7)


def test_peak_memory_is_measured_in_a_process_of_its_own():
    settings = {"model": "cyclegan", "device": "cpu", "threads": 1, "side": 64, "width": 8, "batch": 1}
    peak = translation_step._peak_elsewhere(argparse.Namespace(**settings), "ganfuse")
    # Two translators of a tenth of a million weights each, and a few megabytes of maps.
    assert 2**20 < peak < 2**30


def test_a_run_writes_its_row_and_the_next_reads_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(translation_step, "_peak_elsewhere", lambda args, name: 2**20)
    out = tmp_path / "results.jsonl"
    arguments = ["--side", "32", "--width", "2", "--rounds", "2", "--out", str(out)]
    assert translation_step.main(arguments) == 0
    _, row = (json.loads(line) for line in out.read_text().splitlines())
    assert set(row["ms"]) == set(row["peak_mib"]) == set(translation_step.IMPLEMENTATIONS)
    assert all(value > 0 for key in ("ms", "peak_mib", "ratio") for value in row[key].values())
    assert row["difference"] < translation_step.TOLERANCE
    assert translation_step.main(arguments) == 0
    assert len(out.read_text().splitlines()) == 2
    assert "cyclegan 32 px, width 2, batch 1" in capsys.readouterr().out
