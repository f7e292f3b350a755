"""The Inception Score against its closed forms, a loop, and torchmetrics."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfuse.engine.metrics import inception_score


def test_certain_and_even_is_the_number_of_classes():
    found = inception_score(torch.eye(5).repeat(20, 1))
    assert found.mean == pytest.approx(5.0, rel=1e-12)
    assert found.std == pytest.approx(0.0, abs=1e-12)


def test_all_alike_is_one_however_certain():
    assert inception_score(torch.tensor([[1.0, 0.0, 0.0]]).repeat(30, 1)).mean == pytest.approx(1.0, rel=1e-12)
    assert inception_score(torch.tensor([[0.2, 0.5, 0.3]]).repeat(30, 1)).mean == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("splits", [1, 3])
def test_against_a_loop(splits):
    chances = torch.randn(32, 4).double().softmax(1)
    scores = []
    for part in chances.tensor_split(splits):
        rows = part.tolist()
        marginal = [sum(column) / len(rows) for column in zip(*rows)]
        divergences = [sum(p * math.log(p / q) for p, q in zip(row, marginal)) for row in rows]
        scores.append(math.exp(sum(divergences) / len(rows)))
    mean = sum(scores) / splits
    found = inception_score(chances, splits=splits)
    assert found.mean == pytest.approx(mean, rel=1e-12)
    assert found.std == pytest.approx(math.sqrt(sum((s - mean) ** 2 for s in scores) / splits), abs=1e-12)


def test_against_torchmetrics():
    inception = pytest.importorskip("torchmetrics.image.inception")
    # With one split its shuffling changes nothing.
    metric = inception.InceptionScore(feature=nn.Identity(), splits=1)
    logits = torch.randn(50, 6)
    metric.update(logits)
    assert inception_score(F.softmax(logits, 1), splits=1).mean == pytest.approx(metric.compute()[0].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("probabilities", "splits", "message"),
    [
        (torch.rand(20), 10, r"probabilities: expected float \(N, K\)"),
        (torch.rand(20, 3) + 1, 10, "probabilities: expected rows of values from 0 to 1 that sum to 1"),
        (torch.tensor([[1.5, -0.5]] * 10), 10, "probabilities: expected rows"),
        (torch.full((10, 2), torch.nan), 10, "probabilities: expected rows"),
        (torch.full((4, 2), 0.5), 10, "splits: expected at most the number of images, 4, got 10"),
        (torch.full((4, 2), 0.5), 0, "splits: expected a positive whole number, got 0"),
    ],
)
def test_errors(probabilities, splits, message):
    with pytest.raises(ValueError, match=message):
        inception_score(probabilities, splits=splits)
