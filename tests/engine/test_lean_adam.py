import copy

import pytest
import torch
from torch import nn

from ganfuse.engine.lean_adam import LeanAdam
from ganfuse.engine.optimizers import Adam

SETTINGS = {"lr": 0.01, "betas": (0.5, 0.999), "eps": 1e-8, "weight_decay": 1e-2}


def layer(rows: int = 6, columns: int = 10) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(columns, rows)


def test_small_parameters_move_as_with_adam():
    ours = layer()
    theirs = copy.deepcopy(ours)
    optimizers = LeanAdam(ours.parameters(), **SETTINGS), torch.optim.Adam(theirs.parameters(), **SETTINGS)
    for _ in range(5):
        x = torch.randn(3, 10)
        for net, optimizer in zip((ours, theirs), optimizers):
            optimizer.zero_grad()
            net(x).square().sum().backward()
            optimizer.step()
    for one, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_outer_products_lose_nothing_but_bfloat16(monkeypatch):
    """A gradient that is an outer product at every step, the same one times a number, in chunks of two rows."""
    monkeypatch.setattr("ganfuse.engine.lean_adam._CHUNK", 20)
    ours, theirs = nn.Parameter(torch.zeros(6, 10)), nn.Parameter(torch.zeros(6, 10))
    settings = {**SETTINGS, "weight_decay": 0.0}
    lean, full = LeanAdam([ours], **settings, min_size=60), torch.optim.Adam([theirs], **settings)
    outer = torch.outer(torch.randn(6), torch.randn(10))
    for _ in range(20):
        ours.grad = theirs.grad = torch.randn(()) * outer
        lean.step()
        full.step()
    # bfloat16 has 8 digits, and half of each rounding is forgotten at every step.
    torch.testing.assert_close(ours, theirs, rtol=2**-8, atol=2**-8 * theirs.abs().max().item())


def test_second_moment_is_that_of_the_formula():
    parameter = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    start, settings = parameter.detach().clone(), {**SETTINGS, "betas": (0.0, 0.9)}
    optimizer = LeanAdam([parameter], **settings, min_size=12)
    row, column = torch.zeros(3, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    for step in (1, 2):
        gradient = torch.randn(3, 4, dtype=torch.float64)
        parameter.grad = gradient.clone()
        optimizer.step()
        decayed = gradient + 1e-2 * start
        row = 0.9 * row + 0.1 * decayed.square().mean(1)
        column = 0.9 * column + 0.1 * decayed.square().mean(0)
        second = row[:, None] * column / row.mean() / (1 - 0.9**step)
        start = start - 0.01 * decayed / (second.sqrt() + 1e-8)
        torch.testing.assert_close(parameter.detach(), start)


def test_moments_of_a_huge_matrix_take_two_bytes_a_value():
    net = layer(64, 256)
    optimizer = LeanAdam(net.parameters(), min_size=64 * 256)
    net(torch.randn(2, 256)).sum().backward()
    optimizer.step()
    state = optimizer.state[net.weight]
    assert sum(t.numel() * t.element_size() for t in state.values()) == 2 * 64 * 256 + 4 * (64 + 256) + 4


def test_goes_on_where_it_was_stopped():
    runs = []
    for stops in (False, True):
        net = layer()
        optimizer = LeanAdam(net.parameters(), **SETTINGS, min_size=60)
        generator = torch.Generator().manual_seed(1)
        for _ in range(4):
            optimizer.zero_grad()
            net(torch.randn(3, 10, generator=generator)).square().sum().backward()
            optimizer.step()
            if stops:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = LeanAdam(net.parameters(), **SETTINGS, min_size=60)
                optimizer.load_state_dict(state)
        runs.append(net.weight.detach())
        assert optimizer.state[net.weight]["exp_avg"].dtype == torch.bfloat16
    assert torch.equal(*runs)


def test_learns():
    net, target = layer(8, 16), torch.randn(8, 16)
    optimizer = LeanAdam(net.parameters(), lr=0.05, betas=(0.5, 0.999), min_size=128)
    errors = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = (net.weight - target).square().mean()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 1e-3 * errors[0]


def test_zero_gradients_move_nothing():
    parameter = nn.Parameter(torch.ones(4, 4))
    optimizer = LeanAdam([parameter], min_size=16)
    parameter.grad = torch.zeros(4, 4)
    optimizer.step()
    assert torch.equal(parameter.detach(), torch.ones(4, 4))


def test_is_an_option_of_adam():
    assert isinstance(Adam(1e-4, lean=True)(layer().parameters()), LeanAdam)
    assert Adam(1e-4, lean=True).lazy(16).lean


def test_refuses_bad_settings():
    for key, value in (("lr", -1.0), ("eps", -1.0), ("weight_decay", -1.0), ("betas", (0.5, 1.0)), ("min_size", 0)):
        with pytest.raises(ValueError, match=f"{key}: expected"):
            LeanAdam(layer().parameters(), **{key: value})
