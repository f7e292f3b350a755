"""The fold by matrix products against its definition: layouts, types and orders of derivatives, whole and in parts."""

import itertools

import pytest
import torch

from ganfuse.kernels import upsample_conv2d
from ganfuse.kernels.resampled_conv2d import fold_product

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
CASES = [
    (transposed, weight, result)
    for transposed, weight, result in itertools.product((False, True), LAYOUTS, (False, True))
    # A mean behind the convolution keeps the layout.
    if transposed or result == (weight == "channels_last")
]


@pytest.fixture(params=["whole", "in parts"])
def parts(request, monkeypatch):
    if request.param == "in parts":
        monkeypatch.setattr(fold_product, "_PART", 16 * 5)


def _weight(layout: str, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, 3, 3, generator=generator, dtype=torch.float64).to(dtype)
    return weight.contiguous(memory_format=LAYOUTS[layout]).requires_grad_()


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(("transposed", "layout", "channels_last"), CASES)
def test_values_layout_and_derivatives(transposed, layout, channels_last):
    weight = _weight(layout)
    result = fold_product.folded(weight, transposed, channels_last, weight.dtype)
    expected = fold_product._by_definition(weight, transposed, channels_last)
    torch.testing.assert_close(result, expected)
    assert result.stride() == expected.stride()
    cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
    gradients = [torch.autograd.grad(y, weight, cotangent)[0] for y in (result, expected)]
    torch.testing.assert_close(*gradients)
    if channels_last:
        assert gradients[0].is_contiguous(memory_format=LAYOUTS[layout])

    def fold(w: torch.Tensor) -> torch.Tensor:
        # Not linear, so that there is a second derivative.
        return fold_product.folded(w.sin(), transposed, channels_last, w.dtype)

    assert torch.autograd.gradcheck(fold, (weight,))
    assert torch.autograd.gradgradcheck(fold, (weight,))


@pytest.mark.usefixtures("parts")
@pytest.mark.parametrize(("transposed", "layout", "channels_last"), CASES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_half_types_are_rounded_once(transposed, layout, channels_last, half):
    weight = _weight(layout, torch.float32)
    whole = fold_product.folded(weight, transposed, channels_last, torch.float32)
    rounded = fold_product.folded(weight, transposed, channels_last, half)
    assert rounded.dtype == half
    assert torch.equal(rounded, whole.to(half))
    cotangent = torch.randn(rounded.shape, generator=torch.Generator().manual_seed(1)).to(half)
    (gradient,) = torch.autograd.grad(rounded, weight, cotangent)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, torch.autograd.grad(whole, weight, cotangent.float())[0])

    narrow = weight.detach().to(half).requires_grad_()
    result = fold_product.folded(narrow, transposed, channels_last, half)
    assert torch.equal(result, fold_product.folded(narrow.float(), transposed, channels_last, half))
    (gradient,) = torch.autograd.grad(result, narrow, cotangent)
    assert gradient.dtype == half


def test_transforms_of_torch_func():
    weights = torch.stack([_weight("channels_last").detach() for _ in range(3)])

    def total(w: torch.Tensor) -> torch.Tensor:
        return fold_product.folded(w, True, True, w.dtype).pow(3).sum()

    found = torch.func.vmap(torch.func.grad(total))(weights)
    for gradient, w in zip(found, weights, strict=True):
        w = w.clone().requires_grad_()
        torch.testing.assert_close(gradient, torch.autograd.grad(total(w), w)[0])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_under_autocast_a_kernel_is_summed_in_float32(layout):
    """In bfloat16 each of up to four taps would have been rounded before they are added."""
    weight = _weight(layout, torch.float32)
    x = torch.ones(1, 5, 4, 4).contiguous(memory_format=LAYOUTS[layout])
    seen = []

    def convolution(x, weight, *args, **kwargs):
        seen.append(weight)
        return torch.zeros(1)

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        patch.setattr("torch.nn.functional.conv_transpose2d", convolution)
        upsample_conv2d(x, weight, form="folded")
    exact = fold_product.folded(weight.double(), True, layout == "channels_last", torch.float64)
    assert torch.equal(seen[0], exact.to(torch.bfloat16))
