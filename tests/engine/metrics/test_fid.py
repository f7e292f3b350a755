"""The Fréchet distance against closed forms, other computations of it, and torchmetrics."""

import logging

import pytest
import torch
from torch import nn

from ganfuse.engine.metrics import frechet_distance
from ganfuse.engine.metrics.fid import Moments, feature_moments, frechet_distance_of_moments


def random_covariance(size: int, rank: int | None = None) -> torch.Tensor:
    factor = torch.randn(size, rank or size, dtype=torch.float64)
    return factor @ factor.t() / size


def of(mean: torch.Tensor, covariance: torch.Tensor) -> Moments:
    return Moments(mean.double(), covariance.double(), 0)


def test_two_gaussians_with_independent_features():
    means, variances = torch.randn(2, 7).double(), torch.rand(2, 7).double() * 3
    expected = (means[0] - means[1]).square().sum() + (variances[0].sqrt() - variances[1].sqrt()).square().sum()
    found = frechet_distance_of_moments(of(means[0], variances[0].diag()), of(means[1], variances[1].diag()))
    assert found == pytest.approx(expected.item(), rel=1e-12)


def test_covariances_that_do_not_commute_against_the_eigenvalues_of_their_product():
    a, b, mean = random_covariance(12), random_covariance(12), torch.zeros(12)
    root_trace = torch.linalg.eigvals(a @ b).sqrt().real.sum()
    expected = a.trace() + b.trace() - 2 * root_trace
    assert frechet_distance_of_moments(of(mean, a), of(mean, b)) == pytest.approx(expected.item(), rel=1e-9)


def test_covariances_without_full_rank_in_orthogonal_directions():
    a, b = torch.zeros(6, 6), torch.zeros(6, 6)
    a[0, 0], b[1, 1] = 4.0, 9.0
    # Nothing overlaps, so that both traces remain; and nothing is left where they are the same.
    assert frechet_distance_of_moments(of(torch.zeros(6), a), of(torch.zeros(6), b)) == pytest.approx(13.0, rel=1e-14)
    assert frechet_distance_of_moments(of(torch.zeros(6), a), of(torch.zeros(6), a)) == 0.0
    nothing = of(torch.zeros(6), torch.zeros(6, 6))
    assert frechet_distance_of_moments(nothing, of(torch.ones(6), b)) == pytest.approx(15.0, rel=1e-14)


@pytest.mark.parametrize(("count", "size"), [(500, 8), (20, 64)])
def test_a_shifted_set_is_as_far_as_it_was_shifted(count, size):
    features = torch.randn(count, size, dtype=torch.float64)
    shift = torch.randn(size, dtype=torch.float64)
    assert frechet_distance(features, features) == pytest.approx(0.0, abs=1e-10)
    assert frechet_distance(features, features + shift) == pytest.approx(shift.square().sum().item(), rel=1e-10)


def test_moments_of_float32_features_far_from_zero(monkeypatch):
    features = torch.randn(300, 5) + 1000.0
    found = feature_moments(features)
    torch.testing.assert_close(found.mean, features.double().mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(found.covariance, torch.cov(features.double().t()), rtol=1e-9, atol=1e-12)
    monkeypatch.setattr("ganfuse.engine.metrics.fid._CHUNK", 7)
    torch.testing.assert_close(feature_moments(features).covariance, found.covariance, rtol=1e-10, atol=1e-13)


def test_against_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Features(nn.Module):
        num_features = 16

        def forward(self, x):
            return x

    metric = fid.FrechetInceptionDistance(feature=Features())
    real, fake = torch.randn(400, 16), torch.randn(300, 16) * 1.3 + 0.2
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert frechet_distance(real, fake) == pytest.approx(metric.compute().item(), rel=1e-4)


def test_few_images_are_warned_about(caplog):
    with caplog.at_level(logging.WARNING, logger="ganfuse"):
        frechet_distance(torch.randn(50, 10), torch.randn(50, 10))
        assert not caplog.records
        frechet_distance(torch.randn(50, 10), torch.randn(49, 10))
    assert "10 features from 49 images is biased upwards; take at least 50" in caplog.text


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.randn(5), torch.randn(5, 2), r"real: expected float features \(N, D\), got torch.float32 \(5,\)"),
        (torch.ones(5, 2).long(), torch.randn(5, 2), "real: expected float features .*, got torch.int64"),
        (torch.randn(5, 2), torch.randn(1, 2), "fake: expected features of at least 2 images, got 1"),
        (torch.randn(5, 2), torch.randn(5, 3), "fake: expected features of size 2 like the real ones, got 3"),
        (torch.randn(5, 2), torch.full((5, 2), torch.nan), "fake: the features hold NaN"),
    ],
)
def test_errors(real, fake, message):
    with pytest.raises(ValueError, match=message):
        frechet_distance(real, fake)
