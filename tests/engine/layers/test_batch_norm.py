import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfuse.engine.layers import BatchNormAct2d, ConditionalBatchNorm2d

F64 = torch.float64
ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.2 * x),
    "silu": lambda x: x * torch.sigmoid(x),
}


def conditional(**options) -> tuple[ConditionalBatchNorm2d, torch.Tensor]:
    torch.manual_seed(0)
    layer = ConditionalBatchNorm2d(3, **options).double()
    for part in (layer.gain, layer.bias):
        nn.init.normal_(part.weight, std=0.5)
    condition = torch.tensor([1, 0, 4, 1]) if layer.num_classes else torch.randn(4, layer.condition_features, dtype=F64)
    return layer, condition


def formula(layer, x, condition, mean, var):
    if layer.num_classes:
        gain, bias = layer.gain.weight[condition], layer.bias.weight[condition]
    else:
        gain, bias = condition @ layer.gain.weight.t(), condition @ layer.bias.weight.t()
    normalised = (x - mean[:, None, None]) / (var[:, None, None] + layer.eps).sqrt()
    return ACTIVATIONS[layer.activation]((1 + gain)[:, :, None, None] * normalised + bias[:, :, None, None])


@pytest.mark.parametrize("options", [{"num_classes": 5}, {"condition_features": 6}])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_conditional_equals_the_formula_to_second_order(options, activation, layout):
    layer, condition = conditional(activation=activation, **options)
    x = torch.randn(4, 3, 5, 6, dtype=F64).to(memory_format=layout).requires_grad_()
    for training in (True, False):
        layer.train(training)
        expected_mean, expected_var = layer.running_mean.clone(), layer.running_var.clone()
        if training:
            expected_mean, expected_var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        results = []
        for y in (layer(x, condition), formula(layer, x, condition, expected_mean, expected_var)):
            (gradient,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
            second = torch.autograd.grad(gradient.square().sum(), [x, *layer.parameters()], allow_unused=True)
            results.append((y, gradient, *second))
        for a, b in zip(*results):
            # A layer without activation in eval mode is affine: its bias has no second derivative.
            a, b = (torch.zeros(()) if t is None else t for t in (a, b))
            torch.testing.assert_close(a, b.expand_as(a), rtol=1e-9, atol=1e-9, check_dtype=False)
        assert results[0][0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradgradcheck(activation):
    layer, condition = conditional(num_classes=5, activation=activation)
    x = torch.randn(4, 3, 2, 2, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x, condition), x, fast_mode=True)


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
def test_running_statistics_are_those_of_torch(momentum):
    layer, condition = conditional(num_classes=5, momentum=momentum)
    theirs = nn.BatchNorm2d(3, momentum=momentum, affine=False).double()
    ours = BatchNormAct2d(3, momentum=momentum).double()
    for _ in range(3):
        x = 2 + 3 * torch.randn(4, 3, 5, 6, dtype=F64)
        layer(x, condition), ours(x), theirs(x)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(layer.get_buffer(name), buffer, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(ours.get_buffer(name), buffer, rtol=1e-12, atol=1e-12)


def test_a_new_layer_is_plain_batch_norm():
    x = torch.randn(4, 3, 5, 6)
    expected = nn.BatchNorm2d(3)(x)
    torch.testing.assert_close(ConditionalBatchNorm2d(3, num_classes=5)(x, torch.arange(4)), expected)
    torch.testing.assert_close(ConditionalBatchNorm2d(3, condition_features=2)(x, torch.randn(4, 2)), expected)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_plain_layer_is_a_drop_in(activation):
    theirs = nn.BatchNorm2d(3)
    nn.init.normal_(theirs.weight), nn.init.normal_(theirs.bias)
    ours = BatchNormAct2d(3, activation=activation)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 3, 5, 6)
    for training in (True, False):
        ours.train(training), theirs.train(training)
        torch.testing.assert_close(ours(x), ACTIVATIONS[activation](theirs(x)))
    theirs.load_state_dict(ours.state_dict())


def test_half_precision_stays_half_precision():
    layer = ConditionalBatchNorm2d(3, num_classes=5, activation="relu")
    nn.init.normal_(layer.gain.weight)
    x = torch.randn(4, 3, 5, 6)
    expected = layer(x, torch.arange(4))
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16(), torch.arange(4))
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    assert layer.running_mean.dtype == torch.float32


def test_state_and_conversion():
    layer = ConditionalBatchNorm2d(3, num_classes=5)
    names = {"running_mean", "running_var", "num_batches_tracked", "gain.weight", "bias.weight"}
    assert set(layer.state_dict()) == names
    assert layer.gain.weight.shape == (5, 3)
    network = nn.Sequential(layer, BatchNormAct2d(3, activation="relu"))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert [type(part) for part in converted] == [ConditionalBatchNorm2d, BatchNormAct2d]


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="BatchNormAct2d"):
        ConditionalBatchNorm2d(3)
    with pytest.raises(ValueError, match="not both"):
        ConditionalBatchNorm2d(3, num_classes=2, condition_features=2)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        ConditionalBatchNorm2d(3, num_classes=0)
    with pytest.raises(ValueError, match="did you mean 'leaky_relu'"):
        ConditionalBatchNorm2d(3, num_classes=2, activation="leakyrelu")
    layer = ConditionalBatchNorm2d(3, num_classes=2)
    x = torch.randn(4, 3, 2, 2)
    with pytest.raises(ValueError, match=r"int64 labels of shape \(4,\), got torch.int64 \(3,\)"):
        layer(x, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="int64 labels"):
        layer(x, torch.zeros(4))
    with pytest.raises(ValueError, match=r"floats of shape \(4, 6\)"):
        ConditionalBatchNorm2d(3, condition_features=6)(x, torch.zeros(4, 5))
    with pytest.raises(ValueError, match=r"expected \(B, 3, H, W\)"):
        layer(x[:, :2], torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="more than one value per channel"):
        layer(torch.randn(1, 3, 1, 1), torch.zeros(1, dtype=torch.int64))


def test_silu_does_not_overwrite_what_its_backward_needs():
    x = torch.randn(4, 3, 2, 2, dtype=F64, requires_grad=True)
    layer = BatchNormAct2d(3, activation="silu").double()
    y = layer(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    expected = F.silu(F.batch_norm(x, None, None, layer.weight, layer.bias, True))
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), x)[0])
