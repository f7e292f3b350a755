"""Precision, recall, density and coverage against their definitions in loops, and on sets whose values are known."""

import pytest
import torch

from ganfuse.engine.metrics import density_coverage, precision_recall


def by_loops(real: torch.Tensor, fake: torch.Tensor, k: int) -> dict[str, float]:
    def distance(x, y):
        return (x - y).square().sum().sqrt().item()

    def radii(points):
        return [sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]

    real_radii, fake_radii = radii(real), radii(fake)
    hits = [[distance(x, y) <= r for x, r in zip(real, real_radii)] for y in fake]
    caught = [[distance(x, y) <= r for y, r in zip(fake, fake_radii)] for x in real]
    return {
        "precision": sum(any(row) for row in hits) / len(fake),
        "recall": sum(any(row) for row in caught) / len(real),
        "density": sum(sum(row) for row in hits) / (k * len(fake)),
        "coverage": sum(any(column) for column in zip(*hits)) / len(real),
    }


@pytest.mark.parametrize("chunk_size", [1, 7, 1000])
@pytest.mark.parametrize("k", [1, 3])
def test_against_loops(k, chunk_size):
    # Far from the origin, where distances from squares lose digits unless the features are centred.
    real = torch.randn(20, 3).double() + 1e4
    fake = torch.randn(15, 3).double() * 1.5 + 1e4
    expected = by_loops(real, fake, k)
    first = precision_recall(real, fake, k=k, chunk_size=chunk_size)
    second = density_coverage(real, fake, k=k, chunk_size=chunk_size)
    found = {**first._asdict(), **second._asdict()}
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 < expected["precision"] < 1
    assert 0 < expected["recall"] < 1


def test_one_distribution_twice():
    real, fake = torch.randn(1500, 2), torch.randn(1500, 2)
    found = density_coverage(real, fake, k=5)
    assert found.density == pytest.approx(1.0, abs=0.06)
    # A ball holds none of the others with probability 2^-k.
    assert found.coverage == pytest.approx(1 - 2**-5, abs=0.02)
    assert min(precision_recall(real, fake)) > 0.9


def test_sets_apart_from_each_other_and_dropped_modes():
    real = torch.cat([torch.randn(100, 4), torch.randn(100, 4) + 50])
    assert precision_recall(real, torch.randn(80, 4) - 50) == (0, 0)
    assert density_coverage(real, torch.randn(80, 4) - 50) == (0, 0)
    one_mode = torch.randn(200, 4)
    found = precision_recall(real, one_mode)
    assert found.precision > 0.8
    assert 0.4 < found.recall <= 0.5
    assert density_coverage(real, one_mode).coverage <= 0.5


def test_one_outlier_blows_up_precision_but_not_density():
    # The example of Naeem et al., section 3: a ball around a real outlier that takes in far generated images.
    real = torch.cat([torch.randn(100, 4), torch.full((1, 4), 40.0)])
    fake = torch.randn(100, 4) + 10
    assert precision_recall(real, fake).precision == 1.0
    assert density_coverage(real, fake).density < 0.3


def test_errors():
    with pytest.raises(ValueError, match="k: expected fewer than the images of each set, 4 and 3, got 3"):
        precision_recall(torch.randn(4, 2), torch.randn(3, 2), k=3)
    with pytest.raises(ValueError, match="k: expected a positive whole number, got 0"):
        density_coverage(torch.randn(4, 2), torch.randn(4, 2), k=0)
    with pytest.raises(ValueError, match="fake: expected features of size 2"):
        density_coverage(torch.randn(9, 2), torch.randn(9, 3))
