"""Equalised layers against the formulas of ProGAN, StyleGAN and StyleGAN2, written out."""

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ganfuse.engine.layers import EqualizedConv2d, EqualizedLinear
from ganfuse.kernels import setup_filter, upfirdn2d

F64 = torch.float64
ROOT_2 = math.sqrt(2)


def _same(a, e):
    torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


def _to_second_order(layer, formula, x, **options):
    results = []
    for run in (functools.partial(layer, **options), formula):
        y = run(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append((y, gradient, *torch.autograd.grad(gradient.square().sum() + y.sum(), [x, *layer.parameters()])))
    for a, e in zip(*results, strict=True):
        _same(a, e)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_of_stylegan2(bias):
    """Scale λ/√fan_in, leaky ReLU times √2."""
    layer = EqualizedLinear(6, 5, bias, activation="leaky_relu", lr_multiplier=0.01, dtype=F64)
    if bias:
        torch.nn.init.normal_(layer.bias, std=100.0)

    def formula(x):
        y = x @ (layer.weight * 0.01 / math.sqrt(6)).t()
        return F.leaky_relu(y + layer.bias * 0.01 if bias else y, 0.2) * ROOT_2

    _to_second_order(layer, formula, torch.randn(3, 6, dtype=F64, requires_grad=True))
    deeper = torch.randn(2, 3, 6, dtype=F64)
    _same(layer(deeper), formula(deeper))
    assert layer(deeper[:0]).shape == (0, 3, 5)
    _same(layer(deeper[0, 0]), formula(deeper[0, 0]))


def test_linear_of_progan():
    """Gain √2 at the weight, none behind the activation; 1 for the last layer."""
    layer = EqualizedLinear(6, 5, gain=ROOT_2, activation="leaky_relu", activation_gain=1.0, dtype=F64)
    torch.nn.init.normal_(layer.bias)
    x = torch.randn(3, 6, dtype=F64)
    _same(layer(x), F.leaky_relu(x @ (layer.weight * ROOT_2 / math.sqrt(6)).t() + layer.bias, 0.2))
    last = EqualizedLinear(6, 1, dtype=F64)
    _same(last(x), x @ last.weight.t() / math.sqrt(6) + last.bias)


def test_start():
    torch.manual_seed(0)
    layer = EqualizedLinear(512, 512, lr_multiplier=0.01, bias_init=1.0)
    assert abs(layer.weight.std() / 100 - 1) < 0.01
    torch.testing.assert_close(layer.scaled_bias(), torch.ones(512))
    y = layer(torch.randn(64, 512)) - 1
    assert abs(y.std() - 1) < 0.05
    conv = EqualizedConv2d(64, 64, 3, gain=ROOT_2, activation="relu", activation_gain=1.0)
    assert abs(conv.weight.std() - 1) < 0.01
    assert not conv.bias.any()
    assert abs(conv(torch.randn(4, 64, 8, 8)).square().mean() - 1) < 0.25  # He: mean squares stay (less at the border)
    torch.manual_seed(0)
    again = EqualizedLinear(512, 512, lr_multiplier=0.01, device="meta").to_empty(device="cpu")
    again.reset_parameters()
    torch.testing.assert_close(again.weight.std(), layer.weight.std(), rtol=0.01, atol=0)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("down", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 2, 1), (1, 1)])
