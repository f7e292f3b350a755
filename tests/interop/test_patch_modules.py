"""Patching by module: functions of StyleGAN's kind wherever they are bound, and what is built of a module's classes."""

import contextlib
import gc
import sys
import weakref
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ganfuse
from ganfuse.interop import patch, unpatch
from ganfuse.interop.patches.comparing import copied
from ganfuse.kernels import weight_gradients
from ganfuse.kernels.modulated_conv2d.geometry import Geometry
from ganfuse.kernels.modulated_conv2d.reference import modulated_conv2d as modulated_reference
from ganfuse.kernels.upfirdn2d import reference as upfirdn_reference
from ganfuse.kernels.upfirdn2d.geometry import Factors, parse_padding
from tests.interop import codebase_styles

# The operations as such a codebase has them: the same signatures, plain PyTorch inside.
OPS = """
import contextlib
import math
import torch
import torch.nn.functional as F

calls = []
flag = False


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
    calls.append("upfirdn2d")
    return plain_upfirdn2d(x, f, up, down, padding, flip_filter, gain)


def bias_act(x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="cuda"):
    calls.append("bias_act")
    alpha = 0.2 if alpha is None else alpha
    functions = {"linear": lambda x: x, "relu": F.relu, "lrelu": lambda x: F.leaky_relu(x, alpha), "tanh": torch.tanh,
                 "swish": F.silu}
    gain = (math.sqrt(2) if act in ("relu", "lrelu", "swish") else 1) if gain is None else gain
    if b is not None:
        x = x + b.reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = functions[act](x) * gain
    return x if clamp is None else x.clamp(-clamp, clamp)


@contextlib.contextmanager
def no_weight_gradients(disable=True):
    global flag
    before, flag = flag, flag or disable
    yield
    flag = before


def filtered_lrelu(x, fu=None, fd=None):
    return bias_act(upfirdn2d(x, fu), act="lrelu")
"""

NETWORKS = """
import torch
from torch import nn

from style_ops_package import bias_act
from style_ops_package.bias_act import bias_act as activated


def modulated_conv2d(x, weight, styles, noise=None, up=1, down=1, padding=0, resample_filter=None, demodulate=True,
                     flip_weight=True, fused_modconv=True):
    bias_act.calls.append("modulated_conv2d")
    return plain_modulated(x, weight, styles, noise, up, down, padding, resample_filter, demodulate, flip_weight)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.Parameter(torch.randn(4))
        self.norm = nn.Sequential(nn.InstanceNorm2d(4), nn.ReLU())

    def forward(self, x, styles):
        y = modulated_conv2d(x, self.weight, styles, padding=1)
        y = bias_act.bias_act(y, self.bias, act="lrelu") + activated(y, act="tanh")
        return self.norm(bias_act.upfirdn2d(y, None, up=2))
"""


def plain_upfirdn2d(x: Tensor, f: Any, up: Any, down: Any, padding: Any, flip: bool, gain: float) -> Tensor:
    pair = lambda value: Factors(*((value, value) if isinstance(value, int) else value))  # noqa: E731
    return upfirdn_reference.upfirdn2d(x, f, pair(up), pair(down), parse_padding("", padding), flip, float(gain))


def plain_modulated(
    x: Tensor,
    weight: Tensor,
    styles: Tensor,
    noise: Any,
    up: int,
    down: int,
    padding: Any,
    f: Any,
    demodulate: bool,
    flip: bool,
) -> Tensor:
    return modulated_reference(
        x, weight, styles, noise, f, None, Geometry(up, down, parse_padding("", padding), flip), demodulate,
        "linear", 0.0, 1.0, None,
    )  # fmt: skip


