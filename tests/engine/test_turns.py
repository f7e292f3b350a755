"""What games can express (joint moves, schedules, stages, micro-batches), and numbers that are not finite."""

import json
import math

import pytest
import torch
from torch import nn

from ganfuse import fuse_spectral_norms, spectral_norm
from ganfuse.engine import (
    Adam,
    EMATarget,
    Game,
    NonFiniteError,
    NonFiniteGradientError,
    Player,
    Stage,
    Trainer,
    Turn,
)
from ganfuse.engine.checkpoint import list_checkpoints
from ganfuse.engine.data import open_dataset, pack_dataset
from ganfuse.engine.schedules import StepDecay
from ganfuse.models import create
from tests.engine.pictures import noise
from tests.engine.toys import ToyData, plain_game

QUIET = {"steps": 3, "batch_size": 4, "progress": False, "num_samples": 4, "device": "cpu", "log_every": 1}


def train(game, out, **options):
    trainer = Trainer(game, ToyData(), out=out, **{**QUIET, **options})
    trainer.fit()
    return trainer


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class Weights(Game):
    """Two weights in float64, a and b; turns and players are given."""

    name = "weights"

    def __init__(self, turns, players=None, **hooks):
        super().__init__()
        self.a = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        self.b = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        nn.init.constant_(self.a.weight, 1.0)
        nn.init.constant_(self.b.weight, 2.0)
        self._turns, self._players = turns, players
        self.played = []
        for name, hook in hooks.items():
            setattr(self, name, hook)

    def players(self):
        return self._players or (Player("a", ("a",), sgd), Player("b", ("b",), sgd))

    def turns(self):
        return self._turns(self)

    def sample(self, n, *, labels=None, rng=None):
        return torch.zeros(n, 1, 8, 8)

    def values(self):
        return self.a.weight.item(), self.b.weight.item()


def recorded(game, name):
    def loss(batch, noise):
        game.played.append(name)
        return {"loss": game.a.weight.sum() + game.b.weight.sum()}

    return loss


def test_players_move_together_each_along_its_own_loss(tmp_path):
    """One product of both weights: a descends, b climbs, both from the weights of before."""

    def loss(game):
        def losses(batch, noise):
            product = (game.a.weight * game.b.weight).sum()
            return {"loss/a": product, "loss/b": -product}

        return [Turn(("a", "b"), losses)]

    game = Weights(loss)
    train(game, tmp_path, steps=1)
    assert game.values() == pytest.approx((1.0 - 0.1 * 2.0, 2.0 + 0.1 * 1.0), rel=1e-12)
    assert lines(tmp_path)[0]["losses"] == {"a+b/loss/a": 2.0, "a+b/loss/b": -2.0}


def test_a_player_without_a_loss_of_its_own_is_named(tmp_path):
    game = Weights(lambda game: [Turn(("a", "b"), lambda batch, noise: {"loss/a": game.a.weight.sum()})])
    with pytest.raises(ValueError, match=r"turn 'a\+b' returned no entry 'loss/b', only loss/a"):
        train(game, tmp_path)


def test_when(tmp_path):
    """DiscoGAN: the discriminators move at every third step, the generators at all others."""
    game = Weights(
        lambda game: [
            Turn("a", recorded(game, "a"), when=lambda step: step % 3 == 0),
            Turn("b", recorded(game, "b"), when=lambda step: step % 3 != 0),
        ]
    )
    train(game, tmp_path, steps=6)
    assert game.played == ["b", "b", "a", "b", "b", "a"]


def test_schedules_and_multipliers(tmp_path):
    both = Player("ab", ("a", "b"), sgd, schedule=StepDecay(1, 0.5), lr_multipliers={"b": 0.01})
    game = Weights(lambda game: [Turn("ab", recorded(game, "ab"))], [both])
    train(game, tmp_path, steps=2)
    assert game.values() == pytest.approx((1.0 - 0.1 - 0.05, 2.0 - 0.001 - 0.0005), rel=1e-12)
    assert [line["learning_rates"] for line in lines(tmp_path)] == [{"ab": 0.1}, {"ab": 0.05}]