def test_conv_of_stylegan2(up, down, size, taps):
    """Upsample and filter (gain up²), convolve, filter and downsample; then bias, leaky ReLU √2, clamp, all times g."""
    layer = EqualizedConv2d(
        3, 4, size, up=up, down=down, resample_filter=taps, activation="leaky_relu", conv_clamp=0.8, dtype=F64
    )
    torch.nn.init.normal_(layer.bias)
    f = setup_filter(taps)
    n = len(taps)
    gain = math.sqrt(0.5)

    def formula(x):
        before = [(n + up - 1) // 2, (n - up) // 2] if up > 1 else [0, 0]
        after = [(n - down + 1) // 2, (n - down) // 2] if down > 1 else [0, 0]
        around = [b + a + size // 2 for b, a in zip(before, after)] * 2
        y = upfirdn2d(x, f if up > 1 else None, up=up, padding=around, gain=up**2)
        y = F.conv2d(y, layer.weight / math.sqrt(3 * size**2))
        if down > 1:
            y = upfirdn2d(y, f, down=down)
        y = F.leaky_relu(y + layer.bias[:, None, None], 0.2) * ROOT_2 * gain
        return y.clamp(-0.8 * gain, 0.8 * gain)

    x = torch.randn(2, 3, 4, 6, dtype=F64, requires_grad=True)
    _to_second_order(layer, formula, x, gain=gain)
    y = layer(x)
    assert y.shape == (2, 4, 4 * up // down, 6 * up // down)


def test_nearest_and_mean_of_progan():
    up = EqualizedConv2d(3, 4, 3, up=2, resample_filter=(1, 1), gain=ROOT_2, dtype=F64)
    down = EqualizedConv2d(3, 4, 3, down=2, resample_filter=(1, 1), gain=ROOT_2, dtype=F64)
    x = torch.randn(2, 3, 6, 4, dtype=F64)
    scale = ROOT_2 / math.sqrt(27)
    _same(up(x), F.conv2d(F.interpolate(x, scale_factor=2.0), up.weight * scale, up.bias, padding=1))
    _same(down(x), F.avg_pool2d(F.conv2d(x, down.weight * scale, down.bias, padding=1), 2))
    assert up.resample_filter is None
    assert set(up.state_dict()) == {"weight", "bias"}


def test_state_dict_of_stylegan2():
    layer = EqualizedConv2d(3, 4, 3, activation="leaky_relu")
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {
        "weight": (4, 3, 3, 3), "bias": (4,), "resample_filter": (4, 4),
    }  # fmt: skip
    assert set(EqualizedConv2d(3, 4, 1, False, resample_filter=None).state_dict()) == {"weight"}
    valid = EqualizedConv2d(3, 4, 4, padding=0)
    assert valid(torch.zeros(1, 3, 4, 4)).shape == (1, 4, 1, 1)


@pytest.mark.parametrize("resampling", [{}, {"up": 2}, {"down": 2}, {"up": 2, "resample_filter": (1, 1)}], ids=str)
@pytest.mark.parametrize("activation", ["none", "leaky_relu"])
def test_half_precision(resampling, activation):
    """Half maps with float32 parameters, a module in half precision, autocast; layouts stay."""
    torch.manual_seed(0)
    layer = EqualizedConv2d(8, 8, 3, activation=activation, conv_clamp=2.0, **resampling)
    x = torch.randn(2, 8, 8, 8).to(memory_format=torch.channels_last)
    expected = layer(x)
    halves = copy.deepcopy(layer).bfloat16()(x.bfloat16()), layer(x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        halves += (layer(x), layer(x.bfloat16()))
    for y in halves:
        assert y.dtype == torch.bfloat16
        assert y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    linear = EqualizedLinear(8, 4, activation=activation)
    rows = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        halves = (linear(rows), linear(rows.bfloat16()))
    for y in (*halves, linear(rows.bfloat16()), copy.deepcopy(linear).bfloat16()(rows.bfloat16())):
        assert y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), linear(rows), rtol=0.05, atol=0.05)


def test_meta_device_and_compile():
    with torch.device("meta"):
        layer = EqualizedConv2d(3, 4, 3, up=2)
    assert layer.weight.is_meta
    assert layer.resample_filter.is_meta
    assert EqualizedConv2d(3, 4, 3, device="meta").resample_filter.is_meta
    layer = EqualizedConv2d(3, 4, 3, down=2, activation="leaky_relu", dtype=F64)
    x = torch.randn(1, 3, 4, 4, dtype=F64)
    _same(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), layer(x))


class Scaled(TorchDispatchMode):
    """The shapes of all tensors that are multiplied element by element."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "mul":
            self.shapes.append(tuple(args[0].shape))
        return func(*args, **(kwargs or {}))


def _scaled(layer, x):
    with Scaled() as seen:
        layer(x.requires_grad_()).sum().backward()
    return seen.shapes


def test_what_is_smaller_is_scaled():
    """Forward and backward: the weight of a linear layer never, that of a convolution where maps are large."""
    shapes = _scaled(EqualizedLinear(6, 5, lr_multiplier=0.01), torch.randn(3, 6))
    assert shapes
    assert not {(5, 6), (6, 5)} & set(shapes)
    layer = EqualizedConv2d(4, 5, 3)
    assert set(_scaled(layer, torch.randn(1, 4, 3, 3))) == {(1, 4, 3, 3)}
    assert set(_scaled(layer, torch.randn(2, 4, 9, 9))) == {tuple(layer.weight.shape)}


def test_errors():
    for kind, arguments, options, message in (
        (EqualizedLinear, (0, 4), {}, "in_features must be a whole number of at least 1, got 0"),
        (EqualizedLinear, (3, 4), {"lr_multiplier": 0.0}, "lr_multiplier must be positive, got 0.0"),
        (EqualizedLinear, (3, 4), {"gain": math.inf}, "gain must be a finite number, got inf"),
        (EqualizedLinear, (3, 4), {"activation": "leaky"}, "activation must be one of .*did you mean 'leaky_relu'"),
        (EqualizedConv2d, (3, 4, 3.0), {}, "kernel_size must be a whole number"),
        (EqualizedConv2d, (3, 4, 3), {"up": 0}, "up must be a whole number of at least 1"),
        (EqualizedConv2d, (3, 4, 3), {"padding": -1}, "padding must be a whole number of at least 0 or None, got -1"),
        (EqualizedConv2d, (3, 4, 3), {"conv_clamp": -1}, "conv_clamp must be at least 0 or None, got -1"),
        (EqualizedConv2d, (3, 4, 3), {"up": 2, "resample_filter": None}, "resample_filter: expected the taps"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(*arguments, **options)
    with pytest.raises(ValueError, match=r"x: expected \(..., 3\), got \(2, 4\)"):
        EqualizedLinear(3, 4)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"x: expected \(B, 3, H, W\), got \(2, 4, 4, 4\)"):
        EqualizedConv2d(3, 4, 3)(torch.zeros(2, 4, 4, 4))


def test_described():
    layer = EqualizedConv2d(3, 4, 3, up=2, conv_clamp=256, activation="leaky_relu")
    assert repr(layer) == (
        "EqualizedConv2d(3, 4, kernel_size=3, padding=1, up=2, conv_clamp=256, bias=True, activation='leaky_relu', "
        "negative_slope=0.2, gain=1, activation_gain=1.41421, lr_multiplier=1.0)"
    )
    assert "6, 5, bias=False" in repr(EqualizedLinear(6, 5, False))
