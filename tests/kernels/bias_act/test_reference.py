"""The definition against formulas written out here."""

import functools
import math

import pytest
import torch

from ganfuse.kernels import bias_act
from ganfuse.kernels.bias_act import eager
from tests.kernels.derivative_checks import check, numbers

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


@pytest.mark.parametrize("act", eager.STRAIGHT)
@pytest.mark.parametrize(
    "options", [{}, {"clamp": 1.5}, {"gain": 0.7, "alpha": 0.1, "clamp": 0.4}, {"clamp": 0.0}], ids=str
)
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "no bias"])
def test_form_of_cpus(act, options, biased):
    x, b = 2 * numbers((2, 3, 4, 5), torch.float64, 0), numbers((4,), torch.float64, 1).requires_grad_()
    ours, plain = (
        functools.partial(bias_act, dim=2, act=act, backend=name, **options) for name in ("eager", "reference")
    )
    check(ours, plain, (x.requires_grad_(), b) if biased else (x.requires_grad_(),))


def test_form_of_cpus_is_refused_where_gains_do_not_commute():
    for options, reason in (({"act": "tanh"}, "linear, relu, lrelu"), ({"act": "relu", "gain": -1.0}, "gain above 0")):
        with pytest.raises(ValueError, match=reason):
            bias_act(torch.zeros(1, 2), backend="eager", **options)
        bias_act(torch.zeros(1, 2), backend="auto", **options)


@pytest.mark.parametrize("act", ["relu", "lrelu"])
@pytest.mark.parametrize("clamp", [None, 1.5])
@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_the_result_may_be_changed_in_place(act, clamp, backend):
    x = numbers((2, 3), torch.float64, 0).requires_grad_()
    y = bias_act(x, act=act, clamp=clamp, backend=backend)
    (expected,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    y.mul_(2.0)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 2.0 * expected)
