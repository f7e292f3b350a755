"""Both forms against sums over pixels and taps: values, gradients of every order, layouts, types, sizes."""

import functools
import runpy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ganfuse.kernels import conv2d_downsample, fold_downsample_weight, fold_upsample_weight, upsample_conv2d
from ganfuse.kernels.resampled_conv2d import fold, fold_product
from tests.kernels.derivative_checks import chain, check, derivatives
from tests.kernels.resampled_conv2d.definitions import FUNCTIONS, definition, inputs

CL = torch.channels_last


def _close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("form", ["plain", "folded"])
@pytest.mark.parametrize("bias", [True, False])
def test_definition_to_second_order(name, size, padding_mode, form, bias):
    tensors = inputs(size=size, bias=bias)[: 2 + bias]
    options = {} if bias else {"bias": None}
    op = functools.partial(FUNCTIONS[name], padding_mode=padding_mode, form=form)
    exact = functools.partial(definition, name, padding_mode=padding_mode, **options)
    for (label, a), (_, e) in zip(derivatives(op, tensors), derivatives(exact, tensors), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10, msg=lambda m, label=label: f"{label}: {m}")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_third_order(name):
    tensors = inputs((1, 2, 2, 3), 2)
    op = functools.partial(FUNCTIONS[name], form="folded")
    for a, e in zip(chain(op, tensors, 3), chain(functools.partial(definition, name), tensors, 3), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=["nchw", "channels_last"])
def test_gradcheck(name, padding_mode, layout):
    x, weight, bias = inputs((2, 2, 3, 2), 2)
    x, weight = (t.detach().to(memory_format=layout).requires_grad_() for t in (x, weight))
    op = functools.partial(FUNCTIONS[name], padding_mode=padding_mode, form="folded")
    assert torch.autograd.gradcheck(op, (x, weight, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(op, (x, weight, bias), fast_mode=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(FUNCTIONS)),
    batch=st.integers(0, 3),
    channels=st.integers(1, 5),
    out_channels=st.integers(1, 5),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    size=st.sampled_from([1, 3]),
    padding_mode=st.sampled_from(["zeros", "reflect"]),
    bias=st.booleans(),
    layouts=st.tuples(st.booleans(), st.booleans()),
)
def test_any_shape(name, batch, channels, out_channels, height, width, size, padding_mode, bias, layouts):
    if name == "down":
        height, width = height + 1, width + 1
    x, weight, b = inputs((batch, channels, height, width), out_channels, size, bias)
    x, weight = (
        t.detach().to(memory_format=CL if last else torch.contiguous_format).requires_grad_()
        for t, last in zip((x, weight), layouts)
    )
    run = functools.partial(FUNCTIONS[name], x, weight, b, padding_mode=padding_mode)
    results = [run(form="plain"), run(form="folded"), run()]
    leaves = [t for t in (x, weight, b) if t is not None]
    expected = None
    for y in results:
        gradients = torch.autograd.grad(y.sin().sum(), leaves)
        expected = expected or (y, gradients)
        _close(y, expected[0])
        for a, e in zip(gradients, expected[1]):
            _close(a, e)
    if batch:
        _close(results[1], definition(name, x, weight, b, padding_mode))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
@pytest.mark.parametrize("form", ["plain", "folded"])
def test_layouts(name, size, padding_mode, form):
    """As with F.conv2d: channels_last where x or the weight is."""
    x, weight, bias = inputs((2, 4, 6, 4), 6, size, dtype=torch.float32)
    for first, second in ((False, False), (True, False), (False, True), (True, True)):
        a, w = (
            t.detach().to(memory_format=CL if last else torch.contiguous_format)
            for t, last in ((x, first), (weight, second))
        )
        like = F.conv2d(a, w, padding=size // 2)
        y = FUNCTIONS[name](a, w, bias, padding_mode=padding_mode, form=form)
        format = CL if like.is_contiguous(memory_format=CL) else torch.contiguous_format
        assert y.is_contiguous(memory_format=format), (first, second)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=["nchw", "channels_last"])
def test_as_accurate_as_the_definition(name, dtype, layout):
    tensors = [t.to(dtype).detach().to(memory_format=layout).requires_grad_() for t in inputs((4, 16, 8, 8), 16)[:2]]
    order = 1 if dtype == torch.float16 else 2
    check(
        functools.partial(FUNCTIONS[name], form="folded"),
        functools.partial(FUNCTIONS[name], form="plain"),
        tensors,
        order,
    )


@pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect"])
def test_weights_folded_ahead(layout, padding_mode):
    x, weight, bias = inputs()
    weight = weight.detach().to(memory_format=layout).requires_grad_()
    for run, folding in ((upsample_conv2d, fold_upsample_weight), (conv2d_downsample, fold_downsample_weight)):
        folded = folding(weight)
        assert folded.shape[2:] == (4, 4)
        assert folded.is_contiguous(memory_format=layout)
        results = [run(x, w, bias, padding_mode=padding_mode) for w in (weight, folded)]
        assert torch.equal(*results) or torch.allclose(*results, rtol=1e-12, atol=1e-12)
        gradients = [torch.autograd.grad(y.sin().sum(), weight)[0] for y in results]
        _close(*gradients)
        with pytest.raises(ValueError, match="form='plain' needs the weight itself"):
            run(x, folded, bias, form="plain")


def test_a_fold_is_the_pooled_kernel():
    weight = inputs()[1]
    _close(fold_downsample_weight(weight), F.avg_pool2d(weight, 2, stride=1, padding=1))
    flipped = F.avg_pool2d(weight.flip(2, 3), 2, stride=1, padding=1).transpose(0, 1)
    _close(fold_upsample_weight(weight), 4 * flipped)


@pytest.mark.parametrize("layout", [torch.contiguous_format, CL], ids=["nchw", "channels_last"])
def test_the_fold_of_other_devices(layout):
    weight = inputs()[1].detach().to(memory_format=layout)
    _close(fold._pooled(weight), fold_downsample_weight(weight))
    for channels_last in (False, True):
        pooled = fold._pooled_and_flipped(weight, channels_last)
        _close(pooled, fold_upsample_weight(weight, channels_last=channels_last))
    # Tensors without memory are of no CPU.
    assert fold_downsample_weight(weight.to("meta")).shape == (4, 3, 4, 4)
    assert fold_upsample_weight(weight.to("meta")).shape == (3, 4, 4, 4)


def test_imported_in_inference_mode_and_under_a_default_device():
    with torch.inference_mode(), torch.device("meta"):
        module = runpy.run_path(fold_product.__file__)
    weight = torch.ones(1, 1, 3, 3, requires_grad=True)
    for channels_last in (False, True):
        weight.grad = None
        module["folded"](weight, True, channels_last, torch.float32).sum().backward()
        assert weight.grad.sum() == 36
