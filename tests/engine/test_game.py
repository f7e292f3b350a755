"""AdversarialGame: what its networks are shown, and what its turns return."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ganfuse.engine import AdversarialGame, Batch, CheckpointError, Turn
from ganfuse.engine.checkpoint import load_tensors
from ganfuse.engine.game import evaluation_mode
from ganfuse.engine.losses import AdversarialLoss
from ganfuse.engine.noise import Noise
from tests.engine.toys import (
    SIZE,
    PlainDiscriminator,
    PlainGenerator,
    ToyData,
    ToyDiscriminator,
    ToyGenerator,
    plain_game,
    toy_game,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int = 0) -> Noise:
    return Noise(rng(seed))


def batch(n: int = 6, labels: bool = True) -> Batch:
    generator = rng(1)
    images = torch.rand(n, 1, SIZE, SIZE, generator=generator) * 2 - 1
    return Batch(images, torch.zeros(n, dtype=torch.int64) if labels else None)


class Recorder(nn.Module):
    """Notes what a network is called with."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.calls: list[tuple[torch.Tensor, ...]] = []

    def forward(self, *inputs):
        self.calls.append(inputs)
        return self.network(*inputs)


def test_discriminator_turn_by_hand():
    game = plain_game(loss="non-saturating").eval()
    real = batch(labels=False)
    values = game.discriminator_loss(real, noise(3))
    fakes = game.generator(torch.randn(6, 4, generator=rng(3)))
    r, f = game.discriminator(real.images), game.discriminator(fakes)
    expected = nn.functional.softplus(-r).mean() + nn.functional.softplus(f).mean()
    torch.testing.assert_close(values["loss"], expected)
    torch.testing.assert_close(values["real_logits"], r.mean())
    torch.testing.assert_close(values["fake_logits"], f.mean())


def test_discriminator_turn_leaves_the_generator_without_gradients():
    game = plain_game()
    game.discriminator_loss(batch(labels=False), noise())["loss"].backward()
    assert all(p.grad is None for p in game.generator.parameters())
    assert all(p.grad is not None for p in game.discriminator.parameters())


def test_one_batch_or_two_give_the_same_loss():
    apart, together = (toy_game(concatenate=value).eval() for value in (False, True))
    for key, value in apart.discriminator_loss(batch(), noise()).items():
        torch.testing.assert_close(together.discriminator_loss(batch(), noise())[key], value)


@pytest.mark.parametrize("concatenate", [False, True])
def test_labels_of_generated_images_are_drawn_independently(concatenate):
    game = AdversarialGame(
        ToyGenerator(), Recorder(ToyDiscriminator()), num_classes=3, latent_dim=4, concatenate=concatenate
    )
    game.discriminator_loss(batch(60), noise())
    shown = torch.cat([labels for _, labels in game.discriminator.calls])
    assert (shown[:60] == 0).all()
    assert set(shown[60:].tolist()) == {0, 1, 2}


def test_generator_and_discriminator_see_the_same_labels_in_the_generator_turn():
    game = AdversarialGame(Recorder(ToyGenerator()), Recorder(ToyDiscriminator()), num_classes=3, latent_dim=4)
    game.generator_loss(batch(), noise())
    assert torch.equal(game.generator.calls[0][1], game.discriminator.calls[0][1])


def test_networks_without_labels_are_called_without():
    game = AdversarialGame(PlainGenerator(), ToyDiscriminator(), num_classes=3, latent_dim=4)
    assert game.generator_loss(batch(), noise())["loss"].requires_grad
    game = AdversarialGame(ToyGenerator(), PlainDiscriminator(), num_classes=3)
    assert game.discriminator_loss(batch(), noise())["loss"].requires_grad


def test_own_loss():
    own = AdversarialLoss(lambda real, fake: fake.mean() - 2 * real.mean(), lambda fake: fake.mean())
    game = plain_game(loss=own).eval()
    assert game.discriminator_loss(batch(labels=False), noise())["loss"].requires_grad


def test_sample_is_in_eval_mode_without_grad_and_restores_modes():
    game = toy_game().train()
    game.generator.body[1].eval()
    modes = [module.training for module in game.modules()]
    first, second = game.sample(5, rng=rng()), game.sample(5, rng=rng())
    assert first.shape == (5, 1, SIZE, SIZE)
    assert torch.equal(first, second)
    assert not first.requires_grad
    assert [module.training for module in game.modules()] == modes


