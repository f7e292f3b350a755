"""AdaIN, AdaLIN and ILN against what the papers' codebases compute, and rho in its range."""

import copy

import pytest
import torch
from torch import nn

from ganfuse.engine.layers import AdaIN2d, AdaLIN2d, ILN2d

F64 = torch.float64


def _second_order(y, x, parameters):
    (gradient,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
    return (y, gradient, *torch.autograd.grad(gradient.square().sum(), [x, *parameters], allow_unused=True))


def _assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:
            assert all(t is None or not t.any() for t in (a, b))
        else:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eps", [1e-5, 1e-8])
def test_adain(eps):
    """Instance norm, then x · (style₀ + 1) + style₁, as in StyleGAN."""
    layer = AdaIN2d(3, 4, eps=eps, activation="leaky_relu").double()
    x = torch.randn(2, 3, 4, 5, dtype=F64, requires_grad=True)
    style = torch.randn(2, 4, dtype=F64)
    parameters = list(layer.parameters())

    s = layer.style(style).view(2, 2, 3, 1, 1)
    y = (x - x.mean((2, 3), keepdim=True)) * (x.var((2, 3), unbiased=False, keepdim=True) + eps).rsqrt()
    expected = nn.functional.leaky_relu(y * (s[:, 0] + 1) + s[:, 1], 0.2)
    _assert_same(_second_order(layer(x, style), x, parameters), _second_order(expected, x, parameters))


def _epilogue(**options):
    layer = AdaIN2d(
        3, 4, eps=1e-8, noise=True, prologue_bias=True, prologue_activation="leaky_relu", **options
    ).double()  # fmt: skip
    nn.init.normal_(layer.noise_strength)
    nn.init.normal_(layer.prologue_bias)
    return layer


def test_the_epilogue_of_a_stylegan_layer_is_one_call():
    """Noise times a strength per channel, bias, leaky ReLU, instance norm, style."""
    layer = _epilogue()
    parameters = list(layer.parameters())
    assert {n for n, _ in layer.named_parameters()} == {
        "noise_strength", "prologue_bias", "style.weight", "style.bias",
    }  # fmt: skip
    x, noise = torch.randn(2, 3, 4, 5, dtype=F64, requires_grad=True), torch.randn(2, 1, 4, 5, dtype=F64)
    style = torch.randn(2, 4, dtype=F64)
    strength, bias = (p[:, None, None] for p in (layer.noise_strength, layer.prologue_bias))
    u = nn.functional.leaky_relu(x + noise * strength + bias, 0.2)
    s = layer.style(style).view(2, 2, 3, 1, 1)
    expected = nn.functional.instance_norm(u, eps=1e-8) * (s[:, 0] + 1) + s[:, 1]
    ours = layer(x, style, noise)
    _assert_same(_second_order(ours, x, parameters), _second_order(expected, x, parameters))


def test_noise_is_drawn_for_each_sample_unless_given():
    layer, x, style = _epilogue(), torch.randn(1, 3, 4, 4, dtype=F64).expand(2, -1, -1, -1), torch.zeros(2, 4).double()
    first, second = layer(x, style), layer(x, style)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    torch.manual_seed(3)
    drawn = layer(x, style)
    torch.manual_seed(3)
    torch.testing.assert_close(layer(x, style, torch.randn(2, 1, 4, 4, dtype=F64)), drawn)


def test_adain_says_what_of_its_prologue_is_wrong():
    with pytest.raises(ValueError, match=r"prologue_activation must be one of .*did you mean 'leaky_relu'"):
        AdaIN2d(3, 4, prologue_activation="leaky_rellu")
    with pytest.raises(ValueError, match="noise: this layer has none"):
        AdaIN2d(3, 4)(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"prologue\.noise must have shape \(2, 1, 4, 4\)"):
        _epilogue()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4).double(), torch.zeros(2, 3, 4, 4))
    assert "noise=True, prologue_bias=True, prologue_activation='leaky_relu', prologue_neg" in repr(_epilogue())


def test_a_new_adain_with_a_style_of_zero_is_instance_norm():
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(AdaIN2d(3, 4)(x, torch.zeros(2, 4)), nn.InstanceNorm2d(3)(x))


def test_adain_with_a_linear_map_of_ones_own():
    made = []

    def linear(inputs, outputs):
        made.append((inputs, outputs))
        return nn.Linear(inputs, outputs, bias=False)

    layer = AdaIN2d(3, 4, linear=linear)
    assert made == [(4, 6)]
    assert set(layer.state_dict()) == {"style.weight"}


