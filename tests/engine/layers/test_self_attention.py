import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfuse.engine.layers import SelfAttention2d

F64 = torch.float64
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def formula(layer: SelfAttention2d, x: torch.Tensor, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    """Equations 1 to 3 of SAGAN, written out; one row of β for each query position."""

    def conv(name, x):
        return torch.einsum("oi,bihw->bohw", weights[name].flatten(1), x)

    query, key, value = conv("theta", x), conv("phi", x), conv("g", x)
    if layer.pool_keys:
        key, value = F.max_pool2d(key, 2), F.max_pool2d(value, 2)
    beta = torch.softmax(torch.einsum("bcn,bcm->bnm", query.flatten(2), key.flatten(2)), dim=2)
    attended = torch.einsum("bnm,bcm->bcn", beta, value.flatten(2)).unflatten(2, x.shape[2:])
    return x + layer.gamma * conv("o", attended)


def make(**options) -> SelfAttention2d:
    torch.manual_seed(0)
    layer = SelfAttention2d(16, **options).double()
    nn.init.constant_(layer.gamma, 0.7)
    for _ in range(20 if layer.spectral else 0):  # until σ is near: products of raw vectors would saturate the softmax
        layer(torch.randn(1, 16, 4, 4, dtype=F64))
    return layer


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pool_keys", [False, True])
@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_equals_the_formula_to_second_order(layout, pool_keys, spectral, size):
    layer = make(pool_keys=pool_keys, spectral=spectral).eval()
    x = torch.randn(2, 16, *size, dtype=F64).to(memory_format=layout).requires_grad_()
    weights = {}
    for name in ("theta", "phi", "g", "o"):
        conv = layer.get_submodule(name)
        if spectral:
            w = conv.weight_orig
            weights[name] = w / (conv.weight_u @ w.flatten(1) @ conv.weight_v)
        else:
            weights[name] = conv.weight
    results = []
    for y in (layer(x), formula(layer, x, weights)):
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        second = torch.autograd.grad(gradient.square().sum(), [x, *layer.parameters()])
        results.append((y, gradient, *second))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    assert results[0][0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("pool_keys", [False, True])
def test_gradgradcheck(pool_keys):
    torch.manual_seed(1)
    layer = SelfAttention2d(4, query_channels=2, value_channels=3, pool_keys=pool_keys).double()
    nn.init.constant_(layer.gamma, 0.7)
    x = torch.randn(1, 4, 4, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x, fast_mode=True)
    assert torch.autograd.gradgradcheck(layer, x, fast_mode=True)


def test_is_the_identity_until_gamma_has_learnt():
    layer = SelfAttention2d(16)
    x = torch.randn(2, 16, 4, 4)
    y = layer(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert layer.gamma.grad != 0


@pytest.mark.parametrize(("channels", "query", "value"), [(64, 8, 32), (4, 1, 2), (1, 1, 1), (20, 2, 10)])
def test_default_widths(channels, query, value):
    layer = SelfAttention2d(channels)
    assert layer.theta.weight.shape == layer.phi.weight.shape == (query, channels, 1, 1)
    assert layer.g.weight.shape == (value, channels, 1, 1)
    assert layer.o.weight.shape == (channels, value, 1, 1)
    assert sum(p.numel() for p in layer.parameters()) == 2 * channels * (query + value) + 1


def test_state_dict_is_that_of_biggan_pytorch():
    layer = SelfAttention2d(16)
    assert set(layer.state_dict()) == {"gamma", "theta.weight", "phi.weight", "g.weight", "o.weight"}
    assert layer.gamma.shape == ()
    state = copy.deepcopy(layer.state_dict())
    state["gamma"] = torch.tensor([0.5])  # how others write it
    layer.load_state_dict(state)
    assert layer.gamma.item() == 0.5
    spectral = SelfAttention2d(16, spectral=True)
    assert {"theta.weight_orig", "phi.weight_u", "g.weight_v", "o.weight_orig"} < set(spectral.state_dict())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_autocast(layout):
    layer = make(pool_keys=True, spectral=True).float().eval()
    x = torch.randn(2, 16, 6, 6).to(memory_format=layout)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)
    y.float().square().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())


def test_builds_on_meta():
    with torch.device("meta"):
        layer = SelfAttention2d(16, spectral=True)
    assert all(t.is_meta for t in layer.state_dict().values())
    assert SelfAttention2d(16, device="meta", dtype=torch.float16).gamma.dtype == torch.float16


def test_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="channels must be at least 1"):
        SelfAttention2d(0)
    with pytest.raises(ValueError, match="query_channels must be at least 1"):
        SelfAttention2d(8, query_channels=0)
    with pytest.raises(ValueError, match=r"expected \(B, 8, H, W\), got \(1, 4, 2, 2\)"):
        SelfAttention2d(8)(torch.randn(1, 4, 2, 2))
    with pytest.raises(ValueError, match="at least 2×2"):
        SelfAttention2d(8, pool_keys=True)(torch.randn(1, 8, 1, 4))


def test_repr_shows_the_configuration():
    assert "8, query_channels=1, value_channels=4, pool_keys=True, spectral=False" in repr(
        SelfAttention2d(8, pool_keys=True)
    )
