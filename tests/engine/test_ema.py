import copy

import pytest
import torch
from torch import nn

from ganfuse.engine.ema import EMA, averaged_weights


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def perturb(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("warmup", [False, True])
def test_follows_the_recurrence(warmup):
    module = network().double()
    ema = EMA(module, 0.9, warmup=warmup)
    expected = [p.detach().clone() for p in module.parameters()]
    for t in range(1, 6):
        perturb(module)
        ema.update(module)
        decay = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        expected = [decay * e + (1 - decay) * p.detach() for e, p in zip(expected, module.parameters())]
        for average, value in zip(ema.module.parameters(), expected):
            torch.testing.assert_close(average, value, rtol=1e-12, atol=1e-12)


def test_warmup_reaches_the_decay():
    ema = EMA(network(), 0.9)
    ema.updates = 10_000
    assert ema.current_decay() == 0.9


def test_buffers_are_copied_and_the_source_is_left_alone():
    module = network()
    ema = EMA(module, 0.5)
    module(torch.randn(8, 3) + 5)
    before = copy.deepcopy(module.state_dict())
    ema.update(module)
    for ours, theirs in zip(ema.module.buffers(), module.buffers()):
        assert torch.equal(ours, theirs)
        assert ours.data_ptr() != theirs.data_ptr()
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_average_needs_no_grad_and_is_in_eval_mode():
    ema = EMA(network().train())
    assert not ema.module.training
    assert not any(parameter.requires_grad for parameter in ema.module.parameters())


def test_deepcopy_is_independent():
    module = network()
    ema = EMA(module, 0.5)
    twin = copy.deepcopy(ema)
    perturb(module)
    ema.update(module)
    assert twin.updates == 0
    assert not torch.equal(twin.module[0].weight, ema.module[0].weight)


def test_module_that_holds_part_of_a_graph_can_be_averaged():
    layer = nn.utils.spectral_norm(nn.Linear(3, 3))
    layer(torch.randn(2, 3))
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(layer)
    ema = EMA(layer)
    ema.update(layer)
    assert ema.module(torch.randn(2, 3)).shape == (2, 3)


def test_averaged_weights_swaps_and_puts_back_even_after_an_error():
    game = nn.Module()
    game.part = nn.ModuleDict({"inner": network()})
    trained = game.part["inner"]
    ema = EMA(trained)
    inside = []

    def fail() -> None:
        with averaged_weights(game, {"part.inner": ema}):
            inside.append(game.part["inner"])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [ema.module]
    assert game.part["inner"] is trained


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_bad_decay(decay):
    with pytest.raises(ValueError, match="decay: expected 0 <= decay < 1"):
        EMA(network(), decay)