def test_schedules_go_on_after_a_resume(tmp_path):
    def game():
        players = [Player("ab", ("a", "b"), Adam(0.1), schedule=StepDecay(2, 0.5), lr_multipliers={"b": 0.5})]
        return Weights(lambda game: [Turn("ab", recorded(game, "ab"))], players)

    straight = train(game(), tmp_path / "straight", steps=6).game
    train(game(), tmp_path / "run", steps=3)
    resumed = train(game(), tmp_path / "run", steps=6, resume=True).game
    assert resumed.values() == straight.values()


class Staged(Weights):
    """Two steps with batches of 2, then batches of 4; the optimiser forgets between them."""

    def stage(self, progress):
        return Stage("small", 2, 0) if progress.images < 4 else Stage("large", 4, 1)

    def before_step(self, progress):
        self.played.append((progress.step, progress.images, progress.batch_size))


def staged_game():
    def turns(game):
        def loss(batch, noise):
            game.played.append(len(batch))
            return {"loss": (game.a.weight * batch.images.double().mean()).sum()}

        return [Turn("a", loss)]

    return Staged(turns, [Player("a", ("a",), Adam(0.1))])


def test_stages(tmp_path):
    trainer = train(staged_game(), tmp_path, steps=4)
    assert trainer.game.played == [(1, 0, 4), 2, (2, 2, 4), 2, (3, 4, 4), 4, (4, 8, 4), 4]
    assert trainer.images == 12
    state = trainer.turn_runner.optimizers["a"].state
    assert [int(entry["step"]) for entry in state.values()] == [2]


def test_a_run_resumed_between_stages_is_the_same(tmp_path):
    straight = train(staged_game(), tmp_path / "straight", steps=4).game
    for steps in (2, 3, 4):
        resumed = train(staged_game(), tmp_path / "run", steps=steps, resume=True).game
    assert resumed.values() == straight.values()


def double_game(**options):
    game = plain_game(**options)
    return game.double()


def weights_of(game):
    return torch.cat([parameter.detach().flatten() for parameter in game.parameters()])


@pytest.mark.parametrize(
    "accumulation", [2, 4, {"discriminator": 4}, {"generator": 2, "discriminator": 1}, {"penalty": 2}]
)
def test_micro_batches_change_nothing(tmp_path, accumulation):
    options = {"wgan_gp": 10.0, "discriminator_steps": 2, "loss": "non-saturating"}
    options |= {"penalty_interval": 2} if accumulation == {"penalty": 2} else {}
    straight = train(double_game(**options), tmp_path / "straight")
    split = train(double_game(**options), tmp_path / "split", accumulation=accumulation)
    torch.testing.assert_close(weights_of(split.game), weights_of(straight.game), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(lines(tmp_path / "split"), lines(tmp_path / "straight")):
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-10)


