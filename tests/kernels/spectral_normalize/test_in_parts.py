"""Large weights on CPUs, some rows at a time: values and gradients in every layout and type."""

import pytest
import torch

from ganfuse.kernels import spectral_normalize
from ganfuse.kernels.spectral_normalize import in_parts
from tests.kernels.spectral_normalize.problems import WEIGHTS, make_batch

LARGE = {
    "conv": 0,
    "conv channels_last": 0,
    "conv_transpose channels_last": 1,
    "conv3d": 0,
    "transposed": 0,
    "with holes": 0,
    "very wide": 0,
    "several strips, unaligned": 0,
}
# Whose rows do not lie one after the other.
WHOLE = {"conv_transpose channels_last", "transposed", "with holes"}


@pytest.fixture
def gradients_in_parts(monkeypatch):
    """Makes three rows or more of all weights parts; how many gradients were computed so."""
    monkeypatch.setattr(in_parts, "_PART", 12)
    seen = []
    original = in_parts.gradient

    def gradient(*args):
        seen.append(args)
        return original(*args)

    monkeypatch.setattr(in_parts, "gradient", gradient)
    return seen


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("strides", ["the weight's", "others"])
def test_equals_the_reference(name, strides, gradients_in_parts):
    assert WEIGHTS[name][1] == LARGE[name]
    found = []
    for backend in ("eager", "reference"):
        weights, us, vs, dims = make_batch([name])
        (normalised,), (sigma,) = spectral_normalize(weights, us, vs, dims=dims, backend=backend)
        cotangent = torch.randn(normalised.shape, generator=torch.Generator().manual_seed(0), dtype=normalised.dtype)
        if strides == "the weight's":
            cotangent = torch.empty_like(weights[0]).copy_(cotangent)
        loss = (normalised * cotangent).sum() + sigma.sin()
        found.append((normalised, *torch.autograd.grad(loss, weights)))
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-11)
    assert len(gradients_in_parts) == (name not in WHOLE)


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_rounded_once(name, dtype, gradients_in_parts):
    weights, us, vs, dims = make_batch([name], torch.float32)
    (wide,), _ = spectral_normalize(weights, us, vs, dims=dims, update=False, backend="eager")
    (half,), _ = spectral_normalize(weights, us, vs, dims=dims, update=False, dtype=dtype, backend="eager")
    assert half.dtype == dtype
    assert torch.equal(half, wide.to(dtype))
    cotangent = torch.randn(half.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    (gradient,) = torch.autograd.grad(half, weights, cotangent)
    (expected,) = torch.autograd.grad(wide, weights, cotangent.float())
    assert gradient.dtype == torch.float32
    if name not in WHOLE:
        assert gradient.stride() == weights[0].stride()
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-6)
    assert len(gradients_in_parts) == 2 * (name not in WHOLE)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_second_derivatives(dtype, gradients_in_parts):
    """The second derivative needs σ's dependence on the weight, in full precision where Ŵ is rounded."""
    found = []
    for backend in ("eager", "reference"):
        weights, us, vs, dims = make_batch(["conv channels_last"], torch.float32)
        (normalised,), _ = spectral_normalize(weights, us, vs, dims=dims, dtype=dtype, backend=backend)
        (first,) = torch.autograd.grad(normalised.float().pow(3).sum(), weights, create_graph=True)
        found.append((first, *torch.autograd.grad(first.square().sum(), weights)))
    for actual, expected in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4 if dtype is None else 2e-2, atol=1e-3)
    # Once, by the last derivative.
    assert len(gradients_in_parts) == 1


def test_small_weights_are_left_whole(monkeypatch):
    monkeypatch.setattr(in_parts, "gradient", None)
    weights, us, vs, dims = make_batch(["conv"], torch.float32)
    (half,), _ = spectral_normalize(weights, us, vs, dims=dims, dtype=torch.bfloat16, backend="eager")
    half.sum().backward()
    assert weights[0].grad.dtype == torch.float32
