"""On a GPU: whole models and every shape and layout, in every type, against float64."""

import functools

import pytest
import torch
import torch.nn.functional as F

from ganfuse.kernels import spectral_normalize
from ganfuse.kernels.spectral_normalize import cases
from tests.kernels.assertions import assert_as_accurate
from tests.kernels.spectral_normalize.problems import WEIGHTS, Batch, make_batch

pytestmark = pytest.mark.gpu

MODELS = {
    "every shape": None,
    "BigGAN-128 D": functools.partial(cases.biggan_discriminator, 32),
    "BigGAN-128 G": functools.partial(cases.biggan_generator, 32),
}
MODES = {
    "v first": {},
    "two steps": {"n_power_iterations": 2},
    "u first": {"first": "u"},
    "stored": {"update": False},
}


def make(model: str, dtype: torch.dtype, layout: str = "as given") -> Batch:
    """Weights of a model on the GPU; the same numbers in every type that holds them."""
    if MODELS[model] is None:
        batch = make_batch(tuple(WEIGHTS), dtype)
        weights = [w.detach().cuda().requires_grad_() for w in batch.weights]
        return Batch(weights, [u.cuda() for u in batch.us], [v.cuda() for v in batch.vs], batch.dims)
    torch.manual_seed(0)
    weights, us, vs = [], [], []
    for shape in MODELS[model]():
        # Of rank one and noise: a step of the power method on noise alone is a matter of luck.
        u, v = F.normalize(torch.randn(shape[0]), dim=0), F.normalize(torch.randn(torch.Size(shape[1:]).numel()), dim=0)
        noise = torch.randn(len(u), len(v)) / (len(u) ** 0.5 + len(v) ** 0.5)
        w = (torch.outer(u, v) + 0.3 * noise).view(shape).bfloat16().to(dtype).cuda()
        if layout == "channels_last" and w.dim() == 4:
            w = w.contiguous(memory_format=torch.channels_last)
        weights.append(w.requires_grad_())
        us.append(F.normalize(u + 0.1 * torch.randn_like(u) / len(u) ** 0.5, dim=0).bfloat16().to(dtype).cuda())
        vs.append(F.normalize(v + 0.1 * torch.randn_like(v) / len(v) ** 0.5, dim=0).bfloat16().to(dtype).cuda())
    return Batch(weights, us, vs, [0] * len(weights))


def results(batch: Batch, backend: str, grads, cotangents, **options):
    """All that training with a gradient penalty computes, in lists by layer."""
    normalised, sigmas = spectral_normalize(
        batch.weights, batch.us, batch.vs, dims=batch.dims, backend=backend, **options
    )
    given = [g.to(n.dtype).requires_grad_() for g, n in zip(grads, normalised)]
    first = torch.autograd.grad(normalised, batch.weights, given, create_graph=True)
    cotangents = [c.to(f.dtype) for c, f in zip(cotangents, first)]
    second = torch.autograd.grad(first, (*given, *batch.weights), cotangents)
    count = len(normalised)
    return {
        "normalised": normalised, "sigma": sigmas, "u": batch.us, "v": batch.vs, "dW": first,
        "d grad": second[:count], "d2W": second[count:],
    }  # fmt: skip


