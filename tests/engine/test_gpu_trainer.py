"""The trainer on a GPU: precisions, graphs, compilation, prefetching, resume."""

import json

import pytest
import torch

from ganfuse.engine import Trainer
from tests.engine.test_processes import Discriminator, Generator
from tests.engine.toys import ToyData

pytestmark = pytest.mark.gpu


def train(out, *, steps=8, **options):
    from ganfuse.engine import AdversarialGame

    torch.manual_seed(0)
    game = AdversarialGame(Generator(), Discriminator(), num_classes=3, r1_gamma=0.1, penalty_interval=2)
    options = {"batch_size": 8, "log_every": 1, "sample_every": 0, "progress": False, "device": "cuda", **options}
    trainer = Trainer(game, ToyData(), out=out, steps=steps, **options)
    trainer.fit()
    return trainer


def losses(out):
    return [json.loads(line)["losses"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def assert_close(ours, theirs, rel):
    for left, right in zip(losses(ours), losses(theirs), strict=True):
        assert left == pytest.approx(right, rel=rel, abs=rel)


def test_a_gpu_trains_like_a_cpu_at_first(tmp_path):
    """Other random numbers on each device: only magnitudes are comparable."""
    train(tmp_path / "gpu")
    train(tmp_path / "cpu", device="cpu")
    assert losses(tmp_path / "gpu")[0].keys() == losses(tmp_path / "cpu")[0].keys()
    gpu, cpu = (losses(tmp_path / name)[0]["discriminator/loss"] for name in ("gpu", "cpu"))
    assert abs(gpu - cpu) < 1.0


def test_graphs_compute_what_is_computed_without(tmp_path):
    plain = train(tmp_path / "plain")
    graphed = train(tmp_path / "graphed", cuda_graphs=True)
    assert all(graph.captured for graph in graphed.turn_runner._turn_graphs.values())
    assert_close(tmp_path / "graphed", tmp_path / "plain", 1e-3)
    for ours, theirs in zip(graphed.game.parameters(), plain.game.parameters()):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


def test_graphs_after_a_resume(tmp_path):
    train(tmp_path / "run", steps=5, cuda_graphs=True, checkpoint_every=5)
    train(tmp_path / "run", steps=12, cuda_graphs=True, resume=True)
    train(tmp_path / "straight", steps=12)
    assert_close(tmp_path / "run", tmp_path / "straight", 1e-2)


def test_a_turn_that_reads_numbers_back_is_named(tmp_path):
    from ganfuse.engine import AdversarialGame

    class Peeks(AdversarialGame):
        def generator_loss(self, batch, noise):
            values = super().generator_loss(batch, noise)
            float(values["loss"].detach())
            return values

    torch.manual_seed(0)
    game = Peeks(Generator(), Discriminator(), num_classes=3)
    trainer = Trainer(
        game, ToyData(), out=tmp_path, steps=8, batch_size=8, device="cuda", cuda_graphs=True, progress=False
    )
    with pytest.raises(RuntimeError, match="turn 'generator' cannot be captured"):
        trainer.fit()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("feature", [{}, {"channels_last": True}, {"prefetch": True, "workers": 1}])
def test_half_precisions(tmp_path, precision, feature):
    train(tmp_path / "half", precision=precision, **feature)
    train(tmp_path / "full")
    ours, theirs = (losses(tmp_path / name)[0] for name in ("half", "full"))
    assert ours["discriminator/loss"] == pytest.approx(theirs["discriminator/loss"], rel=0.05, abs=0.05)


def test_compiled_networks(tmp_path):
    train(tmp_path / "compiled", compile=True, steps=4)
    train(tmp_path / "plain", steps=4)
    assert_close(tmp_path / "compiled", tmp_path / "plain", 1e-2)


def test_resume_on_a_gpu_is_close_to_a_straight_run(tmp_path):
    train(tmp_path / "run", steps=4)
    train(tmp_path / "run", steps=8, resume=True)
    train(tmp_path / "straight", steps=8)
    assert_close(tmp_path / "run", tmp_path / "straight", 1e-2)
