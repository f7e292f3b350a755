"""The kernel distance against sums written out, and torchmetrics."""

import pytest
import torch

from ganfuse.engine.metrics import kernel_distance
from ganfuse.engine.metrics.kid import squared_mmd


def by_loops(real: torch.Tensor, fake: torch.Tensor) -> float:
    def kernel(x, y):
        return (sum(a * b for a, b in zip(x, y)) / len(x) + 1) ** 3

    x, y = real.tolist(), fake.tolist()
    same = [
        sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
        for s in (x, y)
    ]
    return sum(same) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


@pytest.mark.parametrize("chunk_size", [1, 4, 1000])
def test_squared_mmd_is_the_sum_over_pairs(chunk_size):
    real, fake = torch.randn(9, 3).double(), torch.randn(6, 3).double() * 2 + 1
    assert squared_mmd(real, fake, chunk_size=chunk_size) == pytest.approx(by_loops(real, fake), rel=1e-11)


def test_one_distribution_gives_zero_on_average_and_another_does_not():
    # Unbiased: pairs of independent samples average to 0, where the biased estimate would average to about 3/n.
    values = torch.tensor([squared_mmd(torch.randn(20, 4), torch.randn(20, 4)) for _ in range(400)])
    assert abs(values.mean()) < 4 * values.std() / 20
    assert kernel_distance(torch.randn(200, 4), torch.randn(200, 4) + 1, subsets=4, subset_size=100).mean > 1


def test_all_images_in_each_subset_leave_no_spread():
    real, fake = torch.randn(40, 4), torch.randn(40, 4)
    found = kernel_distance(real, fake, subsets=3, subset_size=40)
    assert found.mean == pytest.approx(squared_mmd(real, fake), rel=1e-9)
    assert found.std == pytest.approx(0.0, abs=1e-12)


def test_fewer_images_than_a_subset_are_halved():
    real, fake = torch.randn(41, 4), torch.randn(50, 4)
    found = kernel_distance(real, fake, subsets=3)
    assert found == kernel_distance(real, fake, subsets=3, subset_size=20)
    assert found.std > 0
    assert kernel_distance(real[:2], fake[:2], subsets=3).std == pytest.approx(0.0, abs=1e-12)


def test_the_seed_chooses_the_subsets():
    real, fake = torch.randn(60, 4), torch.randn(80, 4)
    torch.manual_seed(1)
    first = kernel_distance(real, fake, subsets=5, subset_size=20, seed=3)
    torch.manual_seed(2)
    assert kernel_distance(real, fake, subsets=5, subset_size=20, seed=3) == first
    assert kernel_distance(real, fake, subsets=5, subset_size=20, seed=4) != first
    assert first.std > 0


def test_against_torchmetrics():
    kid = pytest.importorskip("torchmetrics.image.kid")
    real, fake = torch.randn(30, 8).double(), torch.randn(30, 8).double() + 0.5
    assert squared_mmd(real, fake) == pytest.approx(kid.poly_mmd(real, fake).item(), rel=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": 0}, "subsets: expected a positive whole number, got 0"),
        ({"subset_size": 1}, "subset_size: expected at least 2, got 1"),
        ({"subset_size": 2.5}, "subset_size: expected a positive whole number"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        kernel_distance(torch.randn(5, 2), torch.randn(5, 2), **options)
