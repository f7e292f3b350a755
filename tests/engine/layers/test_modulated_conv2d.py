"""StyleGAN2's layers: against formulas, their derivatives, their state dicts."""

import math

import pytest
import torch
import torch.nn.functional as F

from ganfuse import FromRGB, ModulatedConv2d, ToRGB, no_weight_gradients, use_backend
from ganfuse.kernels import setup_filter, upfirdn2d


def _styles(layer, w):
    return w @ layer.affine.weight.T / math.sqrt(layer.style_features) + layer.affine.bias


def _randomized(layer):
    """With every parameter away from where it starts."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name != "weight":
                parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def _layer(**options):
    return _randomized(ModulatedConv2d(3, 4, 3, 5, dtype=torch.float64, **options))


def _inputs(batch=2, size=(4, 6)):
    x = torch.randn(batch, 3, *size, dtype=torch.float64, requires_grad=True)
    return x, torch.randn(batch, 5, dtype=torch.float64, requires_grad=True)


def _formula(layer, x, w, noise):
    """Sample by sample, with weights of its own; upsampling filters what is convolved with zeros in between."""
    styles, samples = _styles(layer, w), []
    f = setup_filter([1, 3, 3, 1])
    for i in range(x.shape[0]):
        own = layer.weight * styles[i][None, :, None, None]
        if layer.demodulate:
            own = own / (own.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.up == 2:
            y = F.conv_transpose2d(x[i : i + 1], own.transpose(0, 1), stride=2)
            y = upfirdn2d(y, f, padding=1, gain=4, backend="reference")
        else:
            y = F.conv2d(x[i : i + 1], own, padding=layer.kernel_size // 2)
        samples.append(y)
    y = torch.cat(samples) + layer.bias[:, None, None]
    return F.leaky_relu(y if noise is None else y + noise * layer.noise_strength, 0.2) * math.sqrt(2)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
@pytest.mark.parametrize("mode", ["const", "none"])
def test_formula(up, demodulate, mode):
    layer = _layer(up=up, demodulate=demodulate, resolution=(4 * up, 6 * up))
    x, w = _inputs()
    expected = _formula(layer, x, w, layer.noise_const if mode == "const" else None)
    torch.testing.assert_close(layer(x, w, mode), expected, rtol=1e-10, atol=1e-10)


def test_random_noise_is_of_every_sample_and_scaled_by_its_strength():
    layer = ModulatedConv2d(3, 4, 3, 5, activation="none")
    x, w = torch.zeros(3, 3, 8, 8), torch.randn(3, 5)
    assert torch.equal(layer(x, w), torch.zeros(3, 4, 8, 8))
    with torch.no_grad():
        layer.noise_strength.fill_(2.0)
    y = layer(x, w)
    assert torch.equal(y[:, 0], y[:, 3])
    assert not torch.equal(y[0], y[1])
    assert y[:, 0].std().item() == pytest.approx(2.0, rel=0.2)
    assert not torch.equal(y, layer(x, w))


def test_gain_scales_the_clamp_too():
    layer = _layer(conv_clamp=0.9, noise=False)
    x, w = _inputs()
    y = layer(x, w)
    assert y.abs().max().item() == pytest.approx(0.9)
    torch.testing.assert_close(layer(x, w, gain=0.5), 0.5 * y)


@pytest.mark.parametrize(("options", "size"), [({"down": 2}, (2, 3)), ({"up": 2}, (8, 12))])
def test_sizes(options, size):
    layer = _layer(**options)
    assert layer(*_inputs()).shape[2:] == size
    assert layer(*_inputs(batch=0)).shape == (0, 4, *size)


def test_odd_sizes_and_noise_of_the_same():
    assert _layer(down=2)(*_inputs(size=(5, 7))).shape[2:] == (2, 3)
    assert _layer(up=3)(*_inputs(size=(5, 7))).shape[2:] == (15, 21)


@pytest.mark.parametrize("options", [{}, {"up": 2, "conv_clamp": 1.3}, {"down": 2}, {"demodulate": False}])
def test_first_and_second_derivative_of_a_whole_layer(options):
    side = 4 * options.get("up", 1) // options.get("down", 1)
    layer = _layer(resolution=side, **options)
    x, w = _inputs(size=(4, 4))
    names = [name for name, _ in layer.named_parameters()]

    def run(x, w, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters)), (x, w, "const"))

    inputs = (x, w, *(p.detach().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


def _path_length(layers, backend):
    with use_backend(backend):
        x, w = _inputs(size=(3, 3))
        w.data.copy_(torch.linspace(-1, 1, 10, dtype=torch.float64).view(2, 5))
        x.data.copy_(torch.linspace(-2, 1, x.numel(), dtype=torch.float64).view(x.shape).sin())
        y = x
        for layer in layers:
            y = layer(y, w, "const") if isinstance(layer, ModulatedConv2d) else layer(y, w)
        direction = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape).cos()
        with no_weight_gradients():
            (gradient,) = torch.autograd.grad((y * direction).sum(), w, create_graph=True)
        lengths = gradient.square().sum(1).sqrt()
        parameters = [p for layer in layers for p in layer.parameters()]
        return lengths, *torch.autograd.grad((lengths - 2).square().mean(), parameters, allow_unused=True)


def test_path_length_regularisation_is_that_of_the_definition():
    """Karras et al. 2020, section 3.2, through a block: upsampling, plain, ToRGB."""
    block = [
        _layer(up=2, resolution=6),
        _randomized(ModulatedConv2d(4, 3, 3, 5, resolution=6, dtype=torch.float64)),
        _randomized(ToRGB(3, 3, 5, dtype=torch.float64)),
    ]
    fast, exact = _path_length(block, "auto"), _path_length(block, "reference")
    for actual, expected in zip(fast, exact, strict=True):
        if actual is None or expected is None:
            given = actual if expected is None else expected
            assert given is None or not given.any()
        else:
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10)


def test_torgb_and_fromrgb_formulas():
    layer = _randomized(ToRGB(3, 2, 5, conv_clamp=0.5, dtype=torch.float64))
    x, w = _inputs()
    styles = _styles(layer, w) / math.sqrt(3)
    expected = torch.einsum("bihw,oi,bi->bohw", x, layer.weight[..., 0, 0], styles) + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x, w), expected.clamp(-0.5, 0.5))
    layer = _randomized(FromRGB(3, 4, dtype=torch.float64))
    expected = F.conv2d(x, layer.weight / math.sqrt(3), layer.bias)
    torch.testing.assert_close(layer(x), F.leaky_relu(expected, 0.2) * math.sqrt(2))


# Of StyleGAN2-ADA's SynthesisLayer, ToRGBLayer and Conv2dLayer.
SYNTHESIS = {
    "affine.weight": (3, 5), "affine.bias": (3,), "weight": (4, 3, 3, 3), "bias": (4,),
    "noise_const": (8, 8), "noise_strength": (), "resample_filter": (4, 4),
}  # fmt: skip
TORGB = {"affine.weight": (3, 5), "affine.bias": (3,), "weight": (2, 3, 1, 1), "bias": (2,)}
FROMRGB = {"weight": (4, 3, 1, 1), "bias": (4,), "resample_filter": (4, 4)}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_state_dicts(device):
    layers = {
        ModulatedConv2d(3, 4, 3, 5, up=2, resolution=8, device=device): SYNTHESIS,
        ToRGB(3, 2, 5, device=device): TORGB,
        FromRGB(3, 4, device=device): FROMRGB,
    }
    for layer, expected in layers.items():
        assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == expected
        assert {t.device.type for t in layer.state_dict().values()} == {device}
    layer = ModulatedConv2d(3, 4, 3, 5, noise=False)
    assert set(layer.state_dict()) == set(SYNTHESIS) - {"noise_const", "noise_strength"}


def test_starts():
    layer = ModulatedConv2d(32, 64, 3, 16, resolution=8)
    assert layer.weight.std().item() == pytest.approx(1.0, rel=0.1)
    assert layer.noise_const.std().item() == pytest.approx(1.0, rel=0.3)
    assert not layer.bias.any()
    assert layer.noise_strength == 0
    assert torch.equal(layer.styles(torch.ones(2, 32, 1, 1), torch.zeros(2, 16)), torch.ones(2, 32))


def test_half_precision_and_autocast():
    layer = _randomized(ModulatedConv2d(3, 4, 3, 5, up=2))
    x, w = torch.randn(2, 3, 4, 4), torch.randn(2, 5)
    exact = layer(x, w, "none")
    for dtype in (torch.float16, torch.bfloat16):
        y = layer(x.to(dtype), w, "none")
        assert y.dtype == dtype
        assert (y - exact).abs().max() < 0.05 * exact.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x, w, "none")
    assert y.dtype == torch.bfloat16
    assert (y - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ModulatedConv2d(0, 4, 3, 5), "in_channels must be a whole number of at least 1, got 0"),
        (lambda: ModulatedConv2d(3, 4, 2, 5), "kernel_size must be odd, so that its middle is a pixel, got 2"),
        (lambda: ModulatedConv2d(3, 4, 3, 5, up=0), "up must be a whole number of at least 1, got 0"),
        (lambda: ModulatedConv2d(3, 4, 3, 5, activation="relo"), "activation must be one of"),
        (lambda: ModulatedConv2d(3, 4, 3, 5, conv_clamp=-1.0), "conv_clamp must be at least 0 or None, got -1.0"),
        (lambda: ModulatedConv2d(3, 4, 3, 5, noise=False, resolution=4), "resolution is that of the noise"),
        (lambda: ToRGB(3, 3, 0), "style_features must be a whole number"),
        (lambda: _layer()(_inputs()[0][:, :2], _inputs()[1]), r"x: expected \(B, 3, H, W\), got \(2, 2, 4, 6\)"),
        (lambda: _layer()(_inputs()[0], _inputs()[1][:1]), r"w: expected floats of shape \(2, 5\), got"),
        (lambda: _layer()(*_inputs(), noise_mode="fixed"), "noise_mode must be one of 'random', 'const', 'none'"),
        (lambda: _layer()(*_inputs(), noise_mode="const"), "needs a layer that was made with resolution="),
        (lambda: _layer(resolution=4)(*_inputs(), noise_mode="const"), r"resolution=\(4, 4\), x gives \(4, 6\)"),
    ],
)
def test_messages(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_repr():
    layer = ModulatedConv2d(3, 4, 3, 5, up=2, resolution=8, conv_clamp=256)
    assert "3, 4, kernel_size=3, 5, conv_clamp=256, up=2, demodulate=True" in repr(layer)
    assert "ToRGB(\n  3, 2, kernel_size=1, 5" in repr(ToRGB(3, 2, 5))
