"""On a GPU: every type against float64, at sizes that every kind of kernel takes, and with wide means."""

import pytest
import torch

from ganfuse.kernels import Prologue, batch_norm_act, instance_norm_act
from tests.kernels.channel_norm.problems import NORMS, Problem, call, check, check_noise_held, make_inputs

pytestmark = pytest.mark.gpu

# Rows that stay on chip, rows that do not, few rows that are split, ragged sizes, one position.
SHAPES = {
    "on chip": (4, 64, 16, 16),
    "two passes": (8, 24, 128, 128),
    "split": (1, 16, 256, 256),
    "ragged": (3, 44, 33, 31),
    "odd channels": (2, 3, 64, 65),
    "deep": (16, 512, 4, 4),
}
NOISY = {
    "prologue": Problem("instance", (4, 64, 16, 16), "own", "none", "nchw", "own", "leaky_relu"),
    "prologue, two passes": Problem("instance", (2, 24, 128, 128), "own", "none", "nchw", "own", "leaky_relu"),
    "prologue, silu": Problem("instance", (3, 44, 33, 31), "shared", "relu", "nchw", "shared", "silu"),
    "after batch norm": Problem("batch", (8, 24, 64, 64), "shared", "leaky_relu", "nchw", "own"),
    "after batch norm, silu": Problem("batch", (3, 44, 33, 31), "own", "silu", "nchw", "own"),
    "after adalin": Problem("mix", (2, 64, 32, 32), "own", "relu", "nchw", "shared"),
}


def _check(problem, dtype, order=2):
    # Parameters in float32, as under autocast.
    check(problem, "triton", make_inputs(problem, dtype, torch.float32, "cuda"), order)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("norm", NORMS)
def test_bfloat16(norm, shape, layout):
    place = list(SHAPES).index(shape) + NORMS.index(norm)
    activation = ("none", "relu", "leaky_relu", "silu")[place % 4]
    _check(Problem(norm, SHAPES[shape], ("shared", "own")[place % 2], activation, layout), torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("shape", ["on chip", "two passes", "ragged"])
@pytest.mark.parametrize("norm", ["batch", "instance", "mix", "group"])
def test_other_types(norm, shape, dtype):
    _check(Problem(norm, SHAPES[shape], "own", "relu", "channels_last"), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("case", NOISY)
def test_noise(case, layout, dtype):
    problem = NOISY[case]._replace(layout=layout)
    inputs = make_inputs(problem, dtype, torch.float32, "cuda")
    check(problem, "triton", inputs, order=1)
    check_noise_held(problem, "triton", inputs)


@pytest.mark.parametrize("case", NOISY)
def test_second_derivatives_with_noise(case):
    problem = NOISY[case]

    def penalty(backend, dtype):
        inputs = make_inputs(problem, dtype, dtype, "cuda")
        leaves = [t for t in inputs if t.ndim < 4 or t is inputs[0]]
        first = torch.autograd.grad(call(problem, backend)(*inputs).sin().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), leaves)

    exact = penalty("reference", torch.float64)
    for actual, plain, e in zip(penalty("triton", torch.float32), penalty("reference", torch.float32), exact):
        errors = [(t.double() - e).norm() / e.norm() for t in (actual, plain)]
        assert errors[0] < 4 * errors[1] + 1e-4


@pytest.mark.parametrize("layout", ["channels_last slice", "nchw slice", "expanded", "tokens first"])
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_layouts(norm, layout):
    _check(Problem(norm, (4, 64, 16, 16), "own", "relu", layout), torch.bfloat16)


@pytest.mark.parametrize("shape", ["on chip", "two passes", "split"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_mean_ten_thousand_deviations_from_zero(layout, shape):
    x = (1e4 + torch.randn(SHAPES[shape], device="cuda")).to(memory_format=layout)
    for norm in (
        lambda t, b: instance_norm_act(t, None, None, backend=b),
        lambda t, b: batch_norm_act(t, None, None, None, None, training=True, backend=b),
    ):
        exact = norm(x.double(), "reference")
        assert (norm(x, "triton").double() - exact).abs().max() < 1e-3 * exact.std()


def test_bfloat16_noise_beside_float32():
    x, strength = torch.randn(4, 64, 16, 16, device="cuda"), torch.rand(64, device="cuda")
    noise = torch.randn(4, 1, 16, 16, device="cuda", dtype=torch.bfloat16)
    y, expected = (
        instance_norm_act(x, None, None, prologue=Prologue(n, strength), backend="triton")
        for n in (noise, noise.float())
    )
    assert torch.equal(y, expected)


def test_running_statistics():
    x = torch.randn(8, 24, 17, 19, device="cuda", dtype=torch.bfloat16)
    ours, theirs = ((torch.zeros(24, device="cuda"), torch.ones(24, device="cuda")) for _ in range(2))
    for _ in range(3):
        batch_norm_act(x, None, None, *ours, training=True, momentum=0.3, backend="triton")
        torch.nn.functional.batch_norm(x.float(), *theirs, training=True, momentum=0.3)
    for a, e in zip(ours, theirs):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)
