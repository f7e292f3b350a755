"""Networks that are spread over processes compute what whole ones do in one process, and say where they cannot."""

import datetime

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ganfuse import ConditionalBatchNorm2d, SelfAttention2d, spectral_norm
from ganfuse.engine import AdversarialGame, Trainer
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.sharded_networks import check_shardable
from tests.engine.test_processes import read_losses
from tests.engine.toys import ToyData, plain_game


class Block(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.norm = ConditionalBatchNorm2d(6, num_classes=3, activation="relu") if norm else Unnormalised()
        self.conv = spectral_norm(nn.Conv2d(6, 6, 3, padding=1))

    def forward(self, x, labels):
        return x + self.conv(self.norm(x, labels))


class Unnormalised(nn.Module):
    def forward(self, x, labels):
        return x.relu()


class Generator(nn.Module):
    """Blocks, conditional batch norm, spectral norm, and sizes that two processes cannot share equally."""

    latent_dim = 4

    def __init__(self, norm):
        super().__init__()
        self.linear = nn.Linear(4, 6 * 64)
        self.blocks = nn.ModuleList([Block(norm), Block(norm)])
        self.out = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, z, labels):
        x = self.linear(z).view(-1, 6, 8, 8)
        for block in self.blocks:
            x = block(x, labels)
        return self.out(x).tanh()


class Discriminator(nn.Module):
    """Attention, a projection."""

    def __init__(self):
        super().__init__()
        self.stem = spectral_norm(nn.Conv2d(1, 8, 4, 2, 1))
        self.blocks = nn.ModuleList([SelfAttention2d(8)])
        self.out = nn.Linear(8 * 16, 1)
        self.embed = nn.Embedding(3, 8 * 16)

    def forward(self, images, labels):
        h = nn.functional.leaky_relu(self.stem(images), 0.2)
        h = self.blocks[0](h).flatten(1)
        return self.out(h).squeeze(1) + (self.embed(labels) * h).sum(1)


def train(out, *, game=None, norm=True, **options):
    torch.manual_seed(0)
    game = AdversarialGame(
        Generator(norm), Discriminator(), **{"num_classes": 3, "ema_decay": 0.9, "generator_lr": 1e-3, **(game or {})}
    ).double()
    options = {"batch_size": 8, "log_every": 1, "sample_every": 3, "progress": False, "flip": True, **options}
    trainer = Trainer(game, ToyData(), out=out, device="cpu", **options)
    trainer.fit()
    return trainer


def _worker(rank, folder, options):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=120),
    )
    trainer = train(f"{folder}/run", steps=3, **options)
    parameter = next(trainer.game.generator.parameters())
    assert parameter.to_local().numel() < parameter.numel()
    moment = trainer.turn_runner.optimizers["generator"].state[parameter]["exp_avg"]
    assert moment.to_local().numel() < parameter.numel()
    # In two parts, so that what was saved is also loaded.
    train(f"{folder}/run", steps=6, resume=True, **options)
    dist.destroy_process_group()


BOTH = {"shard_networks": ["generator", "discriminator"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {**BOTH, "singular_values_every": 2, "on_nonfinite": "skip", "game": {"same_spectral_norms": True}},
        # The penalty is the discriminator's, which stays whole.
        {
            "shard_networks": "generator",
            "game": {"r1_gamma": 0.1},
            "channels_last": True,
            "orthogonal_beta": 0.01,
            "orthogonal_players": "generator",
            "norm": False,
            "accumulation": 2,
            "activation_checkpointing": True,
        },
    ],
)
def test_two_processes_with_sharded_networks_compute_what_one_does(tmp_path, options):
    mp.spawn(_worker, args=(str(tmp_path), options), nprocs=2)
    plain = {key: value for key, value in options.items() if key not in ("shard_networks", "activation_checkpointing")}
    alone = train(tmp_path / "alone", steps=6, **plain)
    ours, theirs = read_losses(tmp_path / "run"), read_losses(tmp_path / "alone")
    assert len(ours) == 6
    for left, right in zip(ours, theirs):
        assert left == pytest.approx(right, rel=1e-9, abs=1e-12)
    # The checkpoint is a whole one: a single process goes on from it, with weights, averages and moments.
    resumed = train(tmp_path / "run", steps=8, resume=True, **plain)
    alone = train(tmp_path / "alone", steps=8, resume=True, **plain)
    torch.testing.assert_close(resumed.game.state_dict(), alone.game.state_dict(), rtol=1e-9, atol=1e-12)
    for name, average in alone.averages.items():
        torch.testing.assert_close(resumed.averages[name].state_dict(), average.state_dict(), rtol=1e-9, atol=1e-12)
    assert (tmp_path / "run" / "samples" / "step_000006.png").is_file()


@pytest.mark.parametrize("penalty", [{"r1_gamma": 1.0}, {"wgan_gp": 10.0, "loss": "wasserstein"}])
def test_networks_with_second_order_turns_are_refused(tmp_path, penalty):
    for interval in (1, 4):
        game = plain_game(**penalty, penalty_interval=interval)
        with pytest.raises(ValueError, match=r"'discriminator' moves in turn .* whose loss contains gradients"):
            Trainer(game, ToyData(), out=tmp_path, shard_networks=["generator", "discriminator"])
    Trainer(game, ToyData(), out=tmp_path, shard_networks="generator", progress=False, steps=1).fit()


def test_parameters_that_others_hold_as_well_are_refused(tmp_path):
    game = plain_game()
    game.alias = game.generator
    check_shardable(game, ["generator"])
    tied = nn.Module()
    tied.weight = next(game.generator.parameters())
    game.tied = tied
    with pytest.raises(ValueError, match="'generator' shares parameters with modules that are not part of it"):
        Trainer(game, ToyData(), out=tmp_path, shard_networks="generator")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shard_networks": "critic"}, "the game has no module 'critic'"),
        ({"shard_networks": ["generator", "generator.layer"]}, "shares parameters"),
        ({"shard_networks": 3}, "a name or a list of names"),
        ({"shard_networks": "generator", "compile": True}, "cannot be combined with compile"),
        (
            {"shard_networks": "generator", "precision": "fp16", "shard_optimizer": True},
            "shard_optimizer, precision='fp16'",
        ),
    ],
)
def test_what_cannot_be_is_said(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        Trainer(plain_game(), ToyData(), out=tmp_path, **options)


def test_a_lean_optimiser_is_refused(tmp_path, monkeypatch):
    game = plain_game()
    monkeypatch.setattr(game, "_generator_adam", Adam(1e-3, lean=True))
    with pytest.raises(ValueError, match="LeanAdam"):
        Trainer(game, ToyData(), out=tmp_path, shard_networks="generator")
