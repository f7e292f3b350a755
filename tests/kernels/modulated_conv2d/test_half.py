"""Half types: accuracy, no overflow, autocast."""

import pytest
import torch

from tests.kernels.assertions import assert_as_accurate
from tests.kernels.modulated_conv2d.problems import LAYERS, Problem, by_loops, call, make_inputs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("form", ["scaled", "grouped"])
@pytest.mark.parametrize("layer", ["plain", "up"])
def test_as_accurate_as_the_definition_in_the_type(dtype, form, layer):
    # A kink would make a gradient that is somewhat wrong of a value whose sign is.
    problem = LAYERS[layer]._replace(act="linear", clamp=None)
    inputs = make_inputs(problem, dtype, parameter_dtype=torch.float32)
    exact = make_inputs(problem, torch.float64)
    with torch.no_grad():
        for a, e in zip(inputs, exact):
            e.copy_(a)
    results = []
    for options, given in (({"form": form}, inputs), ({"backend": "reference"}, inputs), ({}, exact)):
        y = call(problem, **options)(*given)
        gradients = torch.autograd.grad(y, given, torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype))
        results.append((y, *gradients))
    for i, (ours, plain, truth) in enumerate(zip(*results, strict=True)):
        # Gradients of float32 parameters are sums of what was rounded to the maps' type.
        assert_as_accurate(ours.to(dtype), plain.to(dtype), truth.detach(), f"result {i}", factor=3.0)


@pytest.mark.parametrize("form", ["scaled", "grouped"])
@pytest.mark.parametrize("backend", [None, "reference"])
def test_float16_does_not_overflow(form, backend):
    """Products of styles, weights and maps far beyond 65504, demodulated to sizes around 1."""
    problem = Problem(inputs=64, noise=None, bias=False, act="linear")
    x, weight, styles = make_inputs(problem, torch.float16, parameter_dtype=torch.float32)
    with torch.no_grad():
        styles.mul_(1e3)
        weight.mul_(1e3)
    y = call(problem, form=form, backend=backend)(x, weight, styles)
    exact = by_loops(problem, (x, weight, styles))
    assert (y.double() - exact).abs().max() < 1e-2 * exact.abs().max()
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.float().square().mean(), (x, weight, styles)))


def test_float16_of_nothing_is_nothing():
    problem = Problem(noise=None, bias=False)
    x, weight, styles = make_inputs(problem, torch.float16, parameter_dtype=torch.float32)
    for t in (weight, styles):
        y = call(problem)(x, *(torch.zeros_like(s) if s is t else s for s in (weight, styles)))
        assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize("form", ["scaled", "grouped"])
def test_autocast(form):
    problem = LAYERS["up"]
    inputs = make_inputs(problem, torch.float32)
    run = call(problem, form=form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = run(*inputs)
    assert y.dtype == torch.bfloat16
    expected = run(inputs[0].to(torch.bfloat16), *inputs[1:])
    torch.testing.assert_close(y, expected)
    for actual, e in zip(
        torch.autograd.grad(y.float().sum(), inputs), torch.autograd.grad(expected.float().sum(), inputs)
    ):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual, e)
