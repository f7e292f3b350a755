"""The implicit product of matrices, interpreted, against the definition."""

import pytest
import torch

from ganfuse.kernels import modulated_conv2d
from ganfuse.kernels.backend import INTERPRETED
from tests.kernels.assertions import assert_as_accurate
from tests.kernels.derivative_checks import check
from tests.kernels.modulated_conv2d.problems import LAYERS, Problem, call, make_inputs

CL = "channels_last"
PROBLEMS = {
    "plain": Problem(),
    "shared noise, clamped": Problem(noise="shared", clamp=1.0, gain=0.7, flip_weight=False),
    "torgb": LAYERS["torgb"],
    # Blocks within one sample, more than one of positions, of inputs and of outputs; and ragged ones.
    "own blocks": Problem(inputs=20, outputs=20, size=(8, 8), noise=None),
    "even": Problem(inputs=16, outputs=16, size=(4, 8), batch=1, bias=False),
    "kernel of 2×4": Problem(kernel=(2, 4), padding=(1, 2, 0, 1), size=(6, 7), act="linear"),
    "positions": Problem(batch=5, inputs=3, size=(1, 1)),
}


@pytest.mark.interpreter
@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_forward(name, dtype):
    problem = PROBLEMS[name]
    inputs = make_inputs(problem, dtype, CL, parameter_dtype=torch.float32)
    exact = [t.detach().double() for t in inputs]
    with torch.no_grad():
        y = call(problem, form="implicit_gemm")(*inputs)
        plain, truth = call(problem, backend="reference")(*inputs), call(problem, backend="reference")(*exact)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert_as_accurate(y, plain, truth, factor=3.0)


@pytest.mark.interpreter
def test_derivatives():
    problem = Problem(size=(3, 4))
    inputs = make_inputs(problem, torch.float32, CL)
    check(call(problem, form="implicit_gemm"), call(problem, backend="reference"), inputs, factor=4.0)


@pytest.mark.interpreter
def test_empty_batch():
    problem = Problem(batch=0, noise=None)
    assert call(problem, form="implicit_gemm")(*make_inputs(problem, torch.float32, CL)).shape[0] == 0


@pytest.mark.interpreter
@pytest.mark.parametrize(
    ("x", "options", "said"),
    [
        (torch.randn(2, 3, 5, 4), {}, "it reads channels_last maps"),
        (torch.randn(2, 3, 5, 4).to(memory_format=torch.channels_last), {"up": 2}, "it has no resampling"),
        (torch.randn(2, 3, 5, 4).double().to(memory_format=torch.channels_last), {}, "it has no torch.float64"),
        (torch.randn(2, 3, 5, 4).to(memory_format=torch.channels_last), {"padding": (-1, 2, 0, 0)}, "does not crop"),
    ],
)
def test_what_it_does_not_take(x, options, said):
    with pytest.raises(ValueError, match=said):
        modulated_conv2d(x, torch.randn(4, 3, 3, 3), torch.randn(2, 3), form="implicit_gemm", **options)


@pytest.mark.skipif(INTERPRETED, reason="here Triton runs on CPU tensors")
def test_where_it_cannot_run(monkeypatch):
    x, weight, styles = torch.randn(2, 3, 5, 4), torch.randn(4, 3, 3, 3), torch.randn(2, 3)
    with pytest.raises(ValueError, match="Triton kernels need a GPU tensor"):
        modulated_conv2d(x, weight, styles, form="implicit_gemm")
    # A wish of the environment's, for all layers, is granted where it can be.
    expected = modulated_conv2d(x, weight, styles)
    monkeypatch.setenv("GANFUSE_MODULATED_CONV2D", "implicit_gemm")
    assert torch.equal(modulated_conv2d(x, weight, styles), expected)
