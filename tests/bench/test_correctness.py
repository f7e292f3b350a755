import math

import pytest
import torch

from ganfuse.bench import correctness


def test_relative_error_is_the_frobenius_one():
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert correctness.relative_error(truth + torch.tensor([0.0, 0.5]), truth) == pytest.approx(0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_never_passes(bad):
    truth = torch.ones(2)
    assert correctness.relative_error(torch.tensor([1.0, bad]), truth) == math.inf
    _, wrong = correctness.failures({"x": torch.tensor([1.0, bad])}, {"x": truth}, {"x": truth})
    assert wrong


def test_a_wrong_shape_is_wrong():
    assert correctness.relative_error(torch.ones(2, 1), torch.ones(2)) == math.inf


def test_the_bound_follows_plain_pytorch_and_its_failure_excuses_nobody():
    tight, loose = correctness.bound(0.0, torch.float32), correctness.bound(1e-3, torch.float32)
    assert 0 < tight < 3e-6 < loose < 5e-3
    assert correctness.bound(math.inf, torch.float32) == tight


def test_errors_as_large_as_plain_pytorchs_pass_and_ten_times_that_do_not():
    truth = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = truth + 1e-3 * truth.flip(0)
    for factor, passes in ((1.0, True), (10.0, False)):
        x = truth + factor * 1e-3 * truth.flip(0)
        errors, wrong = correctness.failures({"x": x}, {"x": truth}, {"x": plain})
        assert (not wrong) == passes
        assert errors["x"] == pytest.approx(factor * 1e-3, rel=1e-6)
