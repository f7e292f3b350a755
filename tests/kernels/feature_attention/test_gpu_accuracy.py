"""On a GPU: every type against float64, at the shapes that GANs have and at ragged ones."""

import functools

import pytest
import torch

from ganfuse.kernels import scaled_dot_product_attention
from tests.kernels.feature_attention.problems import Problem, check, make_inputs, ours

pytestmark = pytest.mark.gpu

PROBLEMS = {
    "SAGAN-128 at 32": Problem(2, 32, 128, (32, 32), (16, 16)),
    "SAGAN-128 at 64": Problem(2, 16, 64, (64, 64), (64, 64)),
    "BigGAN-128": Problem(2, 24, 96, (64, 64), (32, 32)),
    "wide": Problem(2, 64, 256, (32, 32), (32, 32)),
    "longest": Problem(1, 256, 512, (16, 16), (16, 16)),
    "ragged": Problem(3, 20, 44, (33, 31), (17, 19)),
    "tiny": Problem(2, 1, 3, (1, 7), (5, 1)),
}


def _check(problem, dtype, layout, order=2):
    check(ours("triton"), ours("reference"), make_inputs(problem, dtype, layout, "cuda"), order)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_bfloat16(name, layout):
    _check(PROBLEMS[name], torch.bfloat16, layout)


@pytest.mark.parametrize(("name", "layout"), [("SAGAN-128 at 32", "channels_last"), ("ragged", "nchw")])
def test_float16(name, layout):
    _check(PROBLEMS[name], torch.float16, layout)


@pytest.mark.parametrize(("setting", "name"), [("highest", "SAGAN-128 at 32"), ("highest", "ragged"),
                                               ("high", "SAGAN-128 at 32"), ("high", "ragged")])  # fmt: skip
def test_float32(float32_settings, setting, name):
    torch.set_float32_matmul_precision(setting)
    _check(PROBLEMS[name], torch.float32, "channels_last")


@pytest.mark.parametrize("layout", ["channels_last slice", "nchw slice", "tokens first", "expanded"])
def test_layouts(layout):
    """Pitches, odd offsets and NaN around the tensors, after aligned calls of the same shape."""
    problem = PROBLEMS["SAGAN-128 at 32"]
    _check(problem, torch.bfloat16, "channels_last")
    _check(problem, torch.bfloat16, layout)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_pointers_that_are_not_aligned(layout):
    """The same sizes and strides one element further: what was compiled for aligned addresses must not run."""
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    inputs = make_inputs(PROBLEMS["SAGAN-128 at 32"], torch.bfloat16, layout, "cuda")
    check(ours("triton"), ours("reference"), inputs)
    shifted = []
    for x in inputs:
        packed = x.detach().clone(memory_format=format)
        buffer = packed.new_full((packed.numel() + 1,), float("nan"))
        place = buffer[1:].as_strided(packed.shape, packed.stride(), 1)
        shifted.append(place.copy_(packed).detach().requires_grad_())
        assert shifted[-1].data_ptr() % 16 == 2
    check(ours("triton"), ours("reference"), tuple(shifted))


@pytest.mark.parametrize(("queries", "keys"), [(512, 512), (200, 333), (333, 200)])
def test_causal(queries, keys):
    q, k, v = (torch.randn(2, 4, n, 64, device="cuda", dtype=torch.bfloat16) for n in (queries, keys, keys))
    inputs = tuple(x.requires_grad_() for x in (q, k, v))
    attend = functools.partial(scaled_dot_product_attention, is_causal=True)
    check(functools.partial(attend, backend="triton"), functools.partial(attend, backend="reference"), inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_logits(dtype):
    q, k, v = make_inputs(PROBLEMS["SAGAN-128 at 32"], dtype, "channels_last", "cuda")
    with torch.no_grad():
        factor = (1e4 / (q.double().flatten(2).mT @ k.double().flatten(2)).abs().max().item()) ** 0.5
        q.mul_(factor)
        k.mul_(factor)
    check(ours("triton"), ours("reference"), (q, k, v), order=0)
    output = ours("triton")(q, k, v)
    first = torch.autograd.grad(output.sum(), (q, k, v), create_graph=True)
    second = torch.autograd.grad(first, (q, k, v), [torch.ones_like(g) for g in first])
    assert all(torch.isfinite(g).all() for g in (*first, *second))


def test_float64_falls_back_to_the_reference():
    inputs = make_inputs(PROBLEMS["ragged"], torch.float64, "nchw", "cuda")
    check(ours("auto"), ours("reference"), inputs)
    with pytest.raises(ValueError, match="float64"):
        ours("triton")(*inputs)


def test_autocast():
    inputs = make_inputs(PROBLEMS["SAGAN-128 at 32"], torch.float32, "channels_last", "cuda")
    with torch.autocast("cuda", torch.bfloat16):
        output = ours("auto")(*inputs)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, ours("triton")(*(x.bfloat16() for x in inputs)))
    (gradient,) = torch.autograd.grad(output.sum(), inputs[:1])
    assert gradient.dtype == torch.float32
