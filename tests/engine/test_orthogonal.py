import pytest
import torch
from torch import nn

from ganfuse.engine.layers import spectral_norm
from ganfuse.engine.orthogonal import FORMS, OrthogonalGradient, add_orthogonal_gradient, orthogonal_penalty


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
        spectral_norm(nn.ConvTranspose2d(4, 3, 2)),
        nn.BatchNorm2d(3),
        nn.Linear(5, 3),
        nn.Embedding(4, 3),
    ).double()


@pytest.mark.parametrize("form", FORMS)
def test_formula(form):
    layer = nn.Linear(3, 2).double()
    w = layer.weight.detach()
    gram = [[float(w[i] @ w[j]) for j in range(2)] for i in range(2)]
    expected = 2 * gram[0][1] ** 2
    if form == "original":
        expected += (gram[0][0] - 1) ** 2 + (gram[1][1] - 1) ** 2
    assert orthogonal_penalty(layer, 0.5, form=form).item() == pytest.approx(0.5 * expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", ["as given", "contiguous"])
def test_gradient_in_place_equals_autograd(form, layout):
    model = make_model()
    orthogonal_penalty(model, 0.1, form=form).backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
        if layout == "contiguous":
            p.grad = p.grad.contiguous()
    add_orthogonal_gradient(model, 0.1, form=form)
    touched = []
    for name, p in model.named_parameters():
        gradient = p.grad - 1
        if expected[name] is None:
            assert torch.equal(gradient, torch.zeros_like(p)), name
        else:
            touched.append(name)
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12)
    assert touched == ["0.weight", "1.weight_orig", "3.weight"]


def test_orthogonal_weights_are_left_alone():
    layer = nn.Linear(6, 4).double()
    nn.init.orthogonal_(layer.weight)
    for form in FORMS:
        assert orthogonal_penalty(layer, form=form).item() == pytest.approx(0, abs=1e-20)


def test_before_each_step_of_an_optimiser():
    model = nn.Linear(4, 4, bias=False).double()
    other = nn.Linear(4, 4, bias=False).double()
    other.load_state_dict(model.state_dict())
    for net, hooked in ((model, True), (other, False)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        if hooked:
            optimizer.register_step_pre_hook(OrthogonalGradient(net, 0.2))
        for _ in range(3):
            optimizer.zero_grad()
            loss = net(torch.ones(1, 4, dtype=torch.float64)).square().sum()
            (loss if hooked else loss + orthogonal_penalty(net, 0.2)).backward()
            optimizer.step()
    torch.testing.assert_close(model.weight, other.weight, rtol=1e-10, atol=1e-12)


def test_weights_that_take_no_part_and_excluded_ones():
    model = make_model()
    add_orthogonal_gradient(model)
    assert all(p.grad is None for p in model.parameters())
    everything = orthogonal_penalty(model)
    assert orthogonal_penalty(model, exclude=[model[0]]) < everything


def test_errors():
    with pytest.raises(ValueError, match="form"):
        orthogonal_penalty(nn.Linear(2, 2), form="diagonal")
    with pytest.raises(ValueError, match="beta"):
        add_orthogonal_gradient(nn.Linear(2, 2), -1.0)
    with pytest.raises(ValueError, match="no convolution"):
        orthogonal_penalty(nn.ReLU())