def test_sample_does_not_depend_on_the_batch_size():
    game = toy_game()
    torch.testing.assert_close(game.sample(7, rng=rng(), batch_size=3), game.sample(7, rng=rng()))


def test_sample_labels():
    game = toy_game()
    same = game.sample(4, labels=2, rng=rng())
    assert torch.equal(same, game.sample(4, labels=[2, 2, 2, 2], rng=rng()))
    assert torch.equal(same, game.sample(4, labels=torch.tensor([2, 2, 2, 2]), rng=rng()))
    assert not torch.equal(same, game.sample(4, labels=1, rng=rng()))


def test_uniform_latents_fill_their_range():
    z = plain_game(latent="uniform").draw_latents(2000, noise())
    assert -1 <= z.min() < -0.99
    assert 0.99 < z.max() <= 1
    z = plain_game().draw_latents(2000, noise())
    assert abs(z.std().item() - 1) < 0.05


def test_latent_shape_may_be_that_of_a_map():
    assert plain_game(latent_dim=(4, 1, 1)).draw_latents(2, noise()).shape == (2, 4, 1, 1)


def test_preview_puts_classes_into_columns():
    game = AdversarialGame(Recorder(ToyGenerator()), ToyDiscriminator(), num_classes=3, latent_dim=4)
    images, columns = game.preview(16, rng=rng())
    assert columns == 3
    assert len(images) == 15
    assert game.generator.calls[0][1].tolist() == [0, 1, 2] * 5
    images, columns = game.preview(4, rng=rng())
    assert (len(images), columns) == (4, None)
    assert plain_game().preview(9, rng=rng())[1] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hingee"}, "loss: expected one of .*did you mean 'hinge'"),
        ({"latent": "gauss"}, "latent: expected one of 'normal', 'uniform', got 'gauss'"),
        ({"latent_dim": None}, "latent_dim: give the size of z"),
        ({"latent_dim": 0}, "latent_dim: expected positive sizes"),
        ({"discriminator_steps": 0}, "discriminator_steps: expected a positive whole number, got 0"),
        ({"num_classes": 0}, "num_classes: expected a positive number or None, got 0"),
        ({"num_classes": 3}, "neither network's forward has a second argument"),
        ({"betas": (0.0, 1.0)}, "betas: expected two numbers with 0 <= beta < 1"),
        ({"betas": (0.5,)}, "betas: expected two numbers"),
        ({"betas": ("a", "b")}, r"betas: expected two numbers with 0 <= beta < 1, got \('a', 'b'\)"),
        ({"r1_gamma": None}, "r1_gamma: expected a weight of at least 0, got None"),
        ({"adam_eps": "small"}, "adam_eps: expected a number of at least 0, got 'small'"),
        ({"generator_lr": True}, "generator_lr: expected a learning rate of at least 0, got True"),
        ({"betas": 0.5}, "betas: expected two numbers, got 0.5"),
        ({"discriminator_steps": True}, "discriminator_steps: expected a positive whole number, got True"),
        ({"discriminator_lr": -1.0}, "discriminator_lr: expected a learning rate of at least 0, got -1.0"),
        ({"generator_lr": "fast"}, "generator_lr: expected a learning rate of at least 0, got 'fast'"),
        ({"ema_decay": 2}, "ema_decay: expected 0 <= decay < 1 or None, got 2"),
        ({"ema_decay": "none"}, "ema_decay: expected 0 <= decay < 1 or None, got 'none'"),
        ({"generator_lr": -1.0}, "lr: expected a learning rate of at least 0"),
        ({"ema_decay": 1.0}, "decay: expected 0 <= decay < 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        plain_game(**options)


def test_network_that_demands_labels_needs_num_classes():
    with pytest.raises(ValueError, match="generator's forward demands labels"):
        AdversarialGame(ToyGenerator(), PlainDiscriminator())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (3, "values from 0 to 2, got 3 to 3"),
        (-1, "got -1 to -1"),
        ([0, 1], r"4 labels or a single one, got shape \(2,\)"),
    ],
)
def test_bad_sample_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        toy_game().sample(4, labels=labels)


