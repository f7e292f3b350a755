import pytest
import torch

from ganfuse.engine.layers import MinibatchDiscrimination, minibatch_discrimination
from ganfuse.engine.layers.minibatch_discrimination import pairwise_l1

F64 = torch.float64


@pytest.fixture(params=["one chunk", "chunks of two rows"], autouse=True)
def chunks(request, monkeypatch):
    if request.param != "one chunk":
        monkeypatch.setattr(minibatch_discrimination, "_CHUNK", 2 * 3 * 5 * 4)


def plain(points):
    return (points[:, :, None] - points[:, None]).abs().sum(3)


def test_distances_and_all_their_derivatives_are_those_of_the_formula():
    points = torch.randn(3, 5, 4, dtype=F64, requires_grad=True)
    weights = torch.randn(3, 5, 5, dtype=F64, requires_grad=True)
    direction = torch.randn(3, 5, 4, dtype=F64, requires_grad=True)
    results = []
    for distances in (pairwise_l1, plain):
        d = distances(points)
        (first,) = torch.autograd.grad((torch.exp(-d) * weights).sum(), points, create_graph=True)
        second = torch.autograd.grad((first * direction).sum(), [points, weights, direction], create_graph=True)
        third = torch.autograd.grad(sum(g.square().sum() for g in second), [points, weights, direction])
        results.append([d, first, *second, *third])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_gradients_by_finite_differences():
    points = torch.randn(3, 5, 4, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(pairwise_l1, points)
    assert torch.autograd.gradgradcheck(lambda p: torch.exp(-pairwise_l1(p)), points)


def test_layer_appends_closeness_to_the_others():
    layer = MinibatchDiscrimination(6, num_kernels=3, kernel_dim=4).double()
    x = torch.randn(5, 6, dtype=F64)
    y = layer(x)
    assert y.shape == (5, 9)
    assert layer.out_features == 9
    assert torch.equal(y[:, :6], x)
    m = (x @ layer.weight).view(5, 3, 4)
    for i in range(5):
        for b in range(3):
            expected = sum(torch.exp(-(m[i, b] - m[j, b]).abs().sum()) for j in range(5) if j != i)
            torch.testing.assert_close(y[i, 6 + b], expected)


def test_equal_samples_are_told_from_different_ones():
    layer = MinibatchDiscrimination(6, num_kernels=3)
    x = 5 * torch.randn(5, 6)
    assert torch.allclose(layer(x[:1].expand(5, 6))[:, 6:], torch.tensor(4.0))
    assert layer(x)[:, 6:].mean() < 1
    assert layer(x[:1])[:, 6:].abs().max() == 0
    assert layer(x[:0]).shape == (0, 9)


def test_half_precision_keeps_its_type():
    layer = MinibatchDiscrimination(6, num_kernels=3).bfloat16()
    x = torch.randn(5, 6).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    torch.testing.assert_close(layer(x).float(), layer.float()(x.float()), rtol=0.05, atol=0.05)


def test_refuses_wrong_sizes():
    with pytest.raises(ValueError, match="num_kernels must be at least 1, got 0"):
        MinibatchDiscrimination(6, num_kernels=0)
    with pytest.raises(ValueError, match=r"x: expected \(B, 6\), got \(5, 7\)"):
        MinibatchDiscrimination(6)(torch.zeros(5, 7))
