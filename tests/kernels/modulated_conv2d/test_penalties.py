"""Path length regularisation, gradients of weights that nobody waits for, and compiled graphs."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ganfuse.kernels import no_weight_gradients
from tests.kernels.derivative_checks import check, numbers
from tests.kernels.modulated_conv2d.problems import LAYERS, Problem, call, make_inputs

TWO = (Problem(inputs=3, outputs=5), LAYERS["up"]._replace(inputs=5, outputs=3, noise="own"))


def _path_length(backend, form):
    """Gradients of the penalty of Karras et al. 2020, section 3.2, on two layers."""
    x, weight0, styles0, *rest0 = make_inputs(TWO[0])
    _, weight1, styles1, *rest1 = make_inputs(TWO[1])
    leaves = (x, weight0, styles0, weight1, styles1, *rest0, *rest1)
    y = call(TWO[0], backend=backend, form=form)(x, weight0, styles0, *rest0)
    y = call(TWO[1], backend=backend, form=form)(y, weight1, styles1, *rest1)
    direction = numbers(tuple(y.shape), y.dtype, 30) / (y.shape[2] * y.shape[3]) ** 0.5
    with no_weight_gradients():
        gradients = torch.autograd.grad((y * direction).sum(), (styles0, styles1), create_graph=True)
    lengths = sum(g.square().sum(1) for g in gradients).sqrt()
    return lengths, *torch.autograd.grad((lengths - 1.3).square().mean(), leaves, allow_unused=True)


@pytest.mark.parametrize("form", ["scaled", "grouped", "auto"])
def test_path_length_regularisation(form):
    for actual, expected in zip(_path_length(None, form), _path_length("reference", "auto"), strict=True):
        # The last bias is of no consequence for any path: no gradient, or one of zeros.
        zero = torch.zeros(())
        torch.testing.assert_close(
            zero.double() if actual is None else actual,
            (zero if actual is None else torch.zeros_like(actual)).double() if expected is None else expected,
            rtol=1e-9,
            atol=1e-10,
        )


class _Counted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.weight_gradients = 0
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        self.calls[name] += 1
        if name == "aten::convolution_backward":
            self.weight_gradients += bool(args[-1][1])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layer", ["plain", "up", "down"])
def test_no_weight_gradients_in_a_penalty(layer):
    """Its first backward computes no gradient of the weight, the noise or the bias."""
    problem = LAYERS[layer]._replace(clamp=None)
    x, weight, styles, *rest = make_inputs(problem)
    # The noise of a layer is its strength, a parameter, times random numbers.
    noise = rest[0].detach() * torch.ones((), dtype=x.dtype, requires_grad=True)
    y = call(problem, form="scaled")(x, weight, styles, noise, *rest[1:])
    grad = torch.ones_like(y)
    with _Counted() as asked:
        torch.autograd.grad(y, (x, weight, styles, noise, *rest[1:]), grad, retain_graph=True)
    with no_weight_gradients(), _Counted() as penalty:
        torch.autograd.grad(y, (x, styles), grad, retain_graph=True)
    assert asked.weight_gradients == 1
    assert penalty.weight_gradients == 0
    # Sums over maps for the styles' two gradients, and none for noise and bias.
    assert penalty.calls["aten::sum.IntList_out"] + penalty.calls["aten::sum.dim_IntList"] < (
        asked.calls["aten::sum.IntList_out"] + asked.calls["aten::sum.dim_IntList"]
    )


@pytest.mark.parametrize("layer", ["plain", "torgb"])
def test_compile(layer):
    torch.compiler.reset()
    problem = LAYERS[layer]
    compiled = torch.compile(call(problem), fullgraph=True, backend="aot_eager")
    check(compiled, call(problem, backend="reference"), make_inputs(problem), order=1)