def test_labels_for_a_game_without_classes():
    with pytest.raises(ValueError, match="this game has no classes"):
        plain_game().sample(4, labels=0)


def test_images_of_the_wrong_shape_are_named():
    with pytest.raises(
        ValueError, match=r"generator: its images have shape \(6, 1, 8, 8\), those of the data \(6, 3, 8, 8\)"
    ):
        plain_game().discriminator_loss(Batch(torch.zeros(6, 3, SIZE, SIZE)), noise())


def test_data_without_classes_for_a_game_with_classes():
    """Refused before the training: every real image would have label 0, every generated one any."""
    data = SimpleNamespace(num_classes=1)
    with pytest.raises(ValueError, match="num_classes: the data has no classes, the game was made for 3"):
        toy_game().check_data(data)
    plain_game().check_data(data)
    toy_game().check_data(SimpleNamespace(num_classes=2))


def test_classes_that_the_data_have_not_are_named_and_not_drawn(caplog):
    """A label that no real image has would teach the discriminator to reject the label."""
    game = toy_game()
    assert game.drawn_classes == [0, 1, 2]
    before = game.draw_labels(50, noise())
    game.check_data(ToyData())
    assert not caplog.messages
    # What others drew before goes on being drawn.
    assert torch.equal(game.draw_labels(50, noise()), before)
    assert torch.equal(before, torch.randint(3, (50,), generator=rng()))
    data = ToyData()
    data.labels = 2 * (data.labels % 2)
    game.check_data(data)
    (message,) = caplog.messages
    assert "the game has 3 classes, the data has images of 2; the other 1 (1) are not drawn" in message
    assert game.drawn_classes == [0, 2]
    assert torch.bincount(game.draw_labels(400, noise()), minlength=3).tolist()[1] == 0
    assert torch.bincount(game.draw_labels(400, noise()), minlength=3).min(0).indices == 1
    grid, columns = game.preview(8, rng=rng())
    assert columns == 2
    torch.testing.assert_close(grid, game.sample(8, labels=[0, 2] * 4, rng=rng()))
    # It is state: a game that is loaded draws the same classes.
    loaded = toy_game()
    load_tensors(loaded, game.state_dict(), what="a checkpoint")
    assert loaded.drawn_classes == [0, 2]
    assert torch.equal(loaded.draw_labels(50, noise()), game.draw_labels(50, noise()))
    earlier = {key: value for key, value in game.state_dict().items() if key != "class_shares"}
    loaded = toy_game()
    load_tensors(loaded, earlier, what="a checkpoint of an earlier version")
    assert loaded.drawn_classes == [0, 1, 2]
    with pytest.raises(CheckpointError, match="not in the file: generator"):
        load_tensors(loaded, {"class_shares": torch.ones(3)}, what="half a checkpoint")


def test_data_that_say_how_many_classes_but_not_which(caplog):
    game = toy_game()
    game.check_data(SimpleNamespace(num_classes=2))
    assert game.drawn_classes == [0, 1]
    assert "the game has 3 classes, the data has images of 2" in caplog.text
    game = toy_game()
    game.check_data(SimpleNamespace())
    assert game.drawn_classes == [0, 1, 2]


@pytest.mark.parametrize("labels", [[0, 1, 3], [-1, 0, 1]])
def test_labels_that_the_game_has_not(labels):
    with pytest.raises(ValueError, match=f"labels: expected values from 0 to 2, the data has {min(labels)} to"):
        toy_game().check_data(SimpleNamespace(labels=labels))


def test_data_without_labels_for_a_game_with_classes():
    with pytest.raises(ValueError, match="the data has no labels"):
        toy_game().discriminator_loss(batch(labels=False), noise())


@pytest.mark.parametrize("field", ["every", "repeats"])
def test_turn_counts_are_checked(field):
    with pytest.raises(ValueError, match=f"{field}: a turn needs a positive whole number, got 0"):
        Turn("generator", lambda batch, rng: {}, **{field: 0})


def test_evaluation_mode_turns_gradients_off():
    layer = nn.Linear(2, 2)
    with evaluation_mode(layer):
        assert not layer.training
        assert not layer(torch.zeros(1, 2)).requires_grad
    assert layer.training
