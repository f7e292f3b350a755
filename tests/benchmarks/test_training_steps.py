"""Training steps of published models: the table, and a run of a small one that goes on where it stopped."""

import pytest
import torch

from benchmarks import training_steps
from ganfuse.bench import records
from ganfuse.models import model_info

CPU = torch.device("cpu")


@pytest.mark.parametrize("label", training_steps.MODELS)
def test_every_model_takes_its_settings(label):
    model = training_steps.MODELS[label]
    info = model_info(model.name)
    assert model.config.keys() <= info.config.keys()
    assert (info.data_kind == "unpaired") == model.unpaired
    subject = training_steps.make_subject(label, torch.device("cuda"))
    assert subject.options["batch_size"] == model.batch
    assert f"{model.config['resolution']}" in label


def test_the_same_command_measures_what_is_missing(tmp_path, monkeypatch):
    tiny = training_steps.Model("dcgan", 2, {"resolution": 28, "width": 2})
    monkeypatch.setattr(training_steps, "MODELS", {"tiny-28": tiny})
    arguments = ["--device", "cpu", "--models", "tiny-28", "--minutes", "0.001", "--out", str(tmp_path)]
    assert training_steps.main([*arguments, "--variants", "reference"]) == 0
    assert training_steps.main([*arguments, "--variants", "reference", "plain_optimizer"]) == 0
    rows = [r for r in records.read(tmp_path / "train-cpu.jsonl") if r["kind"] == "row"]
    assert [row["provider"] for row in rows] == ["default", "reference", "plain_optimizer"]
    assert {row["status"] for row in rows} == {"ok"}
