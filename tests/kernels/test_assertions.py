import pytest
import torch

from tests.kernels.assertions import assert_as_accurate

EXACT = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)


def test_takes_twice_the_error_and_not_more():
    plain = (EXACT + 0.01).float()
    assert_as_accurate((EXACT - 0.019).float(), plain, EXACT)
    with pytest.raises(AssertionError, match=r"mean error 0\.021, allowed 0\.02, plain PyTorch's is 0\.01"):
        assert_as_accurate((EXACT - 0.021).float(), plain, EXACT)


def test_one_wrong_element_does_not_hide_in_the_mean():
    exact = torch.ones(1000, 10, dtype=torch.float64)
    plain = (exact + 0.01).float()
    actual = plain.clone()
    actual[777, 7] += 0.04
    with pytest.raises(
        AssertionError, match=r"largest error 0\.05, allowed 0\.04.*worst at \(777, 7\): got 1\.05, exact 1"
    ):
        assert_as_accurate(actual, plain, exact)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_never_passes(bad):
    actual = EXACT.float()
    actual[0, 1] = bad
    for plain in (EXACT.float(), actual):
        with pytest.raises(AssertionError, match=r"worst at \(0, 1\): got"):
            assert_as_accurate(actual, plain, EXACT)


def test_a_broken_yardstick_measures_nothing():
    plain = torch.full_like(EXACT, float("nan")).float()
    with pytest.raises(AssertionError):
        assert_as_accurate((EXACT + 0.1).float(), plain, EXACT)
    with pytest.raises(AssertionError, match="not finite"):
        assert_as_accurate(plain, plain, plain.double())


def test_shapes_and_types_must_agree():
    with pytest.raises(AssertionError, match="shape"):
        assert_as_accurate(EXACT[0].float(), EXACT.float(), EXACT)
    with pytest.raises(AssertionError, match="type"):
        assert_as_accurate(EXACT, EXACT.float(), EXACT)
