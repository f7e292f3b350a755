"""The discriminator on held-out images: a planted memory shows, and training goes on undisturbed."""

import pytest
import torch
from torch import nn

from ganfuse.engine import AdversarialGame, CollapseMonitor, Trainer, load_run
from ganfuse.engine.game import evaluation_mode
from ganfuse.engine.metrics import discriminator_on_held_out
from ganfuse.engine.schedules import Progress
from ganfuse.models import create
from tests.engine.metrics.shapes import BarGame, Bars
from tests.engine.toys import PlainGenerator, ToyData, toy_game
from tests.models.step_checks import ToyImages


class Remembers(nn.Module):
    """Says +1 to images that it was shown, and -1 to all others; 3 less in training mode."""

    def __init__(self, images):
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(()))
        self.known = images.float() / 127.5 - 1

    def forward(self, images):
        exact = "donot_use_mm_for_euclid_dist"
        distances = torch.cdist(images.flatten(1), self.known.flatten(1), compute_mode=exact)
        return (distances.min(1).values < 1e-3).float() * 2 - 1 + self.offset - 3 * self.training


def test_a_memory_shows():
    train, held_out = Bars(50), Bars(30, seed=1)
    game = AdversarialGame(PlainGenerator(), Remembers(train.images), latent_dim=4)
    game.train()
    found = discriminator_on_held_out(game, train, held_out, 40, batch_size=16)
    assert found == {
        "train_logit": 1.0,
        "train_accuracy": 1.0,
        "held_out_logit": -1.0,
        "held_out_accuracy": 0.0,
        "fake_logit": -1.0,
        "fake_accuracy": 1.0,
        "memorisation": 1.0,
    }
    assert game.discriminator.training
    game.discriminator.known = torch.cat([game.discriminator.known, held_out.images.float() / 127.5 - 1])
    assert discriminator_on_held_out(game, train, held_out, 40)["memorisation"] == 0.0


def test_the_threshold_and_the_labels():
    class Knows(nn.Module):
        """The logit is the label, for real and generated images alike."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, images, labels):
            return labels * self.weight

    class Generator(PlainGenerator):
        def forward(self, z, labels):
            return super().forward(z)

    game = AdversarialGame(Generator(), Knows(), latent_dim=4, num_classes=3)
    data = Bars(60, shares=(0, 0, 2, 2))
    found = discriminator_on_held_out(game, data, data, 60, threshold=1.0)
    assert (found["train_logit"], found["train_accuracy"]) == (1.0, 0.5)
    # Generated images have the classes of the data, of which none is 1.
    assert found["fake_accuracy"] + found["fake_logit"] / 2 == pytest.approx(1.0)
    assert 0.2 < found["fake_accuracy"] < 0.8


def test_the_hook_logs_and_leaves_no_trace(tmp_path):
    def fit(out, hooks):
        trainer = Trainer(
            toy_game(), ToyData(), out=out, steps=4, batch_size=4, device="cpu", progress=False, hooks=hooks
        )
        trainer.fit()
        return trainer.record.latest, load_run(out, toy_game(1), weights="raw").state_dict()

    _, without = fit(tmp_path / "without", [])
    latest, with_ = fit(tmp_path / "with", [CollapseMonitor(ToyData(10), every=2, n=10, singular_values=1)])
    assert all(torch.equal(without[key], with_[key]) for key in without)
    assert 0 <= latest["collapse/held_out_accuracy"] <= 1
    assert latest["collapse/memorisation"] == pytest.approx(
        latest["collapse/train_accuracy"] - latest["collapse/held_out_accuracy"]
    )
    assert latest["singular_values/generator.body.0/0"] > 0
    latest, _ = fit(tmp_path / "few", [CollapseMonitor(ToyData(10), every=2, n=10, singular_values=0)])
    assert not [key for key in latest if key.startswith("singular_values/")]


@pytest.mark.parametrize("images", [0, 12, 60])
def test_of_a_game_that_grows_images_are_judged_in_the_present_size(images):
    config = {"resolution": 16, "channels": 1, "width": 2, "channel_max": 4, "latent_dim": 5}
    game = create("progan", **config, stable_kimg=0.008, fade_kimg=0.016, batch_sizes=None)
    # 4×4, a quarter into the fade of 8×8, and 16×16.
    game.before_step(Progress(images=images))
    data = ToyImages(1, 16)
    found = discriminator_on_held_out(game, data, data, 8)
    real = game.growth.shrink(data.images.float() / 127.5 - 1)
    with evaluation_mode(game):
        expected = game.discriminate(real, None).mean()
    assert found["train_logit"] == pytest.approx(float(expected), rel=1e-5)
    # Generated images are not faded a second time.
    drawn = game.sample(2, rng=torch.Generator().manual_seed(0))
    torch.testing.assert_close(game.growth.enlarge(game.at_present_size(drawn, real=False)), drawn)


def test_errors():
    with pytest.raises(ValueError, match=r"game: 'bars' has no method discriminate\(images, labels\)"):
        discriminator_on_held_out(BarGame(), Bars(), Bars())
    with pytest.raises(ValueError, match="n: expected a positive"):
        CollapseMonitor(Bars(), n=0)
    with pytest.raises(ValueError, match="every: expected a positive"):
        CollapseMonitor(Bars(), every=0)
    with pytest.raises(ValueError, match="singular_values: expected a number of at least 0, got -1"):
        CollapseMonitor(Bars(), singular_values=-1)
