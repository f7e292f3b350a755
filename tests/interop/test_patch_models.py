"""Patched models of each codebase's style compute what they did, to the second derivative, and go back."""

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from ganfuse.interop import patch, unpatch
from ganfuse.interop.patches.comparing import compare, copied
from tests.interop.codebase_styles import (
    AdaptiveLayerInstanceNorm,
    AttentiveTranslator,
    BigDiscriminator,
    BigGenerator,
    NormalisedConv,
    PatchCritic,
    ResidualTranslator,
    StoredConditionalNorm,
    shaken,
)


def noise() -> Sequence[Tensor]:
    return torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)


def image() -> Sequence[Tensor]:
    return (torch.randn(2, 3, 8, 8, dtype=torch.float64),)


# How it is made, what goes in, and how often what is found.
STYLES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Sequence[Tensor]], dict[str, int]]] = {
    "biggan-pytorch generator": (
        BigGenerator,
        noise,
        {
            "StoredConditionalNorm + ReLU": 4, "StoredNorm + ReLU": 1, "nearest ×2 + NormalisedConv": 4,
            "PooledAttention": 1, "NormalisedConv": 11, "NormalisedLinear": 9,
        },
    ),
    "biggan-pytorch discriminator": (
        BigDiscriminator,
        image,
        {"NormalisedConv + average pool": 4, "PooledAttention": 1, "NormalisedConv": 10, "NormalisedLinear": 1},
    ),
    "studiogan": (
        lambda: BigGenerator(child=True),
        noise,
        {
            "ChildConditionalNorm + ReLU": 4, "BatchNorm2d + ReLU": 1, "nearest ×2 + Conv2d": 4, "PooledAttention": 1,
            "spectral norm of Linear": 9, "spectral norm of Conv2d": 11,
        },
    ),
    "u-gat-it": (
        AttentiveTranslator,
        image,
        {
            "InstanceNorm2d + ReLU": 1, "AdaptiveLayerInstanceNorm + ReLU": 2, "AdaptiveLayerInstanceNorm": 1,
            "nearest ×2 + ReflectionPad2d + Conv2d": 1,
        },
    ),
    "cyclegan": (ResidualTranslator, image, {"InstanceNorm2d + ReLU": 4}),
    "torch.nn": (PatchCritic, lambda: (torch.randn(2, 3, 16, 16, dtype=torch.float64),), {
        "BatchNorm2d + LeakyReLU": 1, "GroupNorm + SiLU": 1,
    }),
}  # fmt: skip


@pytest.mark.parametrize("style", STYLES)
def test_computes_the_same_and_goes_back(style: str) -> None:
    make, inputs, expected = STYLES[style]
    torch.manual_seed(1)
    model = shaken(make())
    with torch.no_grad():
        model(*inputs())
    before, keys = copied(model), list(model.state_dict())
    tensors = [id(tensor) for tensor in (*model.parameters(), *model.buffers())]
    classes = [type(module) for module in model.modules()]

    report = patch(model, everywhere=True, verbose=False)

    counts: dict[str, int] = {}
    for entry in report.replaced:
        counts[entry.what] = counts.get(entry.what, 0) + 1
    assert counts == expected
    assert list(model.state_dict()) == keys
    assert [id(tensor) for tensor in (*model.parameters(), *model.buffers())] == tensors
    args = inputs()
    for training in (True, False):
        wrong = compare(copied(before).train(training), copied(model).train(training), args, {})
        assert wrong is None, wrong
    # State moves on alike: running statistics, vectors of power methods.
    for _ in range(2):
        for one in (before.train(), model.train()):
            torch.manual_seed(2)
            one(*args)
    for name, value in before.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)

    unpatch(model)
    assert [type(module) for module in model.modules()] == classes
    assert not any(key.startswith("_ganfuse") for module in model.modules() for key in module.__dict__)
    assert compare(copied(before), copied(model), args, {}) is None


@pytest.mark.parametrize("style", STYLES)
def test_under_autocast_types_are_what_they_were(style: str) -> None:
    make, inputs, _ = STYLES[style]
    torch.manual_seed(1)
    model = shaken(make()).float()
    before = copied(model)
    patch(model, everywhere=True, verbose=False)
    args = [value.float() for value in inputs()]
    types: list[list[torch.dtype]] = []
    results = []
    for one in (before, model):
        seen: list[torch.dtype] = []
        for layer in one.modules():
            if type(layer).__name__ in ("UpBlock", "StyledBlock", "PooledAttention", "DownBlock", "Tanh", "GroupNorm"):
                layer.register_forward_hook(lambda layer, args, out, seen=seen: seen.append(out.dtype))
        torch.manual_seed(2)
        with torch.autocast("cpu", torch.bfloat16):
            results.append(one(*args))
        types.append(seen)
    assert types[0] == types[1]
    assert results[0].dtype == results[1].dtype
    error = (results[0] - results[1]).float().norm() / results[0].float().norm()
    assert error < 0.05, error


def test_on_a_cpu_it_leaves_to_pytorch_what_pytorch_does_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    critic = PatchCritic()
    calls: list[str] = []
    for name in ("batch_norm", "group_norm"):
        original = getattr(torch.nn.functional, name)
        monkeypatch.setattr(
            torch.nn.functional, name, lambda *args, f=original, n=name, **kw: (calls.append(n), f(*args, **kw))[1]
        )
    report = patch(critic, verbose=False)
    critic(torch.randn(2, 3, 16, 16))
    assert calls == ["batch_norm", "group_norm"]
    assert all("on CPUs as before" in entry.by for entry in report.replaced)


def test_prints_a_report_that_people_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    report = patch(ResidualTranslator())
    text = capsys.readouterr().out
    assert text == f"{report}\n"
    assert text.splitlines()[0] == "ResidualTranslator: 4 replaced, 1 left"
    assert "4 × InstanceNorm2d + ReLU → instance_norm_act  [model.2, model.5, model.9 and 1 more]" in text
    assert "no activation follows it in the forward that calls it  [model.7.conv_block.7]" in text


def test_variances_divided_by_n_are_told_from_those_divided_by_one_less() -> None:
    norm = shaken(nn.ModuleList([AdaptiveLayerInstanceNorm(4, learnt=True, unbiased=False)]))[0]
    before = copied(norm)
    assert patch(norm, verbose=False).replaced
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    assert compare(before, norm, (x,), {}) is None


class OtherConditionalNorm(StoredConditionalNorm):
    """The same attributes, another formula."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x, y) + 0.01 * x


def test_a_layer_with_the_right_names_and_another_formula_is_left() -> None:
    report = patch(OtherConditionalNorm(4, 5), leave=("gain", "bias"), verbose=False)
    assert not report.replaced
    (entry,) = report.left
    assert "computes something else in training" in entry.why


def test_several_singular_values_are_left() -> None:
    report = patch(nn.Sequential(NormalisedConv(3, 4, num_svs=2)), verbose=False)
    assert [entry.where for entry in report.left] == ["0"]
    assert "2 singular values" in report.left[0].why


def test_copies_are_patched_and_unpatched_by_themselves() -> None:
    torch.manual_seed(0)
    model = shaken(BigGenerator())
    patch(model, everywhere=True, verbose=False)
    average = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.mul_(0.5)
    args = noise()
    assert not torch.allclose(average(*args), model(*args))
    plain = copy.deepcopy(average)
    unpatch(plain)
    assert type(plain.blocks[0][0]).__mro__[1] is nn.Module
    assert compare(plain, copied(average), args, {}) is None
    with pytest.raises(ValueError, match="is patched already"):
        patch(average)
