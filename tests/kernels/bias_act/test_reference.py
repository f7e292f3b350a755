"""The definition against formulas written out here."""

import math

import pytest
import torch

from ganfuse.kernels import bias_act

ROOT = math.sqrt(2)
SELU = 1.0507009873554804934193349852946
# Activation, default gain; lrelu's slope is 0.2.
FORMULAS = {
    "linear": (lambda x: x, 1),
    "relu": (lambda x: max(x, 0.0), ROOT),
    "lrelu": (lambda x: x if x > 0 else 0.2 * x, ROOT),
    "tanh": (math.tanh, 1),
    "sigmoid": (lambda x: 1 / (1 + math.exp(-x)), 1),
    "elu": (lambda x: x if x > 0 else math.expm1(x), 1),
    "selu": (lambda x: SELU * (x if x > 0 else 1.6732632423543772848170429916717 * math.expm1(x)), 1),
    "softplus": (lambda x: math.log1p(math.exp(x)), 1),
    "swish": (lambda x: x / (1 + math.exp(-x)), ROOT),
}


@pytest.mark.parametrize("act", FORMULAS)
def test_formula(act):
    function, gain = FORMULAS[act]
    x = torch.linspace(-4, 4, 33, dtype=torch.float64).reshape(1, 3, 11)
    b = torch.tensor([-0.5, 0.0, 0.75], dtype=torch.float64)
    expected = [gain * function(v + b[i].item()) for i in range(3) for v in x[0, i].tolist()]
    actual = bias_act(x, b, act=act, backend="reference")
    torch.testing.assert_close(actual.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_order_of_gain_and_clamp():
    x = torch.tensor([[-3.0, -0.1, 0.2, 3.0]], requires_grad=True)
    y = bias_act(x, act="lrelu", alpha=0.5, gain=2.0, clamp=1.5)
    assert y.tolist() == [[-1.5, pytest.approx(-0.1), pytest.approx(0.4), 1.5]]
    y.sum().backward()
    # Beyond the clamp there is no gradient, whatever the activation (StyleGAN2-ADA's kernel let it through if linear).
    assert x.grad.tolist() == [[0.0, 1.0, 2.0, 0.0]]


def test_bias_along_any_dimension():
    x = torch.zeros(2, 3, 4)
    for dim in (0, 1, 2, -1, -3):
        b = torch.arange(x.shape[dim], dtype=torch.float32)
        y = bias_act(x, b, dim=dim)
        torch.testing.assert_close(y.movedim(dim, -1), b.expand_as(y.movedim(dim, -1)))


def test_a_clamp_of_infinity_is_none():
    x = torch.randn(2, 3)
    torch.testing.assert_close(bias_act(x, clamp=float("inf")), x)
