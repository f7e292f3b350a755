import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfuse
from ganfuse import Conv2dDownsample, UpsampleConv2d, fuse_spectral_norms, spectral_norm

F64 = torch.float64


def plain(layer: nn.Module) -> nn.Sequential:
    """What the layer stands for, with the same parameters."""
    size = layer.kernel_size[0]
    conv = nn.Conv2d(
        layer.in_channels, layer.out_channels, size, padding=size // 2, padding_mode=layer.padding_mode, dtype=F64
    )
    conv._parameters.update(layer._parameters)
    if isinstance(layer, UpsampleConv2d):
        return nn.Sequential(nn.Upsample(scale_factor=2), conv)
    return nn.Sequential(conv, nn.AvgPool2d(2))


@pytest.mark.parametrize("kind", [UpsampleConv2d, Conv2dDownsample])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("form", [None, "plain", "folded"])
def test_stands_for_two_layers(kind, size, padding_mode, form):
    layer = kind(3, 5, size, padding_mode=padding_mode, form=form, dtype=F64)
    x = torch.randn(2, 3, 6, 4, dtype=F64, requires_grad=True)
    results = []
    for run in (layer, plain(layer)):
        y = run(x)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        results.append((y, gradient, *torch.autograd.grad(gradient.square().sum(), [x, layer.weight, layer.bias])))
    for a, e in zip(*results):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


def test_parameters_are_those_of_conv2d():
    torch.manual_seed(3)
    layer = UpsampleConv2d(4, 6, 3, bias=False)
    torch.manual_seed(3)
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    assert isinstance(layer, nn.Conv2d)
    assert layer.state_dict().keys() == conv.state_dict().keys()
    assert torch.equal(layer.weight, conv.weight)
    assert "4, 6, kernel_size=(3, 3)" in repr(layer)
    assert "form='folded'" in repr(Conv2dDownsample(4, 6, 1, form="folded"))
    assert Conv2dDownsample(4, 6, 3, device="meta").weight.is_meta


@pytest.mark.parametrize("kind", [UpsampleConv2d, Conv2dDownsample])
def test_from_torch(kind):
    conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect").double().eval()
    layer = kind.from_torch(conv, form="folded")
    assert layer.weight is conv.weight
    assert layer.bias is conv.bias
    assert not layer.training
    x = torch.randn(1, 3, 4, 6, dtype=F64)
    torch.testing.assert_close(layer(x), plain(layer)(x), rtol=1e-10, atol=1e-10)
    assert kind.from_torch(nn.Conv2d(3, 4, 1, bias=False)).bias is None
    assert kind.from_torch(nn.Conv2d(3, 4, 3, padding="same")).padding == (1, 1)
    for wrong, message in (
        (nn.Linear(3, 4), "expected nn.Conv2d, got Linear"),
        (nn.Conv2d(3, 4, 3), "that keeps the size"),
        (nn.Conv2d(3, 4, 5, padding=2), "1×1 or 3×3"),
        (nn.Conv2d(3, 4, 3, padding=1, stride=2), "that keeps the size"),
        (nn.Conv2d(3, 3, 3, padding=1, groups=3), "that keeps the size"),
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), "that keeps the size"),
        (spectral_norm(nn.Conv2d(3, 4, 3, padding=1)), "whose weight is a parameter"),
    ):
        with pytest.raises(ValueError, match=message):
            kind.from_torch(wrong)


@pytest.mark.parametrize("kind", [UpsampleConv2d, Conv2dDownsample])
@pytest.mark.parametrize("fused", [False, True])
def test_with_spectral_norm(kind, fused):
    """The weight is the one that the hooks compute, in the parameter's layout."""
    torch.manual_seed(0)
    layer = spectral_norm(kind(3, 4, 3, form="folded", dtype=F64).to(memory_format=torch.channels_last))
    model = nn.Sequential(layer)
    if fused:
        fuse_spectral_norms(model)
    x = torch.randn(2, 3, 4, 4, dtype=F64)
    y = model(x)
    w = layer.weight_orig / (layer.weight_u @ layer.weight_orig.flatten(1) @ layer.weight_v)
    if kind is UpsampleConv2d:
        expected = F.conv2d(F.interpolate(x, scale_factor=2.0), w, layer.bias, padding=1)
    else:
        expected = F.avg_pool2d(F.conv2d(x, w, layer.bias, padding=1), 2)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-10)
    y.sum().backward()
    assert layer.weight_orig.grad is not None
    torch.testing.assert_close(copy.deepcopy(model).eval()(x), model.eval()(x))


@pytest.mark.parametrize("kind", [UpsampleConv2d, Conv2dDownsample])
def test_errors(kind):
    for arguments, options, message in (
        ((3, 4, 5), {}, "kernel_size must be 1 or 3, got 5"),
        ((3, 4, (3, 3)), {}, "kernel_size must be 1 or 3"),
        ((0, 4, 3), {}, "in_channels must be at least 1"),
        ((3, 4, 3), {"padding_mode": "circular"}, "padding_mode must be one of"),
        ((3, 4, 3), {"form": "plane"}, "form must be one of .*did you mean 'plain'"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(*arguments, **options)
    with pytest.raises(ValueError, match="x's channels"):
        kind(3, 4, 3)(torch.zeros(1, 2, 4, 4))


def test_importable_from_the_top():
    for name in ("UpsampleConv2d", "Conv2dDownsample", "EqualizedLinear", "EqualizedConv2d"):
        assert getattr(ganfuse, name) is getattr(ganfuse.engine.layers, name)
