"""Short trainings that must come nearer to the data: the FID of a fixed random network falls from the first step on."""

from pathlib import Path

import pytest
import torch

from ganfuse.engine import Trainer, load_run
from ganfuse.engine.data import open_dataset
from ganfuse.engine.metrics import Evaluator, choose_extractor
from ganfuse.models import create

STEPS = {"dcgan": 300, "sagan": 80}
SETTINGS = {
    "dcgan": {"width": 8, "generator_lr": 1e-3, "discriminator_lr": 1e-3, "ema_decay": 0.95},
    "sagan": {"width": 4, "num_classes": 10, "generator_lr": 1e-3, "discriminator_lr": 2e-3, "ema_decay": 0.95},
}


@pytest.mark.slow
@pytest.mark.parametrize("model", list(SETTINGS))
def test_fid_falls(tmp_path: Path, model: str) -> None:
    data = open_dataset("digits", resolution=32)
    evaluator = Evaluator(choose_extractor("random", data), data, ["fid"], num=700)
    common = {"out": tmp_path / "run", "batch_size": 32, "device": "cpu", "progress": False, "sample_every": 0}
    scores = []
    for steps in (1, STEPS[model]):
        torch.manual_seed(0)
        game = create(model, resolution=32, channels=1, **SETTINGS[model])
        Trainer(game, data, steps=steps, resume=steps > 1, **common).fit()
        scores.append(evaluator.evaluate(load_run(tmp_path / "run"))["fid"])
    assert scores[1] < scores[0] / 3, scores