@pytest.fixture
def codebase() -> Iterator[tuple[ModuleType, ModuleType]]:
    """A package with the operations in a module of their own, and a module of networks that uses them."""
    package, ops, networks = (
        ModuleType(n) for n in ("style_ops_package", "style_ops_package.bias_act", "style_networks")
    )
    package.__path__ = []
    package.bias_act = ops
    ops.plain_upfirdn2d, networks.plain_modulated = plain_upfirdn2d, plain_modulated
    for module in (package, ops, networks):
        sys.modules[module.__name__] = module
    exec(OPS, vars(ops))
    exec(NETWORKS, vars(networks))
    yield ops, networks
    for module in (ops, networks):
        with contextlib.suppress(ValueError):  # a test that failed half-way
            unpatch(module)
    for module in (package, ops, networks):
        del sys.modules[module.__name__]


def run(networks: ModuleType, layer: nn.Module) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x, styles = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(2, 3)
    y = layer(x, styles)
    (slope,) = torch.autograd.grad((y * y.detach().cos()).sum(), x, create_graph=True)
    return y, torch.autograd.grad(slope.square().sum(), layer.weight)[0]


NAMES = {"upfirdn2d", "bias_act", "modulated_conv2d", "no_weight_gradients"}


@pytest.mark.parametrize("by", ["name of the networks' module", "ops' module", "model"])
def test_functions_are_replaced_wherever_they_are_bound(codebase: tuple[ModuleType, ModuleType], by: str) -> None:
    ops, networks = codebase
    layer = networks.Layer()
    expected = run(networks, layer)
    assert set(ops.calls) == {"upfirdn2d", "bias_act", "modulated_conv2d"}
    originals = {name: vars(ops).get(name) for name in NAMES}
    target = {"model": layer, "ops' module": ops}.get(by, "style_networks")

    report = patch(target, verbose=False)

    assert {entry.what for entry in report.replaced} >= NAMES
    assert any("filtered_lrelu" in entry.where for entry in report.left)
    ops.calls.clear()
    got = run(networks, layer)
    assert ops.calls == []
    for one, other in zip(expected, got):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-3)

    unpatch(target)
    assert {name: vars(ops).get(name) for name in NAMES} == originals
    assert networks.activated is ops.bias_act
    run(networks, layer)
    assert set(ops.calls) == {"upfirdn2d", "bias_act", "modulated_conv2d"}


def test_two_patches_of_the_same_functions_end_with_the_last(codebase: tuple[ModuleType, ModuleType]) -> None:
    ops, networks = codebase
    original, first, second = ops.bias_act, networks.Layer(), networks.Layer()
    patch(first, verbose=False), patch(second, verbose=False)
    unpatch(first)
    assert ops.bias_act is not original
    unpatch(second)
    assert ops.bias_act is original


def test_no_weight_gradients_holds_for_both(codebase: tuple[ModuleType, ModuleType]) -> None:
    ops, _ = codebase
    patch(ops, verbose=False)
    with ops.no_weight_gradients():
        assert (ops.flag, weight_gradients.weight_gradients_disabled()) == (True, True)
    with ops.no_weight_gradients(disable=False):
        assert (ops.flag, weight_gradients.weight_gradients_disabled()) == (False, False)
    unpatch(ops)


def test_what_ours_refuses_the_original_computes(
    codebase: tuple[ModuleType, ModuleType], caplog: pytest.LogCaptureFixture
) -> None:
    ops, _ = codebase
    patch(ops, verbose=False)
    x = torch.arange(6.0).reshape(1, 6).to(torch.complex64)
    assert torch.equal(ops.bias_act(x), x)
    assert "as before it was patched" in caplog.text
    assert torch.equal(ops.bias_act(torch.ones(2, 3), impl="ref"), torch.ones(2, 3))
    unpatch(ops)


def test_another_formula_is_left(codebase: tuple[ModuleType, ModuleType]) -> None:
    ops, _ = codebase
    plain = ops.bias_act
    ops.bias_act = lambda x, b=None, dim=1, act="linear", alpha=None, gain=None, clamp=None, impl="": (
        plain(x, b, dim, act, alpha, gain, clamp) * 1.001
    )
    report = patch(ops, verbose=False)
    assert "bias_act" not in {entry.what for entry in report.replaced}
    assert any(entry.what == "bias_act" and "something else" in entry.why for entry in report.left)
    unpatch(ops)


