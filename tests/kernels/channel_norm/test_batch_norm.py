"""Against PyTorch's own modules, in training and evaluation, running statistics included."""

import pytest
import torch
from torch import nn

from ganfuse.kernels import batch_norm_act, group_norm_act, instance_norm_act

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("training", [True, False])
def test_against_the_module(backend, training, layout):
    module = nn.BatchNorm2d(5, momentum=0.3).double()
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    module.train(training)
    mean, var = torch.randn(5, dtype=torch.float64), torch.rand(5, dtype=torch.float64) + 0.5
    module.running_mean.copy_(mean)
    module.running_var.copy_(var)
    weight, bias = (p.detach().clone().requires_grad_() for p in (module.weight, module.bias))
    for _ in range(3):
        x = (3 * torch.randn(4, 5, 3, 3, dtype=torch.float64) + 1).to(memory_format=FORMATS[layout]).requires_grad_()
        y = batch_norm_act(x, weight, bias, mean, var, training=training, momentum=0.3, backend=backend)
        expected = module(x)
        torch.testing.assert_close(y, expected)
        ours = torch.autograd.grad(y.sin().sum(), (x, weight, bias))
        theirs = torch.autograd.grad(expected.sin().sum(), (x, module.weight, module.bias))
        for a, e in zip(ours, theirs):
            torch.testing.assert_close(a, e)
        torch.testing.assert_close(mean, module.running_mean)
        torch.testing.assert_close(var, module.running_var)


def test_running_statistics_in_float32_with_half_maps(backend):
    x = torch.randn(8, 3, 5, 5).half() + 2
    mean, var = torch.zeros(3), torch.ones(3)
    batch_norm_act(x, None, None, mean, var, training=True, momentum=1.0, backend=backend)
    torch.testing.assert_close(mean, x.float().mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(var, x.float().var((0, 2, 3)), rtol=1e-5, atol=1e-5)


def test_without_running_statistics_evaluation_takes_those_of_the_batch(backend):
    x = torch.randn(4, 3, 2, 2)
    a, b = (batch_norm_act(x, None, None, None, None, training=t, backend=backend) for t in (True, False))
    assert torch.equal(a, b)


def test_backward_after_another_update_of_the_running_statistics(backend):
    """D(real), D(fake), then one backward of both."""
    x = torch.randn(4, 3, 2, 2, requires_grad=True)
    mean, var = torch.zeros(3), torch.ones(3)
    total = sum(
        batch_norm_act(s * x, None, None, mean, var, training=True, backend=backend).cos().sum() for s in (1, 2)
    )
    total.backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3)])
def test_one_value_per_channel_raises_as_in_pytorch(backend, shape):
    x = torch.randn(shape)
    with pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(3)(x.flatten(1))
    with pytest.raises(ValueError, match=r"more than one value per channel.*got x of \(1, 3"):
        batch_norm_act(x, None, None, None, None, training=True, backend=backend)
    zeros, ones = torch.zeros(3), torch.ones(3)
    y = batch_norm_act(x, None, None, zeros, ones, training=False, eps=0.0, backend=backend)
    torch.testing.assert_close(y, x)


def test_the_other_norms_against_their_modules(backend):
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    weight, bias = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    torch.testing.assert_close(
        instance_norm_act(x, weight, bias, backend=backend), nn.functional.instance_norm(x, weight=weight, bias=bias)
    )
    for groups in (1, 2, 3, 6):
        torch.testing.assert_close(
            group_norm_act(x, groups, weight, bias, backend=backend),
            nn.functional.group_norm(x, groups, weight, bias),
        )


def test_adalin_against_the_formula():
    from ganfuse.kernels import layer_instance_norm_act

    x = torch.randn(2, 6, 3, 5, dtype=torch.float64)
    rho, gain, bias = torch.rand(6).double(), torch.randn(2, 6).double(), torch.randn(2, 6).double()
    instance = (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), keepdim=True) + 1e-5).sqrt()
    layer = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    mixed = rho.view(1, -1, 1, 1) * instance + (1 - rho.view(1, -1, 1, 1)) * layer
    expected = (mixed * gain[..., None, None] + bias[..., None, None]).relu()
    for backend in ("reference", "eager"):
        y = layer_instance_norm_act(x, rho, gain, bias, activation="relu", backend=backend)
        torch.testing.assert_close(y, expected)
