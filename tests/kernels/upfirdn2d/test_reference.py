"""The definition against loops over pixels and taps, and the functions built on it against what they promise."""

import pytest
import torch

from ganfuse.kernels import downsample2d, filter2d, setup_filter, upfirdn2d, upsample2d, use_backend
from tests.kernels.upfirdn2d import loops


@pytest.fixture(autouse=True)
def _reference():
    with use_backend("reference"):
        yield


def _numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize(
    ("up", "down", "padding", "rows", "columns", "flip", "gain"),
    [
        ((1, 1), (1, 1), (0, 0, 0, 0), 1, 1, False, 1.0),
        ((1, 1), (1, 1), (1, 2, 0, 3), 3, 4, False, 1.0),
        ((2, 1), (1, 3), (2, 1, 1, 1), 4, 2, False, 2.5),
        ((1, 2), (2, 1), (-1, 2, 3, -2), 2, 5, True, -1.0),
        ((3, 2), (2, 3), (-2, -1, -3, 4), 3, 3, False, 0.5),
        ((2, 2), (2, 2), (5, -4, 0, 7), 6, 5, True, 1.0),
        ((2, 3), (1, 2), (-7, 9, -5, 5), 2, 3, True, 1.0),
    ],
)
def test_loops(up, down, padding, rows, columns, flip, gain):
    x = _numbers(2, 3, 5, 4)
    f = _numbers(rows, columns).float()
    expected = loops.upfirdn2d(x, f, up, down, padding, flip, gain)
    actual = upfirdn2d(x, f, up, down, padding, flip_filter=flip, gain=gain)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_arguments_in_short():
    x, f = _numbers(1, 2, 5, 6), _numbers(3, 2).float()

    def same(short, long):
        assert torch.equal(short, long)

    same(upfirdn2d(x, f, 2, 3, 1), upfirdn2d(x, f, [2, 2], [3, 3], [1, 1, 1, 1]))
    same(upfirdn2d(x, f, padding=[1, 3]), upfirdn2d(x, f, padding=[1, 1, 3, 3]))
    same(upfirdn2d(x, None, 2, gain=3), upfirdn2d(x, torch.ones(1, 1), 2) * 3)


@pytest.mark.parametrize("taps", [1, 2, 5])
def test_filters_of_one_dimension_run_along_both_axes(taps):
    x, f = _numbers(1, 2, 5, 6), _numbers(taps).float()
    for flip in (False, True):
        actual = upfirdn2d(x, f, [2, 1], [1, 2], [2, 1, 3, 3], flip_filter=flip, gain=3.0)
        product = torch.outer(f, f)
        torch.testing.assert_close(
            actual, upfirdn2d(x, product, [2, 1], [1, 2], [2, 1, 3, 3], flip, 3.0), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_types_and_layouts(dtype, format):
    x = _numbers(2, 3, 6, 7).to(dtype).to(memory_format=format)
    f = _numbers(3, 3).float()
    y = upfirdn2d(x, f, 2, 1, 1)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=format)
    expected = loops.upfirdn2d(x, f, (2, 2), (1, 1), (1,) * 4, False, 1.0)
    # Rounded once, at the end.
    tolerance = 2 * torch.finfo(torch.float32 if dtype.itemsize == 2 else dtype).eps
    torch.testing.assert_close(y, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=8 * tolerance)


def test_empty_batch():
    x = torch.randn(0, 3, 4, 4, requires_grad=True)
    y = upsample2d(x, setup_filter([1, 3, 3, 1]))
    assert y.shape == (0, 3, 8, 8)
    assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_autocast_changes_nothing():
    x, f = torch.randn(1, 2, 5, 5), setup_filter([1, 3, 3, 1])
    with torch.autocast("cpu", torch.bfloat16):
        y = filter2d(x, f)
    assert torch.equal(y, filter2d(x, f))


