"""The fused Adam beside PyTorch's one-by-one form, for weights, gradients and moments in all memory formats."""

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from ganfuse.engine.fused_adam import FusedAdam
from ganfuse.engine.optimizers import Adam

SETTINGS = {"lr": 1e-2, "betas": (0.5, 0.9), "eps": 1e-6, "weight_decay": 0.01}
FORMATS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
}


def _weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 6, 3, 3), (4, 1, 3, 3), (4, 5, 1, 1), (1, 7, 3, 3), (5, 3, 3, 5)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _steps(
    optimizer: torch.optim.Optimizer, params: list[nn.Parameter], lay_out, count: int = 3, seed: int = 1
) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for p in params:
            p.grad = lay_out(torch.randn(p.shape, generator=generator))
        optimizer.step()


@pytest.mark.parametrize(("weight", "gradient"), list(itertools.product(FORMATS, FORMATS)))
def test_equals_the_unfused_form_whatever_the_memory_formats(weight: str, gradient: str) -> None:
    ours = [nn.Parameter(FORMATS[weight](w.clone())) for w in _weights()]
    theirs = [nn.Parameter(w.clone()) for w in _weights()]
    strides = [p.stride() for p in ours]
    _steps(FusedAdam(ours, **SETTINGS), ours, FORMATS[gradient])
    _steps(torch.optim.Adam(theirs, fused=False, foreach=False, **SETTINGS), theirs, lambda x: x)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert [p.stride() for p in ours] == strides


def test_gradients_and_state_stay_as_they_are() -> None:
    parameter = nn.Parameter(FORMATS["channels_last"](_weights()[0]))
    optimizer = FusedAdam([parameter], **SETTINGS)
    gradient = torch.randn(parameter.shape)
    parameter.grad = gradient
    kept = gradient.clone()
    optimizer.step()
    assert parameter.grad is gradient
    assert torch.equal(gradient, kept)
    state = optimizer.state_dict()["state"][0]
    assert state["exp_avg"].shape == parameter.shape
    assert state["exp_avg"].stride() == parameter.stride()
    torch.testing.assert_close(state["exp_avg"], 0.5 * (gradient + 0.01 * _weights()[0]))


def test_moments_of_a_checkpoint_in_another_format() -> None:
    before = [nn.Parameter(w.clone()) for w in _weights()]
    first = FusedAdam(before, **SETTINGS)
    _steps(first, before, lambda x: x)
    after = [nn.Parameter(FORMATS["channels_last"](p.detach().clone())) for p in before]
    second = FusedAdam(after, **SETTINGS)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _steps(first, before, lambda x: x, seed=2)
    _steps(second, after, FORMATS["channels_last"], seed=2)
    for mine, other in zip(after, before, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7)


def test_groups_and_parameters_without_gradients() -> None:
    a, b, c = (nn.Parameter(FORMATS["channels_last"](w)) for w in _weights()[:3])
    optimizer = FusedAdam([{"params": [a, b], "lr": 0.1}, {"params": [c]}], **SETTINGS)
    kept = b.detach().clone()
    a.grad, c.grad = torch.ones_like(a), torch.ones_like(c)
    optimizer.step()
    assert torch.equal(b, kept)
    assert b not in optimizer.state
    torch.testing.assert_close(a.detach(), _weights()[0] - 0.1, rtol=0, atol=1e-3)


def test_adam_settings_build_it() -> None:
    assert type(Adam(lr=1e-3)([nn.Parameter(torch.zeros(2))])) is FusedAdam
    assert type(Adam(lr=1e-3)([nn.Parameter(torch.zeros(2, device="meta"))])) is torch.optim.Adam


def test_moments_may_be_given_as_whole_numbers() -> None:
    # `--set betas=[0,0.99]` reads so.
    weight = nn.Parameter(torch.ones(2))
    optimizer = Adam(lr=0.1, betas=(0, 0.99))([weight])
    weight.grad = torch.ones(2)
    optimizer.step()
    assert optimizer.param_groups[0]["betas"] == (0.0, 0.99)
    assert weight.tolist() == pytest.approx([0.9, 0.9])
