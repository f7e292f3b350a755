"""Adversarial losses against their formulas, written with log and sigmoid in float64."""

import math

import pytest
import torch

from ganfuse.engine.losses import LOSSES, adversarial_loss, logistic_discriminator_loss

REAL = torch.tensor([2.5, -0.3, 0.9, 1.1], dtype=torch.float64)
FAKE = torch.tensor([-1.7, 0.4, -1.2, 3.0, 0.0], dtype=torch.float64)

FORMULAS = {
    "hinge": (
        lambda r, f: (1 - r).clamp(min=0).mean() + (1 + f).clamp(min=0).mean(),
        lambda f: -f.mean(),
    ),
    "non-saturating": (
        lambda r, f: -r.sigmoid().log().mean() - (1 - f.sigmoid()).log().mean(),
        lambda f: -f.sigmoid().log().mean(),
    ),
    "minimax": (
        lambda r, f: -r.sigmoid().log().mean() - (1 - f.sigmoid()).log().mean(),
        lambda f: (1 - f.sigmoid()).log().mean(),
    ),
    "least-squares": (
        lambda r, f: 0.5 * ((r - 1) ** 2).mean() + 0.5 * (f**2).mean(),
        lambda f: 0.5 * ((f - 1) ** 2).mean(),
    ),
    "wasserstein": (lambda r, f: f.mean() - r.mean(), lambda f: -f.mean()),
}


def test_every_loss_has_a_formula_here():
    assert {*FORMULAS, "relativistic"} == set(LOSSES)


@pytest.mark.parametrize("name", FORMULAS)
def test_values_and_gradients(name):
    discriminator, generator = FORMULAS[name]
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    ours, theirs = adversarial_loss(name).discriminator(real, fake), discriminator(real, fake)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, (real, fake)), torch.autograd.grad(theirs, (real, fake)))
    ours, theirs = adversarial_loss(name).generator(fake), generator(fake)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, fake), torch.autograd.grad(theirs, fake))


def generator_loss(loss, fake):
    return loss.generator(fake, -fake) if loss.relativistic else loss.generator(fake)


def test_relativistic_losses_compare_pairs():
    loss = adversarial_loss("relativistic")
    pairs = list(zip(REAL.flatten().tolist(), FAKE.flatten().tolist()))
    real, fake = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    expected = sum(math.log1p(math.exp(f - r)) for r, f in pairs) / len(pairs)
    assert float(loss.discriminator(real, fake)) == pytest.approx(expected, rel=1e-12)
    expected = sum(math.log1p(math.exp(r - f)) for r, f in pairs) / len(pairs)
    assert float(loss.generator(fake, real)) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match=r"there must be as many; got \(2,\) and \(3,\)"):
        loss.discriminator(torch.zeros(3), torch.zeros(2))


def test_one_sided_label_smoothing():
    real, fake = REAL.double(), FAKE.double()
    sigma = torch.sigmoid(real)
    expected = -(0.9 * sigma.log() + 0.1 * (1 - sigma).log()).mean() - (1 - torch.sigmoid(fake)).log().mean()
    torch.testing.assert_close(logistic_discriminator_loss(real, fake, real_target=0.9), expected)


@pytest.mark.parametrize("name", LOSSES)
def test_large_logits_stay_finite(name):
    loss = adversarial_loss(name)
    logits = torch.tensor([1e4, -1e4], requires_grad=True)
    for value in (loss.discriminator(logits, logits), generator_loss(loss, logits)):
        assert value.isfinite()
        assert torch.autograd.grad(value, logits)[0].isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_logits_are_averaged_in_float32(name):
    logits = torch.linspace(-3, 3, 999).to(torch.bfloat16)
    loss = adversarial_loss(name)
    assert generator_loss(loss, logits).dtype == torch.float32
    torch.testing.assert_close(loss.discriminator(logits, -logits), loss.discriminator(logits.float(), -logits.float()))


def test_unknown_name_lists_the_names():
    with pytest.raises(
        ValueError,
        match=r"loss: expected one of 'hinge'.*'wasserstein', 'relativistic', got 'hing' \(did you mean 'hinge'",
    ):
        adversarial_loss("hing")