@pytest.mark.parametrize("taps", [1, 2, 3, 4, 7, 8, 12])
def test_resampling_keeps_sizes_and_constants(taps):
    f = setup_filter(torch.rand(taps) + 0.1)
    x = torch.ones(1, 1, 24, 16)
    middle = (0, 0, slice(12, -12), slice(12, -12))
    for factor in ([1, 1], [2, 2], [2, 4]):
        up = upsample2d(x, f, factor)
        assert up.shape == (1, 1, 24 * factor[1], 16 * factor[0])
        # A filter gives every phase of an upsampled constant the same value if it is a box convolved with something.
        smooth = torch.ones(factor[1], factor[0]) / (factor[0] * factor[1])
        torch.testing.assert_close(upsample2d(x, smooth, factor), torch.ones_like(up))
        down = downsample2d(x, f, factor)
        assert down.shape == (1, 1, 24 // factor[1], 16 // factor[0])
    torch.testing.assert_close(filter2d(x, f)[middle], x[middle])
    assert filter2d(x, f).shape == x.shape
    assert filter2d(x, f, padding=[1, 2, 3, -4]).shape == (1, 1, 23, 19)
    torch.testing.assert_close(filter2d(x, f, gain=3.0)[middle], 3 * x[middle])


def test_upsampling_of_a_ramp():
    """[1, 3, 3, 1] interpolates linearly: values at a quarter and three quarters between neighbours."""
    x = torch.arange(6.0).expand(1, 1, 6, 6)
    row = upsample2d(x, setup_filter([1, 3, 3, 1]))[0, 0, 5, 2:-2]
    torch.testing.assert_close(row, torch.arange(0.75, 4.5, 0.5))


class TestSetupFilter:
    def test_one_dimension_becomes_two_below_eight_taps(self):
        f = setup_filter([1, 3, 3, 1])
        torch.testing.assert_close(f, torch.outer(*[torch.tensor([1.0, 3, 3, 1])] * 2) / 64)
        assert setup_filter([1.0] * 7).shape == (7, 7)
        assert setup_filter([1.0] * 8).shape == (8,)
        assert setup_filter([1.0] * 8, separable=False).shape == (8, 8)
        assert setup_filter([1, 2], separable=True).shape == (2,)

    def test_scalars_and_none(self):
        for f in (None, 5.0, torch.tensor(3.0)):
            assert setup_filter(f).tolist() == [[1.0]]
        assert setup_filter(5.0, normalize=False).tolist() == [[25.0]]

    def test_gain_and_flip(self):
        assert setup_filter([1, 3], gain=8.0, separable=True).tolist() == pytest.approx([0.25 * 8**0.5, 0.75 * 8**0.5])
        assert setup_filter([[1, 2], [3, 4]], normalize=False, flip_filter=True, gain=2).tolist() == [[8, 6], [4, 2]]

    def test_is_a_constant_of_its_own(self):
        f = torch.tensor([[1.0]], requires_grad=True)
        g = setup_filter(f)
        assert not g.requires_grad
        g.zero_()
        assert f.item() == 1.0
        assert setup_filter([1, 2], device="meta").device.type == "meta"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (([[[1.0]]],), r"f must be a scalar, \(taps,\) or \(rows, columns\), not empty, got \(1, 1, 1\)"),
            (([],), "not empty"),
            (([1.0, -1.0],), "f must not sum to 0 where normalize is True"),
            (("wide",), "f must be numbers, got 'wide'"),
        ],
    )
    def test_errors(self, arguments, said):
        with pytest.raises(ValueError, match=said):
            setup_filter(*arguments)

    def test_errors_of_separable(self):
        with pytest.raises(ValueError, match="separable needs f of one dimension"):
            setup_filter([[1.0, 2.0]], separable=True)
        with pytest.raises(ValueError, match="gain must be at least 0 for a separable"):
            setup_filter([1.0] * 8, gain=-1)
