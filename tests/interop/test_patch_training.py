"""Patched models train as before: in DistributedDataParallel, with penalties, in whole steps, and under compilation."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganfuse.interop import patch, unpatch
from tests.interop.codebase_styles import AttentiveTranslator, BigDiscriminator, ResidualTranslator, shaken


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


def train(model: nn.Module, steps: int = 3) -> dict[str, Tensor]:
    """Steps with a penalty on the gradient for the input."""
    torch.manual_seed(3)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(steps):
        x = image().requires_grad_()
        y = model(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        optimiser.zero_grad()
        (y.square().mean() + slope.square().mean()).backward()
        optimiser.step()
    return {name.removeprefix("module."): value for name, value in model.state_dict().items()}


@pytest.mark.parametrize("make", [BigDiscriminator, AttentiveTranslator, ResidualTranslator])
def test_steps_with_penalties_end_where_they_did(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = shaken(make())
    plain = copy.deepcopy(model)
    patch(model, everywhere=True, verbose=False)
    expected, got = train(plain), train(model)
    assert list(got) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-6, atol=1e-8, msg=name)


@pytest.mark.parametrize("order", ["before wrapping", "after wrapping"])
def test_distributed_data_parallel(one_process: None, order: str) -> None:
    torch.manual_seed(0)
    model = shaken(BigDiscriminator())
    plain = copy.deepcopy(model)
    if order == "before wrapping":
        patch(model, verbose=False)
    wrapped = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
    if order == "after wrapping":
        patch(wrapped, verbose=False)
    x = image()
    for one in (plain, wrapped):
        one(x).square().mean().backward()
    gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)
    unpatch(wrapped)


def test_sync_batch_norm_of_one_process_in_eval_mode(one_process: None) -> None:
    model = nn.Sequential(nn.SyncBatchNorm(3), nn.LeakyReLU(0.2, True)).double().eval()
    x = image()
    expected = model(x)
    report = patch(model, everywhere=True, verbose=False)
    assert [entry.what for entry in report.replaced] == ["SyncBatchNorm + LeakyReLU"]
    torch.testing.assert_close(model(x), expected)


@pytest.mark.slow
def test_compiles() -> None:
    model = ResidualTranslator().eval()
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    patch(model, verbose=False)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-3, atol=1e-4)
    expected.sum().backward()
    gradient = model.model[1].weight.grad.clone()
    model.zero_grad()
    compiled(x).sum().backward()
    torch.testing.assert_close(model.model[1].weight.grad, gradient, rtol=1e-2, atol=1e-3)
