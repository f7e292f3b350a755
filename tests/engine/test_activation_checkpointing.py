"""Blocks that compute twice give what blocks that compute once give."""

import copy

import pytest
import torch
from torch import nn

from ganfuse import BatchNormAct2d, SelfAttention2d, spectral_norm
from ganfuse.engine import AdversarialGame, Trainer
from ganfuse.engine.activation_checkpointing import checkpoint_activations
from ganfuse.engine.layers import MinibatchStdDev
from ganfuse.engine.layers.minibatch_stddev import compare_within
from ganfuse.engine.layers.spectral_norm import hold_spectral_norms
from tests.engine.toys import ToyData


class Block(nn.Module):
    """Everything that changes when it is called: running statistics, power iterations, random numbers."""

    def __init__(self, legacy):
        super().__init__()
        norm = nn.utils.spectral_norm if legacy else spectral_norm
        self.conv = norm(nn.Conv2d(4, 4, 3, padding=1))
        self.norm = nn.BatchNorm2d(4) if legacy else BatchNormAct2d(4)
        self.attention = SelfAttention2d(4)
        nn.init.constant_(self.attention.gamma, 0.5)
        self.calls = 0

    def forward(self, x, labels=None):
        self.calls += 1
        return torch.tanh(self.attention(self.norm(self.conv(x))) + nn.functional.dropout(x, 0.3, self.training))


class Network(nn.Module):
    latent_dim = 64

    def __init__(self, legacy=False):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 1)
        self.blocks = nn.ModuleList([Block(legacy), nn.ModuleList([Block(legacy)])[0]])
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        h = self.first(x)
        for block in self.blocks:
            h = block(h)
        return self.last(h.sum((2, 3))).squeeze(1)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("legacy", [False, True])
def test_same_gradients_and_state(order, legacy):
    torch.manual_seed(0)
    plain = Network(legacy).double()
    twice = copy.deepcopy(plain)
    assert checkpoint_activations(twice) == ["blocks.0", "blocks.1"]
    for _ in range(2):
        results = []
        for network in (plain, twice):
            torch.manual_seed(1)
            images = torch.randn(3, 1, 5, 5, dtype=torch.float64, requires_grad=True)
            scores = network(images)
            loss = scores.square().sum()
            if order == 2:
                (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
                loss = loss + gradient.square().sum()
            results.append(torch.autograd.grad(loss, [*network.parameters(), images]))
        torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(twice.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-12)
    # Each backward pass computes the block once more.
    assert twice.blocks[0].calls == (1 + order) * plain.blocks[0].calls


@pytest.mark.parametrize(
    ("layer", "context", "calls"),
    [
        (lambda: spectral_norm(nn.Conv2d(4, 4, 1)), hold_spectral_norms, 2),
        (lambda: nn.Sequential(MinibatchStdDev(None), nn.Conv2d(5, 4, 1)), lambda model: compare_within(model, 2), 1),
    ],
    ids=["held spectral norms", "parts of a batch"],
)
def test_what_held_in_the_forward_pass_holds_when_it_is_computed_again(layer, context, calls):
    torch.manual_seed(0)
    plain = nn.ModuleList([nn.Sequential(nn.Conv2d(1, 4, 1), layer(), nn.Conv2d(4, 1, 1))]).double()
    twice = copy.deepcopy(plain)
    checkpoint_activations(twice)
    images = torch.randn(8, 1, 3, 3, dtype=torch.float64)
    results = []
    for network in (plain, twice):
        with context(network):
            loss = sum(network[0](part).square().mean() for part in images.chunk(calls))
        results.append(torch.autograd.grad(loss, list(network.parameters())))
        states = [(getattr(m, "parts", 1), [h.hold for h in m._forward_pre_hooks.values()]) for m in network.modules()]
        assert all(parts == 1 and not any(held) for parts, held in states)
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(twice.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-12)


def test_nothing_is_computed_twice_without_gradients_or_in_evaluation():
    network = Network()
    checkpoint_activations(network)
    with torch.no_grad():
        network(torch.zeros(2, 1, 5, 5))
    network.eval()(torch.zeros(2, 1, 5, 5)).sum().backward()
    assert network.blocks[0].calls == 2


def test_memory_of_the_graph_shrinks():
    def saved(network):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            network(torch.zeros(8, 1, 16, 16))
        return sum(kept)

    plain = Network()
    twice = copy.deepcopy(plain)
    checkpoint_activations(twice)
    assert saved(twice) < 0.3 * saved(plain)


def test_applying_it_again_changes_nothing():
    network = Network()
    checkpoint_activations(network)
    forward = network.blocks[0].forward
    checkpoint_activations(network)
    assert network.blocks[0].forward is forward


def test_a_model_without_blocks_is_refused():
    with pytest.raises(ValueError, match="Linear has no blocks"):
        checkpoint_activations(nn.Linear(1, 1))


class Generator(nn.Module):
    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4 * 64)
        self.blocks = nn.ModuleList([Block(False)])
        self.last = nn.Conv2d(4, 1, 1)

    def forward(self, z):
        return self.last(self.blocks[0](self.first(z).view(-1, 4, 8, 8))).tanh()


def test_training_with_it_gives_the_same_losses(tmp_path):
    def train(out, **options):
        torch.manual_seed(0)
        game = AdversarialGame(Generator(), Network(), wgan_gp=10.0).double()
        options = {"steps": 4, "batch_size": 4, "progress": False, "device": "cpu", **options}
        trainer = Trainer(game, ToyData(), out=out, **options)
        return trainer.fit(), trainer.game.state_dict()

    (plain, state), (twice, twice_state) = (
        train(tmp_path / "plain"),
        train(tmp_path / "twice", activation_checkpointing=True),
    )
    assert twice.losses == pytest.approx(plain.losses, rel=1e-10)
    torch.testing.assert_close(twice_state, state, rtol=1e-9, atol=1e-10)