def test_functions_can_be_left(codebase: tuple[ModuleType, ModuleType]) -> None:
    ops, _ = codebase
    original = ops.bias_act
    patch(ops, leave=["style_ops_package.bias_act.bias_act"], verbose=False)
    assert ops.bias_act is original
    unpatch(ops)


def test_functions_are_checked_at_their_first_call(codebase: tuple[ModuleType, ModuleType]) -> None:
    ops, networks = codebase
    layer = networks.Layer()
    expected = run(networks, layer)
    report = patch(ops, check="raise", verbose=False)
    ops.calls.clear()
    torch.testing.assert_close(run(networks, layer)[0], expected[0], rtol=1e-3, atol=1e-3)
    assert set(ops.calls) == {"upfirdn2d", "bias_act", "modulated_conv2d"}  # beside ours, once
    assert len(ops.calls) == 3  # of two calls of bias_act, the first
    assert not any("first use" in entry.why for entry in report.left)
    unpatch(ops)


@pytest.fixture
def classes() -> Iterator[ModuleType]:
    yield codebase_styles
    if (
        "forward" in vars(codebase_styles.UpBlock)
        and codebase_styles.UpBlock.forward.__module__ != codebase_styles.__name__
    ):
        unpatch(codebase_styles)


@pytest.mark.parametrize("make", ["AttentiveTranslator", "BigDiscriminator"])
def test_what_is_built_of_a_modules_classes_is_patched_when_called(classes: ModuleType, make: str) -> None:
    forwards = {name: vars(kind)["forward"] for name, kind in vars(classes).items() if _has_forward(kind)}
    torch.manual_seed(0)
    earlier = codebase_styles.shaken(getattr(classes, make)())
    plain = copied(earlier)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = plain(x)
    report = patch(classes, verbose=False)
    assert {entry.what for entry in report.replaced} == {"class"}
    torch.testing.assert_close(earlier(x), expected)
    found = [entry for entry in report.replaced if entry.what != "class"]
    assert found
    assert all(entry.where.startswith(f"{make}.") for entry in found)
    count = len(report.replaced)
    earlier(x)
    assert len(report.replaced) == count
    unpatch(classes)
    assert {name: vars(kind)["forward"] for name, kind in vars(classes).items() if _has_forward(kind)} == forwards
    assert not any("_ganfuse" in key for module in earlier.modules() for key in module.__dict__)
    if make == "AttentiveTranslator":  # nothing in it moves on with calls
        torch.testing.assert_close(earlier(x), expected)


def test_replicas_of_data_parallel_are_not_patched_anew(classes: ModuleType) -> None:
    model = codebase_styles.shaken(codebase_styles.AttentiveTranslator())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = model(x)
    report = patch(classes, verbose=False)
    count = len(report.replaced)
    # As DataParallel makes one for every device in every call.
    replicas: dict[nn.Module, Any] = {module: module._replicate_for_data_parallel() for module in model.modules()}
    for module, replica in replicas.items():
        replica._parameters = dict(module._parameters)
        replica._modules = {name: child and replicas[child] for name, child in module._modules.items()}
    torch.testing.assert_close(replicas[model](x), expected)
    assert len(report.replaced) == count
    torch.testing.assert_close(model(x), expected)
    assert len(report.replaced) > count


def test_a_patched_module_keeps_no_model_alive(classes: ModuleType) -> None:
    patch(classes, verbose=False)
    model = codebase_styles.shaken(codebase_styles.AttentiveTranslator())
    model(torch.randn(2, 3, 8, 8, dtype=torch.float64))
    parts = [weakref.ref(module) for module in model.modules()]
    del model
    gc.collect()
    assert not [ref() for ref in parts if ref() is not None]


def _has_forward(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, nn.Module) and "forward" in vars(kind)


def test_is_public() -> None:
    assert ganfuse.interop.patch is patch
    assert ganfuse.interop.unpatch is unpatch
