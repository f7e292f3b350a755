"""Which form runs, and how to say so."""

import runpy

import pytest
import torch

import ganfuse
from ganfuse.kernels import BackendUnavailableError, conv2d_downsample, upsample_conv2d, use_backend
from ganfuse.kernels.resampled_conv2d import choice, eager
from ganfuse.kernels.resampled_conv2d.choice import folds
from tests.kernels.resampled_conv2d.definitions import FUNCTIONS, inputs


@pytest.fixture
def forms(monkeypatch):
    """The folded forms that ran."""
    seen = []
    for name in ("upsample_conv2d", "conv2d_downsample"):
        original = getattr(eager, name)

        def run(*args, original=original, name=name):
            seen.append(name)
            return original(*args)

        monkeypatch.setattr(eager, name, run)
    return seen


def _map(batch, channels, dtype=torch.float32, device="meta"):
    return torch.empty(batch, channels, 1, 1, dtype=dtype, device=device)


def test_the_rule(monkeypatch):
    monkeypatch.setattr(choice, "_HAS_AMX", True)
    three, one = torch.empty(256, 512, 3, 3), torch.empty(256, 512, 1, 1)
    small = torch.empty(64, 32, 3, 3)
    cpu = torch.empty(16, 512, 1, 1)
    assert not folds("auto", cpu, small, 3, 2)
    assert folds("auto", cpu, small, 4, 2)
    assert not folds("auto", cpu, three, 4, 2)
    assert folds("auto", cpu, three, 4, 4)
    assert folds("auto", cpu, one, 1, 1)
    assert not folds("plain", cpu, one, 1, 1)
    assert folds("folded", cpu, three, 1, 1)
    half = cpu.bfloat16()
    assert not folds("auto", half, three, 16, 16)
    assert folds("auto", half, three, 32, 32)
    assert folds("auto", half, small, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert not folds("auto", cpu, three, 16, 16)
        assert folds("auto", cpu.double(), three, 16, 16)
    monkeypatch.setattr(choice, "_HAS_AMX", False)
    assert folds("auto", half, three, 4, 4)
    assert not folds("auto", half, three, 4, 3)
    assert not folds("auto", half, torch.empty(1024, 512, 3, 3), 4, 4)
    assert not folds("auto", half, small, 4, 3)
    elsewhere = _map(16, 512)
    assert not folds("auto", elsewhere, three, 4, 8)
    assert folds("auto", elsewhere, three, 8, 8)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_form_and_backend(name, forms, monkeypatch):
    x, weight, bias = inputs()
    run = FUNCTIONS[name]
    for options, folded in (
        ({}, False),  # so few pixels
        ({"form": "folded"}, True),
        ({"form": "folded", "backend": "eager"}, True),
        ({"form": "folded", "backend": "reference"}, False),
        ({"form": "plain"}, False),
    ):
        forms.clear()
        run(x, weight, bias, **options)
        assert bool(forms) == folded, options
    monkeypatch.setattr(choice, "_default", "folded")
    forms.clear()
    run(x, weight, bias)
    assert len(forms) == 1
    with use_backend("reference"):
        run(x, weight, bias)
    assert len(forms) == 1
    with use_backend("triton"):
        run(x, weight, bias)
    assert len(forms) == 2
    with pytest.raises(BackendUnavailableError, match=r"triton.*made of PyTorch's convolutions"):
        run(x, weight, bias, backend="triton")


def test_environment_variable(monkeypatch):
    monkeypatch.setenv("GANFUSE_CONV_FORM", " Plain")
    assert runpy.run_path(choice.__file__)["_default"] == "plain"
    monkeypatch.setenv("GANFUSE_CONV_FORM", "fold")
    with pytest.raises(ValueError, match=r"GANFUSE_CONV_FORM must be one of .*did you mean 'folded'"):
        runpy.run_path(choice.__file__)


def test_exported_graphs_hold_the_definition():
    class Model(torch.nn.Module):
        def forward(self, x, weight):
            return conv2d_downsample(upsample_conv2d(x, weight, form="folded"), weight, form="folded")

    x, weight, _ = (t.detach() for t in inputs((1, 3, 4, 4), 3))
    program = torch.export.export(Model(), (x, weight))
    names = {str(node.target) for node in program.graph.nodes}
    assert any("upsample_nearest" in n for n in names), names
    assert any("avg_pool2d" in n for n in names), names
    assert not any("transpose" in n for n in names), names


ERRORS = {
    "x of three dimensions": (lambda x, w, b: (x[0], w, b), {}, "x must have 4 dimensions"),
    "empty map": (lambda x, w, b: (x[..., :0], w, b), {}, "x must have no empty dimension"),
    "kernel of 5": (lambda x, w, b: (x, torch.zeros(4, 3, 5, 5).double(), b), {}, r"1×1, 3×3, or folded to 4×4"),
    "kernel of 1×3": (lambda x, w, b: (x, w[:, :, :1], b), {}, r"1×1, 3×3, or folded"),
    "channels": (lambda x, w, b: (x[:, :2], w, b), {}, r"weight.shape\[1\] must be 2 \(x's channels\), got 3"),
    "no outputs": (lambda x, w, b: (x, w[:0], None), {}, "must have output channels"),
    "bias": (lambda x, w, b: (x, w, b[:2]), {}, r"bias.shape\[0\] must be 4"),
    "types": (lambda x, w, b: (x.float(), w, b), {}, "weight must have the type of x, float32, got float64"),
    "device": (lambda x, w, b: (x, w.to("meta"), b), {}, "weight must be on x's device, cpu, got meta"),
    "padding": (lambda x, w, b: (x, w, b), {"padding_mode": "circular"}, "padding_mode must be one of 'zeros', 'ref"),
    "form": (lambda x, w, b: (x, w, b), {"form": "fold"}, "form must be one of .*did you mean 'folded'"),
    "backend": (lambda x, w, b: (x, w, b), {"backend": "cuda"}, "backend must be one of"),
    "integers": (lambda x, w, b: (x.long(), w, b), {}, "x must be one of float16"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("case", ERRORS)
def test_errors(name, case):
    change, options, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](*change(*inputs()), **options)


def test_errors_of_each():
    x, weight, _ = inputs()
    with pytest.raises(ValueError, match="at least 2×2, got shape"):
        conv2d_downsample(x[..., :1], weight)
    # Folded for upsampling: the input channels come first.
    with pytest.raises(ValueError, match=r"weight.shape\[0\] must be 3 \(x's channels\), got 4"):
        upsample_conv2d(x, torch.zeros(4, 3, 4, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"\(Cout, Cin, 3, 3\), got \(4, 3, 1, 1\)"):
        ganfuse.kernels.fold_upsample_weight(weight[:, :, :1, :1])