def check(
    model: str, dtype: torch.dtype, layout: str = "as given", written: torch.dtype | None = None, **options
) -> None:
    torch.manual_seed(1)
    made = make(model, dtype, layout)
    grads = [torch.randn_like(w, dtype=torch.float32).bfloat16().float() for w in made.weights]
    cotangents = [torch.randn_like(w, dtype=torch.float32).bfloat16().float() for w in made.weights]
    ours = results(made, "triton", grads, cotangents, dtype=written, **options)
    theirs = results(make(model, dtype, layout), "reference", grads, cotangents, dtype=written, **options)
    exact = results(make(model, torch.float64, layout), "reference", grads, cotangents, **options)
    for what in ours:
        layers = [
            (a.detach().flatten(), p.detach().to(a.dtype).flatten(), e.detach().flatten())
            for a, p, e in zip(ours[what], theirs[what], exact[what], strict=True)
        ]
        assert_as_accurate(*(torch.cat(some) for some in zip(*layers)), what, factor=3.0)
        # In one layer plain PyTorch may be lucky, but not by orders of magnitude.
        for i, (a, p, e) in enumerate(layers):
            if len(a) >= 64:
                assert_as_accurate(a, p, e, f"{what} of layer {i}", factor=16.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", MODELS)
def test_float32(model, mode):
    check(model, torch.float32, **MODES[mode])


@pytest.mark.parametrize("model", ["BigGAN-128 D", "BigGAN-128 G"])
def test_channels_last(model):
    check(model, torch.float32, "channels_last")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model", ["every shape", "BigGAN-128 D"])
def test_weights_written_in_a_half_type(model, dtype):
    check(model, torch.float32, written=dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_half_type_is_the_same_weight_rounded_once(dtype):
    outputs = []
    for kind in (None, dtype):
        batch = make("BigGAN-128 D", torch.float32)
        outputs.append((*spectral_normalize(batch.weights, batch.us, batch.vs, dtype=kind, backend="triton"), batch.us))
    for full, half in zip(outputs[0][0], outputs[1][0]):
        assert half.dtype == dtype
        assert torch.equal(full.to(dtype), half)
    for ours, theirs in ((0, 1), (1, 0)):
        for k in (1, 2):
            assert all(torch.equal(a, b) for a, b in zip(outputs[ours][k], outputs[theirs][k]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_weights(dtype):
    """Parameters that are halves themselves: statistics are float32 all the same."""
    batch, exact = make("BigGAN-128 D", dtype), make("BigGAN-128 D", torch.float64)
    normalised, sigmas = spectral_normalize(batch.weights, batch.us, batch.vs, backend="triton")
    expected, expected_sigmas = spectral_normalize(exact.weights, exact.us, exact.vs, backend="reference")
    eps = torch.finfo(dtype).eps
    for n, e, s, t in zip(normalised, expected, sigmas, expected_sigmas):
        assert n.dtype == dtype
        assert s.dtype == torch.float32
        torch.testing.assert_close(s.double(), t, rtol=1e-5, atol=0)
        torch.testing.assert_close(n.double(), e, rtol=eps, atol=eps * e.detach().abs().max().item())


def test_unaligned_addresses():
    """The same weights one element further: what was compiled for aligned addresses must not run."""
    batch, moved = make("BigGAN-128 D", torch.float32), make("BigGAN-128 D", torch.float32)
    weights = []
    for w in moved.weights:
        buffer = w.new_full((w.numel() + 1,), float("nan"))
        place = buffer[1:].view(w.shape)
        weights.append(place.copy_(w.detach()).detach().requires_grad_())
        assert weights[-1].data_ptr() % 16 == 4
    first = spectral_normalize(batch.weights, batch.us, batch.vs, backend="triton")[0]
    second = spectral_normalize(weights, moved.us, moved.vs, backend="triton")[0]
    grads = [torch.randn_like(w) for w in weights]
    gradients = (torch.autograd.grad(first, batch.weights, grads), torch.autograd.grad(second, weights, grads))
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_zero_weight():
    batch = make("every shape", torch.float32)
    with torch.no_grad():
        batch.weights[6].zero_()
    before = batch.us[6].clone(), batch.vs[6].clone()
    normalised, _ = spectral_normalize(batch.weights, batch.us, batch.vs, dims=batch.dims, backend="triton")
    assert not normalised[6].any()
    torch.testing.assert_close((batch.us[6], batch.vs[6]), before, rtol=1e-6, atol=0)
    gradients = torch.autograd.grad(sum(n.sum() for n in normalised), batch.weights)
    assert all(g.isfinite().all() for g in gradients)


def test_float64_takes_the_eager_form():
    batch, plain = make("every shape", torch.float64), make("every shape", torch.float64)
    actual = spectral_normalize(batch.weights, batch.us, batch.vs, dims=batch.dims, backend="auto")
    expected = spectral_normalize(plain.weights, plain.us, plain.vs, dims=plain.dims, backend="eager")
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="float64"):
        spectral_normalize(batch.weights, batch.us, batch.vs, dims=batch.dims, backend="triton")
