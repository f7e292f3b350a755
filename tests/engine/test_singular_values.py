import copy
import json

import pytest
import torch
from torch import nn

from ganfuse.engine import AdversarialGame, Trainer
from ganfuse.engine.layers import fuse_spectral_norms, spectral_norm
from ganfuse.engine.singular_values import (
    LogSingularValues,
    clamp_singular_values,
    convolution_singular_values,
    singular_values,
    top_singular_values,
)

F64 = torch.float64


def with_spectrum(values: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    n = len(values)
    left = torch.linalg.qr(torch.randn(rows, n, dtype=F64))[0]
    right = torch.linalg.qr(torch.randn(columns, n, dtype=F64))[0]
    return (left * values) @ right.t()


@pytest.mark.parametrize("shape", [(100, 270), (270, 100), (1, 50), (50, 1), (1, 1), (300, 20), (4, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_random_matrices(shape, dtype):
    m = torch.randn(shape, dtype=dtype)
    u, s, v = top_singular_values(m)
    exact = torch.linalg.svdvals(m)[:3]
    torch.testing.assert_close(s, exact, rtol=1e-3, atol=0)
    assert u.shape == (shape[0], len(exact))
    assert v.shape == (shape[1], len(exact))
    torch.testing.assert_close(m @ v, u * s, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "values",
    {
        "nearly equal": torch.cat([torch.tensor([1, 1, 1 - 1e-6, 1 - 1e-5, 1 - 1e-4]), torch.linspace(0.999, 0, 120)]),
        "all equal": torch.ones(125),
        "all close": torch.linspace(1, 0.98, 125),
        "steep": torch.logspace(0, -8, 125),
        "rank two": torch.cat([torch.tensor([2.0, 1.0]), torch.zeros(123)]),
    }.items(),
    ids=lambda item: item[0],
)
def test_spectra(values):
    exact = values[1].double()
    s = top_singular_values(with_spectrum(exact, 140, 200)).s
    torch.testing.assert_close(s, exact[:3], rtol=1e-3, atol=1e-10)


def test_the_same_every_time():
    m = torch.randn(90, 100)
    first = top_singular_values(m)
    torch.rand(3)
    assert all(torch.equal(a, b) for a, b in zip(first, top_singular_values(m)))


LAYERS = {
    "padded, strided": (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (6, 5)),
    "circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (4, 4)),
    "grouped, dilated": (lambda: nn.Conv2d(4, 4, 2, groups=2, dilation=2), (5, 5)),
    "one dimension": (lambda: nn.Conv1d(2, 3, 3), (9,)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), (3, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_convolution_as_an_operator(name):
    build, size = LAYERS[name]
    layer = build().double()
    layer.bias.data.zero_()
    inputs = torch.eye(layer.in_channels * torch.Size(size).numel(), dtype=F64).view(-1, layer.in_channels, *size)
    exact = torch.linalg.svdvals(layer(inputs).flatten(1).t())[:3]
    torch.testing.assert_close(convolution_singular_values(layer, size), exact, rtol=1e-3, atol=0)
    twice = convolution_singular_values(layer, size, weight=2 * layer.weight)
    torch.testing.assert_close(twice, 2 * exact, rtol=1e-3, atol=0)


def make_model() -> nn.Module:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(3, 4, 3)),
        nn.utils.spectral_norm(nn.ConvTranspose2d(4, 5, 3)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)),
        nn.BatchNorm2d(3),
        nn.Embedding(4, 3),
        nn.Linear(3, 2),
    )


def test_a_model_before_normalisation():
    model = make_model()
    weights = {
        "0": model[0].weight_orig.flatten(1),
        "1": model[1].weight_orig.transpose(0, 1).flatten(1),
        "2": model[2].parametrizations.weight.original,
        "5": model[5].weight,
    }
    for some in (model, fuse_spectral_norms(copy.deepcopy(model))):
        found = singular_values(some)
        assert list(found) == list(weights)
        for name, weight in weights.items():
            torch.testing.assert_close(found[name], torch.linalg.svdvals(weight.detach())[:3], rtol=1e-3, atol=1e-6)
    assert "4" in singular_values(model, embeddings=True)


@pytest.mark.parametrize("bound", [{"value": 0.4}, {"ratio": 0.7}])
def test_clamp_takes_down_the_first_value_only(bound):
    model = make_model()
    before = {k: torch.linalg.svdvals(w) for k, w in _matrices(model).items()}
    clamped = clamp_singular_values(model, **bound)
    assert set(clamped) == set(before)
    for name, w in _matrices(model).items():
        old, new = before[name], torch.linalg.svdvals(w)
        expected = old.clone()
        expected[0] = bound.get("value", bound.get("ratio", 0) * old[1])
        torch.testing.assert_close(new, expected.sort(descending=True).values, rtol=1e-3, atol=1e-4)
        assert clamped[name] == pytest.approx(old[0].item(), rel=1e-3)
    assert clamp_singular_values(model, value=100.0) == {}


def _matrices(model):
    from ganfuse.engine.weight_matrices import weight_matrices

    return {m.name: m.matrix().clone() for m in weight_matrices(model, embeddings=False)}


def test_clamping_while_training_and_logging(tmp_path):
    class Clamped(AdversarialGame):
        def after_step(self, player, step):
            if player == "generator":
                clamp_singular_values(self.generator, value=0.5)

    generator = nn.Sequential(nn.Linear(1, 64), nn.Unflatten(1, (1, 8, 8)))
    discriminator = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(64, 1)), nn.Flatten(0))
    game = Clamped(
        generator, discriminator, latent_dim=1
    )  # one singular value, so that clamping the first bounds them all
    hook = LogSingularValues(every=2, k=2, modules=("generator", "discriminator"))
    Trainer(
        game, "digits", out=tmp_path, steps=3, batch_size=4, device="cpu", progress=False, log_every=1, hooks=[hook]
    ).fit()
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    logged = line["losses"]
    assert logged["singular_values/generator.0/0"] == pytest.approx(0.5, abs=1e-3)
    assert torch.linalg.svdvals(generator[0].weight.detach())[0].item() == pytest.approx(0.5, abs=1e-3)
    assert "singular_values/discriminator.1/0" in logged


def test_errors():
    with pytest.raises(ValueError, match="2 dimensions"):
        top_singular_values(torch.ones(2, 2, 2))
    with pytest.raises(ValueError, match="k:"):
        top_singular_values(torch.ones(2, 2), 0)
    with pytest.raises(ValueError, match="exactly one"):
        clamp_singular_values(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="exactly one"):
        clamp_singular_values(nn.Linear(2, 2), value=1.0, ratio=1.0)
    with pytest.raises(ValueError, match="ratio: expected a positive"):
        clamp_singular_values(nn.Linear(2, 2), ratio=0.0)
    with pytest.raises(ValueError, match="expected a convolution"):
        convolution_singular_values(nn.Linear(2, 2), (3, 3))
    with pytest.raises(ValueError, match="2 positive sizes"):
        convolution_singular_values(nn.Conv2d(2, 2, 2), (3,))
    with pytest.raises(ValueError, match="every"):
        LogSingularValues(every=0)
