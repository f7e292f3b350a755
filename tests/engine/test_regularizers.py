"""Penalties against their formulas in float64, with closed-form gradients."""

import math

import pytest
import torch
from torch import nn

from ganfuse.engine import precision, regularizers

torch.manual_seed(0)
X = torch.randn(4, 2, 3, 3, dtype=torch.float64)
FAKE = torch.randn(4, 2, 3, 3, dtype=torch.float64)
A = torch.randn(18, 18, dtype=torch.float64)


def quadratic(images):
    """½ xᵀ S x with S = A + Aᵀ: its gradient is S x."""
    flat = images.flatten(1)
    return 0.5 * torch.einsum("bi,ij,bj->b", flat, A + A.T, flat)


def slopes(images):
    return images.flatten(1) @ (A + A.T)


def test_r1():
    images = X.clone().requires_grad_()
    expected = 0.5 * slopes(X).square().sum(1).mean()
    torch.testing.assert_close(regularizers.r1_penalty(quadratic(images), images), expected)


def test_r1_is_differentiated_through_to_the_weights():
    weight = torch.randn(18, dtype=torch.float64, requires_grad=True)
    images = X.clone().requires_grad_()
    penalty = regularizers.r1_penalty((images.flatten(1) * weight).sum(1) ** 2, images)
    scores = (X.flatten(1) * weight).sum(1)
    expected = 0.5 * (4 * scores.square() * weight.square().sum()).mean()
    torch.testing.assert_close(penalty, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, weight)[0] for value in (penalty, expected)))


@pytest.mark.parametrize("target", [1.0, 750.0])
def test_wgan_gp(target):
    mix = torch.rand(4, 1, 1, 1, dtype=torch.float64)
    norms = slopes((1 - mix) * X + mix * FAKE).norm(dim=1)
    expected = ((norms / target - 1) ** 2).mean()
    torch.testing.assert_close(regularizers.wgan_gp_penalty(quadratic, X, FAKE, mix, target=target), expected)


def test_wgan_gp_of_a_constant_critic_is_finite():
    weight = torch.zeros(18, dtype=torch.float64, requires_grad=True)
    penalty = regularizers.wgan_gp_penalty(lambda x: x.flatten(1) @ weight, X, FAKE, torch.rand(4, 1, 1, 1))
    assert penalty.item() == pytest.approx(1.0)
    assert torch.autograd.grad(penalty, weight)[0].isfinite().all()


def test_dragan():
    mix, uniform = torch.rand(4, 1, 1, 1, dtype=torch.float64), torch.rand_like(X)
    near = X + mix * 0.5 * X.std(correction=0) * uniform
    expected = ((slopes(near).norm(dim=1) - 1) ** 2).mean()
    torch.testing.assert_close(regularizers.dragan_penalty(quadratic, X, uniform, mix), expected)


def test_path_length():
    """G(w) = Σ over layers of M_l w_l: JᵀY for layer l is M_lᵀ y."""
    styles = torch.randn(3, 2, 5, dtype=torch.float64, requires_grad=True)
    mixing = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    images = torch.einsum("bld,ldp->bp", styles, mixing).view(3, 2, 2, 2)
    noise, mean = torch.randn(3, 2, 2, 2, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    y = noise.flatten(1) / 2.0
    lengths = torch.einsum("ldp,bp->bld", mixing, y).square().sum(2).mean(1).sqrt()
    penalty, length = regularizers.path_length(images, styles, noise, mean)
    torch.testing.assert_close(penalty, ((lengths - mean) ** 2).mean())
    torch.testing.assert_close(length, lengths.mean().detach())
    expected = torch.autograd.grad(((lengths - mean) ** 2).mean(), mixing)[0]
    torch.testing.assert_close(torch.autograd.grad(penalty, mixing)[0], expected)


def test_drift_and_consistency():
    assert float(regularizers.drift(torch.tensor([1.0, -3.0]))) == 5.0
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])
    assert float(regularizers.consistency(first, second)) == 2.5


def test_cutmix_masks_hold_the_ratio_where_the_box_fits():
    ratio = torch.tensor([0.75, 0.0, 1.0, 0.5])
    centre = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.2, 0.7], [0.0, 1.0]])
    masks = regularizers.cutmix_mask(ratio, centre, 32, 64)
    assert masks.shape == (4, 1, 32, 64)
    assert masks.unique().tolist() == [0.0, 1.0]
    assert float(masks[0].mean()) == 0.75
    assert float(masks[1].sum()) == 0.0
    assert float(masks[2].mean()) == 1.0
    # A quarter of a box of half the area lies inside, in the corner.
    side = math.sqrt(0.5)
    assert float(1 - masks[3].mean()) == pytest.approx(side * side / 4, abs=0.02)
    assert float(masks[3, 0, 0, -1]) == 0.0


def test_scaled_gradients_are_scaled_back():
    images = X.float().requires_grad_()
    layer = nn.Linear(18, 1)
    plain = regularizers.r1_penalty(layer(images.flatten(1)), images)
    scaled = precision.Precision("fp16", torch.device("cpu"))
    with scaled.penalties(scaled.scaler("d")):
        assert precision.penalty_scale() == 65536.0
        torch.testing.assert_close(regularizers.r1_penalty(layer(images.flatten(1)), images), plain)
    assert precision.penalty_scale() == 1.0


def test_tiny_gradients_survive_float16():
    """A slope of 1e-8 is zero in float16, unless it is scaled up on its way."""

    class HalfSlope(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1e-4

        @staticmethod
        def backward(ctx, grad):
            return (grad.half() * 1e-4).float()

    images = torch.ones(2, 4, requires_grad=True)
    value = HalfSlope.apply(images) * 1e-4
    assert float(regularizers.input_gradient(value, [images])[0].abs().max()) == 0.0
    scaling = precision.Precision("fp16", torch.device("cpu"))
    with scaling.penalties(scaling.scaler("d")):
        found = regularizers.input_gradient(HalfSlope.apply(images) * 1e-4, [images])[0]
    assert float(found.abs().max()) == pytest.approx(1e-8, rel=0.01)


def test_a_penalty_that_would_do_nothing_is_an_error():
    images = X.clone().requires_grad_()
    with pytest.raises(ValueError, match="do not require grad"):
        regularizers.r1_penalty(quadratic(images.detach()), images)
    with pytest.raises(ValueError, match="do not depend on one of them"):
        regularizers.r1_penalty((FAKE.clone().requires_grad_() * 2).flatten(1).sum(1), images)
