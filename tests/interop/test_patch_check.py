"""The check at the first use: what is right stays, what is wrong goes back or raises; the result is always right."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganfuse.interop import PatchError, patch
from ganfuse.interop.patches.comparing import compare, compare_functions, copied
from ganfuse.interop.patches.norms import KINDS
from ganfuse.interop.patches.swapping import Patched
from tests.interop.codebase_styles import (
    AttentiveTranslator,
    BigDiscriminator,
    BigGenerator,
    ResidualTranslator,
    shaken,
)


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8, dtype=torch.float64)


@pytest.fixture
def wrong_instance_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The value is right, the gradient is not: only the check of derivatives sees it."""
    kind = KINDS["instance norm"]

    def run(module: Any, args: tuple[Any, ...], activation: str, slope: float) -> Tensor:
        y = kind.run(module, args, activation, slope)
        return y + (y - y.detach()) * 0.5

    monkeypatch.setitem(KINDS, "instance norm", dataclasses.replace(kind, run=run))


@pytest.mark.parametrize("make", [BigDiscriminator, AttentiveTranslator, ResidualTranslator])
def test_what_is_right_stays(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = shaken(make())
    before, x = copied(model), image()
    report = patch(model, check=True, verbose=False)
    count = len(report.replaced)
    torch.manual_seed(1)
    expected = before(x)
    torch.manual_seed(1)
    torch.testing.assert_close(model(x), expected)
    for name, value in before.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)
    assert len(report.replaced) == count
    assert not any("first use" in entry.why for entry in report.left)


def test_what_is_wrong_goes_back(wrong_instance_norm: None, caplog: pytest.LogCaptureFixture) -> None:
    model = ResidualTranslator().double().eval()
    before, x = copied(model), image()
    report = patch(model, check=True, verbose=False)
    model(x)
    assert "computes something else than the original (gradient" in caplog.text
    assert not any(isinstance(module, Patched) for module in model.modules())
    assert not report.replaced
    assert any("something else at its first use" in entry.why for entry in report.left)
    assert compare(before, model, (x,), {}) is None


def test_or_raises(wrong_instance_norm: None) -> None:
    model = ResidualTranslator().double()
    patch(model, check="raise", verbose=False)
    with pytest.raises(PatchError, match=r"conv_block: the replacement computes something else .*; unpatch, or"):
        model(image())


def test_unchecked_nobody_looks(wrong_instance_norm: None) -> None:
    model = ResidualTranslator().double()
    patch(model, verbose=False)
    model(image())
    assert isinstance(model.model, Patched)


def test_a_copy_checks_for_itself() -> None:
    model = BigGenerator(child=True).double()
    args = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    before = copied(model)
    patch(model, check=True, verbose=False)
    again = copied(model)
    again(*args)
    torch.testing.assert_close(model(*args), before(*args))


def test_comparing_sees_values_gradients_and_second_derivatives() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    assert compare_functions(torch.sin, torch.sin, (x,), {}) is None
    cases = {
        "result": lambda x: x.sin() + 1e-5,
        "gradient 0": lambda x: x.sin() + (x - x.detach()),
        "second derivative 0": lambda x: x.sin() + (x - x.detach()) ** 2,
    }
    for what, function in cases.items():
        wrong = compare_functions(torch.sin, function, (x,), {})
        assert wrong is not None
        assert wrong.startswith(what)


def test_comparing_draws_the_same_numbers() -> None:
    dropout = nn.Dropout(0.5)
    x = torch.randn(50, 3)
    state = torch.get_rng_state()
    assert compare(dropout, copied(dropout), (x,), {}) is None
    assert torch.equal(state, torch.get_rng_state())