@pytest.mark.parametrize(
    "normalise", [spectral_norm, nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm, "fused"]
)
def test_micro_batches_see_the_spectral_norms_of_the_whole_batch(tmp_path, normalise):
    def game():
        game = double_game(discriminator_steps=2, r1_gamma=0.1)
        for network in (game.generator, game.discriminator):
            (spectral_norm if normalise == "fused" else normalise)(network.layer)
            if normalise == "fused":
                fuse_spectral_norms(network)
        return game

    straight = train(game(), tmp_path / "straight")
    split = train(game(), tmp_path / "split", accumulation=4)
    torch.testing.assert_close(split.game.state_dict(), straight.game.state_dict(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("feature", [{"prefetch": True}, {"channels_last": True}, {"workers": 1, "prefetch": True}])
def test_speed_features_change_nothing(tmp_path, feature):
    straight = train(double_game(), tmp_path / "straight")
    fast = train(double_game(), tmp_path / "fast", **feature)
    torch.testing.assert_close(weights_of(fast.game), weights_of(straight.game), rtol=1e-12, atol=1e-12)


def test_packed_data_change_nothing(tmp_path):
    for size in range(8, 14):
        noise(tmp_path / "pictures" / f"{size}.png", size)
    data = open_dataset(tmp_path / "pictures", resolution=8, channels=1, cache=False)
    pack_dataset(data, tmp_path / "packed", source="pictures")
    weights = []
    for source in (tmp_path / "pictures", tmp_path / "packed"):
        game = double_game()
        Trainer(game, source, out=tmp_path / f"run-{source.name}", **QUIET).fit()
        weights.append(weights_of(game))
    assert torch.equal(*weights)
    assert [line["losses"] for line in lines(tmp_path / "run-pictures")] == [
        line["losses"] for line in lines(tmp_path / "run-packed")
    ]


def test_batches_that_cannot_be_divided(tmp_path):
    with pytest.raises(ValueError, match="batch_size: 4 images cannot be divided equally into 3 micro-batches"):
        train(plain_game(), tmp_path, accumulation=3)
    with pytest.raises(ValueError, match="accumulation of generator: expected a whole number of at least 1, got 0"):
        train(plain_game(), tmp_path, accumulation={"generator": 0})
    with pytest.raises(ValueError, match=r"no player or turn 'generators'; did you mean 'generator'\?"):
        train(plain_game(), tmp_path, accumulation={"generators": 2})
    with pytest.raises(ValueError, match="no player or turn 'x'; its players and turns: discriminator, generator"):
        train(plain_game(), tmp_path, accumulation={"x": 2})


def test_lazy_penalties_have_a_turn_of_their_own(tmp_path):
    """With c = k/(k + 1): learning rate c·lr, moments β^c, and a penalty k times as strong at every k-th step."""
    game = double_game(r1_gamma=2.0, penalty_interval=4, betas=(0.5, 0.9), discriminator_lr=0.1)
    trainer = train(game, tmp_path, steps=8)
    (group,) = trainer.turn_runner.optimizers["discriminator"].param_groups
    assert group["lr"] == pytest.approx(0.08)
    assert group["betas"] == pytest.approx((0.5**0.8, 0.9**0.8))
    entry = lines(tmp_path)[3]["losses"]
    assert entry["penalty/loss"] == pytest.approx(4 * entry["penalty/r1"])
    assert "penalty/loss" not in lines(tmp_path)[2]["losses"]


def test_penalties_of_a_linear_discriminator():
    """Its gradient is its weight, whatever the image."""
    from ganfuse.engine import Batch
    from ganfuse.engine.noise import Noise

    game = double_game(r1_gamma=3.0, r2_gamma=5.0, wgan_gp=10.0, dragan=7.0)
    batch = Batch(torch.rand(4, 1, 8, 8, dtype=torch.float64))
    values = game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(0)))
    norm = game.discriminator.layer.weight.norm().item()
    expected = {
        "r1": 1.5 * norm**2,
        "r2": 2.5 * norm**2,
        "wgan_gp": 10 * (norm - 1) ** 2,
        "dragan": 7 * (norm - 1) ** 2,
    }
    assert {key: values[key].item() for key in expected} == pytest.approx(expected)
    assert all(turn.second_order == (turn.name == "discriminator") for turn in game.turns())


def test_average_by_half_life_in_images(tmp_path):
    class Averaged(Weights):
        def ema_targets(self):
            return [EMATarget("a", half_life=8.0)]

    game = Averaged(lambda game: [Turn("a", recorded(game, "a"))])
    trainer = train(game, tmp_path, steps=2)
    decay, average = 0.5 ** (4 / 8), 1.0
    for value in (0.9, 0.8):
        average = decay * average + (1 - decay) * value
    assert trainer.averages["a"].module.weight.item() == pytest.approx(average)


