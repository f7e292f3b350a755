"""Every implementation against the definition: values, and first, second and third derivatives."""

import pytest
import torch

from ganfuse.kernels.scaled_bias_act import scaled_bias_act
from tests.kernels.derivative_checks import check, check_third
from tests.kernels.scaled_bias_act.problems import PARTS, both, call, make_inputs

CURVED = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize(("act", "layout"), [("linear", "nchw"), ("lrelu", "channels_last")])
def test_parts(backend, parts, act, layout):
    check(*both(parts, backend, act=act), make_inputs(parts, layout=layout))


@pytest.mark.parametrize("act", ["linear", "relu", "lrelu"])
@pytest.mark.parametrize("parts", ["all", "bias"])
def test_gain_alpha_and_clamp(backend, act, parts):
    options = {"gain": 0.7, "alpha": 0.1, "clamp": 0.8}
    check(*both(parts, backend, act=act, **options), make_inputs(parts))


@pytest.mark.interpreter
@pytest.mark.parametrize("act", CURVED)
@pytest.mark.parametrize("parts", ["shared noise", "noise"])
def test_curved_activations(act, parts):
    clamp = 1.5 if parts == "noise" else None
    check(*both(parts, "triton", act=act, clamp=clamp), make_inputs(parts))


# Ragged and even tiles, channels that fill no vector, one channel, one position, several tiles and splits.
SHAPES = ((3, 5, 3, 2), (2, 1, 3, 7), (2, 24, 3, 3), (1, 4, 13, 11), (2, 16, 4, 4), (3, 5, 1, 1), (1, 40, 2, 3))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_shapes(backend, shape, layout):
    check(*both("all", backend, act="lrelu", clamp=2.0), make_inputs("all", shape, layout=layout))


@pytest.mark.parametrize("layout", ["slice", "transposed"])
def test_strided_maps(backend, layout):
    check(*both("all", backend, act="lrelu"), make_inputs("all", layout=layout))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("small_dtype", [None, torch.float32], ids=str)
def test_types(backend, dtype, small_dtype):
    inputs = make_inputs("all", (3, 5, 6, 6), dtype, "channels_last", small_dtype)
    check(*both("all", backend, act="lrelu"), inputs)


def test_bfloat16_on_cpus():
    check(*both("all", "eager", act="lrelu"), make_inputs("all", (3, 5, 6, 6), torch.bfloat16, "channels_last"))


@pytest.mark.parametrize("parts", ["all", "scale"])
def test_first_and_second_by_finite_differences(backend, parts):
    f = call(parts, backend, act="lrelu", clamp=2.5)
    inputs = make_inputs(parts, (2, 3, 2, 3))
    assert torch.autograd.gradcheck(f, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, inputs, fast_mode=True)


def test_third(backend):
    check_third(*both("all", backend, act="lrelu"), make_inputs("all", (2, 3, 2, 3)))
    if backend == "triton":
        check_third(*both("shared noise", backend, act="swish"), make_inputs("shared noise", (2, 3, 2, 3)))


@pytest.mark.parametrize(
    ("act", "clamp", "at"), [("linear", 1.0, -1.0), ("relu", 0.5, 0.5), ("lrelu", 0.5, -2.0), ("linear", 0.0, 0.0)]
)
def test_slope_at_the_clamp(backend, act, clamp, at):
    """What is just not cut off has the slope of the activation, as in PyTorch's clamp."""
    x = torch.tensor([at, at * 1.01 + 1e-3 * at, 0.25 * at]).reshape(1, 1, 1, 3).requires_grad_()
    slopes = [
        torch.autograd.grad(scaled_bias_act(x, act=act, alpha=0.25, gain=1.0, clamp=clamp, backend=which).sum(), x)[0]
        for which in (backend, "reference")
    ]
    torch.testing.assert_close(*slopes, rtol=0, atol=0)
