"""Batch norms of large bfloat16 maps on CPUs, which are worked on in parts, beside plain PyTorch and float64."""

import pytest
import torch
import torch.nn.functional as F

from ganfuse.kernels import batch_norm_act
from ganfuse.kernels.channel_norm import eager_batch

SHAPE = (5, 32, 64, 64)
PLAIN = {
    "none": lambda y: y,
    "relu": F.relu,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.2),
    "silu": F.silu,
}


def _parameters(kind, dtype):
    generator = torch.Generator().manual_seed(1)
    shapes = {"none": (), "channel": ((32,),) * 2, "sample": ((5, 32),) * 2}[kind]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def _plain(x, *parameters, activation):
    y = F.batch_norm(x, None, None, None, None, True, 0.1, 1e-5)
    if parameters:
        gain, bias = (p.to(x.dtype)[..., None, None] for p in parameters)
        y = y * gain + bias
    return PLAIN[activation](y)


@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("kind", ["none", "channel", "sample"])
@pytest.mark.parametrize("activation", PLAIN)
def test_derivatives(activation, kind, shift, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    maps = (torch.randn(SHAPE, generator=generator) + shift).bfloat16().contiguous(memory_format=torch.channels_last)
    grad = torch.randn(SHAPE, generator=generator).bfloat16()
    used = []
    wide = eager_batch._applied_in_parts
    monkeypatch.setattr(eager_batch, "_applied_in_parts", lambda *arguments: used.append(1) or wide(*arguments))

    def run(op, dtype):
        x = maps.to(dtype).requires_grad_()
        parameters = _parameters(kind, torch.float64 if dtype == torch.float64 else torch.float32)
        y = op(x, *parameters)
        return [y, *torch.autograd.grad(y, [x, *parameters], grad.to(dtype))]

    def ours(x, *parameters, backend="auto"):
        pair = parameters or (None, None)
        return batch_norm_act(x, *pair, None, None, training=True, activation=activation, backend=backend)

    results = run(ours, torch.bfloat16)
    assert bool(used) == (shift < 2)
    assert results[0].is_contiguous(memory_format=torch.channels_last)
    exact = run(lambda *inputs: ours(*inputs, backend="reference"), torch.float64)
    plain = run(lambda *inputs: _plain(*inputs, activation=activation), torch.bfloat16)
    for mine, theirs, right in zip(results, plain, exact, strict=True):
        error, allowed = ((t.double() - right).norm() / right.norm() for t in (mine, theirs))
        assert error <= 2 * allowed + 1e-6


def test_running_statistics_keep_their_type():
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).bfloat16()
    x = x.contiguous(memory_format=torch.channels_last)
    mean, var = torch.zeros(32), torch.ones(32)
    batch_norm_act(x, None, None, mean, var, training=True, momentum=1.0)
    torch.testing.assert_close(mean, x.float().mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(var, x.float().var((0, 2, 3)), rtol=1e-4, atol=1e-5)