def test_average_begins_late_and_ramps_up():
    from ganfuse.engine import EMA

    layer = nn.Linear(1, 1, bias=False)
    ema = EMA(layer, 0.9, warmup=False, start=2)
    for value, expected in ((1.0, 1.0), (2.0, 2.0), (3.0, 2.1)):
        nn.init.constant_(layer.weight, value)
        ema.update(layer)
        assert ema.module.weight.item() == pytest.approx(expected)
    ema = EMA(layer, half_life=1000.0, ramp_up=0.05)
    ema.update(layer, images=100, batch_size=10)
    assert ema.current_decay(100, 10) == pytest.approx(0.5 ** (10 / 5))
    assert ema.current_decay(10**6, 10) == pytest.approx(0.5 ** (10 / 1000))


def test_kimg_ends_a_run(tmp_path):
    assert train(plain_game(), tmp_path, steps=100, kimg=0.018).step == 5


class Sick(Weights):
    """At step 3 the loss of turn a is NaN, or its gradient alone; the first time only unless it is `incurable`."""

    def __init__(self, what, incurable=False):
        super().__init__(lambda game: [Turn("a", game.loss), Turn("b", recorded(game, "b"))])
        self.what, self.incurable, self.step, self.struck = what, incurable, 0, 0

    def before_step(self, progress):
        self.step = progress.step

    def loss(self, batch, noise):
        value = self.a.weight.sum()
        if self.step == 3 and (self.incurable or not self.struck):
            self.struck += 1
            # The root's slope at 0 is infinite, and 0 · ∞ is NaN.
            value = value + (value * 0).abs().sqrt() if self.what == "gradient" else value * math.nan
        return {"loss": value}


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_stop(tmp_path, what):
    message = (
        "a gradient of turn 'a' is not finite at step 3" if what == "gradient" else "turn 'a' became nan at step 3"
    )
    with pytest.raises(NonFiniteError, match=f"{message}; the last good checkpoint is .*00000002") as caught:
        train(Sick(what), tmp_path, steps=5, checkpoint_every=1)
    assert isinstance(caught.value, NonFiniteGradientError) == (what == "gradient")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_skip(tmp_path, what):
    game = train(Sick(what), tmp_path, steps=5, on_nonfinite="skip").game
    assert game.values() == pytest.approx((1.0 - 0.4, 2.0 - 0.5))
    assert [line.get("skipped", 0) for line in lines(tmp_path)] == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_rollback(tmp_path, what, capsys):
    game = train(Sick(what), tmp_path, steps=5, on_nonfinite="rollback", checkpoint_every=2, progress=True).game
    assert game.values() == pytest.approx((0.5, 1.5))
    assert "not finite at step 3" in (text := capsys.readouterr().err) or "became nan at step 3" in text
    assert "went back to step 2 (1 of at most 3 times)" in text
    assert list_checkpoints(tmp_path / "checkpoints")[-1].read_state()["rollbacks"] == 1


def test_rollback_to_the_beginning(tmp_path):
    game = train(Sick("loss"), tmp_path, steps=5, on_nonfinite="rollback", checkpoint_every=0).game
    assert game.values() == pytest.approx((0.5, 1.5))


def test_rollbacks_end(tmp_path):
    game = Sick("loss", incurable=True)
    with pytest.raises(NonFiniteError):
        train(game, tmp_path, steps=5, on_nonfinite="rollback", checkpoint_every=2)
    assert game.struck == 4