def _adalin(x, rho, gamma, beta, eps, unbiased):
    """As the codebase of U-GAT-IT writes it."""
    rho, gamma, beta = (v.reshape(-1, x.shape[1], 1, 1) for v in (rho, gamma, beta))
    in_mean, in_var = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=unbiased, keepdim=True)
    ln_mean, ln_var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), unbiased=unbiased, keepdim=True)
    out = rho * (x - in_mean) / (in_var + eps).sqrt() + (1 - rho) * (x - ln_mean) / (ln_var + eps).sqrt()
    return out * gamma + beta


@pytest.mark.parametrize("unbiased", [True, False])
def test_adalin(unbiased):
    layer = AdaLIN2d(3, eps=1e-3, unbiased=unbiased, activation="relu").double()
    nn.init.uniform_(layer.rho)
    x = torch.randn(2, 3, 4, 5, dtype=F64, requires_grad=True)
    gain, bias = (torch.randn(2, 3, dtype=F64, requires_grad=True) for _ in range(2))
    ours = layer(x, gain, bias)
    theirs = _adalin(x, layer.rho, gain, bias, 1e-3, unbiased).relu()
    leaves = [layer.rho, gain, bias]
    _assert_same(_second_order(ours, x, leaves), _second_order(theirs, x, leaves))


def test_iln():
    layer = ILN2d(3, rho=0.4).double()
    nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, 4, 5, dtype=F64, requires_grad=True)
    theirs = _adalin(x, layer.rho, layer.weight, layer.bias, 1e-5, True)
    leaves = list(layer.parameters())
    _assert_same(_second_order(layer(x), x, leaves), _second_order(theirs, x, leaves))


def test_initial_values_are_those_of_ugatit():
    assert set(AdaLIN2d(3).state_dict()) == {"rho"}
    assert AdaLIN2d(3).rho.tolist() == [pytest.approx(0.9)] * 3
    state = ILN2d(2).state_dict()
    assert {k: v.tolist() for k, v in state.items()} == {"rho": [0, 0], "weight": [1, 1], "bias": [0, 0]}


def test_parameters_of_the_shape_that_others_give_them_load():
    state = {name: torch.rand(1, 3, 1, 1) for name in ("rho", "weight", "bias")}
    network = nn.Sequential(ILN2d(3))
    network.load_state_dict({f"0.{k}": v for k, v in state.items()})
    for name, value in state.items():
        assert torch.equal(getattr(network[0], name), value.flatten())
    with pytest.raises(RuntimeError, match="size mismatch"):
        network.load_state_dict({f"0.{k}": torch.rand(1, 4, 1, 1) for k in state})


def _push(layer, direction, optimizer):
    """One step that moves rho far in that direction."""
    optimizer.zero_grad()
    (-direction * layer.rho.sum()).backward()
    optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=10.0),
    "adam": lambda p: torch.optim.Adam(p, lr=10.0, betas=(0.0, 0.9)),
    "foreach adamw": lambda p: torch.optim.AdamW(p, lr=10.0, betas=(0.0, 0.9), foreach=True),
    "fused adam": lambda p: torch.optim.Adam(p, lr=10.0, betas=(0.0, 0.9), fused=True),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_leaves_rho_in_range(kind):
    layer = AdaLIN2d(3)
    optimizer = OPTIMIZERS[kind](layer.parameters())
    _push(layer, 1, optimizer)
    assert layer.rho.tolist() == [1, 1, 1]
    _push(layer, -1, optimizer)
    # It comes back: the clip is not part of the function that is differentiated.
    assert layer.rho.tolist() == [0, 0, 0]


def test_an_optimizer_of_ones_own_too():
    class Blunt(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(100 * p.grad)

    layer = ILN2d(2)
    _push(layer, 1, Blunt([layer.rho]))
    assert layer.rho.tolist() == [1, 1]


def test_copies_stay_in_range_and_other_models_are_left_alone():
    original = AdaLIN2d(2)
    clone = copy.deepcopy(original)
    with torch.no_grad():
        original.rho.fill_(3.0)
    _push(clone, 1, torch.optim.SGD(clone.parameters(), lr=10.0))
    assert clone.rho.tolist() == [1, 1]
    assert original.rho.tolist() == [3, 3]
    original.clip()
    assert original.rho.tolist() == [1, 1]


def test_layers_are_not_kept_alive():
    from ganfuse.engine.layers import clipped_parameters

    before = len(clipped_parameters._layers)
    layer = AdaLIN2d(2)
    assert len(clipped_parameters._layers) == before + 1
    del layer
    assert len(clipped_parameters._layers) == before


def test_wrong_conditions():
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"style: expected floats of shape \(2, 5\), got torch.float32 \(2, 4\)"):
        AdaIN2d(3, 5)(x, torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"bias: expected \(2, 3\), got \(3,\)"):
        AdaLIN2d(3)(x, torch.randn(2, 3), torch.randn(3))