def test_float16_scales_losses_and_goes_on(tmp_path):
    """On a CPU, where few of these operations exist in float16, but scaling works alike."""
    trainer = train(plain_game(r1_gamma=1.0), tmp_path / "half", precision="fp16", steps=6)
    scaling = trainer.turn_runner.state_dict()["scaling"]
    assert scaling["generator"]["scale"] == 65536.0
    # The penalty multiplies scaled gradients, so its turn begins to overflow earlier.
    assert 1024.0 <= scaling["discriminator"]["scale"] <= 65536.0
    straight = train(plain_game(r1_gamma=1.0), tmp_path / "full", steps=6)
    torch.testing.assert_close(weights_of(trainer.game), weights_of(straight.game), rtol=0.05, atol=2e-3)
    resumed = train(plain_game(r1_gamma=1.0), tmp_path / "half", precision="fp16", steps=8, resume=True)
    assert resumed.turn_runner.state_dict()["scaling"]["generator"]["_growth_tracker"] == 8


def test_float16_backs_off_where_gradients_overflow(tmp_path):
    game = Weights(lambda game: [Turn("a", lambda batch, noise: {"loss": (game.a.weight * 1e304).sum()})])
    before = game.values()
    trainer = train(game, tmp_path, precision="fp16", steps=2)
    assert trainer.turn_runner.state_dict()["scaling"]["a"]["scale"] == 65536.0 / 4
    assert game.values() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuda_graphs": True}, "cuda_graphs: they exist on NVIDIA and AMD GPUs, and the device is cpu"),
        ({"cuda_graphs": True, "precision": "fp16"}, "cuda_graphs: cannot be combined with precision='fp16'"),
        ({"cuda_graphs": True, "accumulation": {"a": 2}}, "cuda_graphs: cannot be combined"),
        ({"on_nonfinite": "hope"}, "on_nonfinite: expected one of 'stop', 'skip', 'rollback', got 'hope'"),
        ({"kimg": 0}, "kimg: expected thousands of images above 0 or None, got 0"),
        ({"activation_checkpointing": True}, "Linear has no blocks"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(Weights(lambda game: [Turn("a", recorded(game, "a"))]), tmp_path, **options)


@pytest.mark.slow
def test_compiled_networks_give_the_same_losses_and_penalties_run_uncompiled(tmp_path):
    options = {"r1_gamma": 1.0, "penalty_interval": 2}
    straight = train(double_game(**options), tmp_path / "straight")
    compiled = train(double_game(**options), tmp_path / "compiled", compile=True)
    torch.testing.assert_close(weights_of(compiled.game), weights_of(straight.game), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "source", "kind"),
    [("cyclegan", {"blocks": 1}, "digits-thick", "unpaired"), ("bigan", {}, "digits", "images")],
)
def test_compiled_networks_of_players_with_losses_of_their_own(tmp_path, name, options, source, kind):
    def trained(**setting):
        torch.manual_seed(0)
        game = create(name, resolution=28, channels=1, width=4, **options).double()
        data = open_dataset(source, resolution=28, kind=kind)
        Trainer(game, data, out=tmp_path / str(len(setting)), **{**QUIET, **setting}).fit()
        return weights_of(game)

    torch.testing.assert_close(trained(compile=True), trained(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("augment", ["diffaugment", "ada"])
def test_augmentation_is_for_the_discriminator_alone(tmp_path, augment, monkeypatch):
    options = {"augment": augment, "r1_gamma": 1.0}
    trainer = train(double_game(**options), tmp_path / "run", steps=6)
    split = train(double_game(**options), tmp_path / "split", steps=6, accumulation=2)
    if augment == "ada":
        ada = trainer.game.adaptive_augment
        # Real logits are of one sign at first, so that the probability moves: 4 steps of 4 images over 500 thousand.
        assert ada.p.item() in (0.0, pytest.approx(16 / 500_000))
        assert list_checkpoints(tmp_path / "run" / "checkpoints")[-1].read_weights()["game.adaptive_augment.p"] == ada.p
    torch.testing.assert_close(weights_of(split.game), weights_of(trainer.game), rtol=1e-10, atol=1e-10)


def test_unknown_augmentation():
    with pytest.raises(ValueError, match="augment: expected one of None, 'diffaugment', 'ada', got 'mixup'"):
        plain_game(augment="mixup")
