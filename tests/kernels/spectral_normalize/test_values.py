"""Values, vectors and derivatives of every backend, against PyTorch's own spectral norms and the definition."""

import pytest
import torch
import torch.nn.utils as reference
from torch import nn

from ganfuse.kernels import spectral_normalize
from tests.kernels.spectral_normalize.problems import WEIGHTS, Batch, derivatives, make_batch, rows_of

F64 = torch.float64
MODES = {
    "one step": {},
    "three steps": {"n_power_iterations": 3},
    "u first": {"first": "u"},
    "u first, two steps": {"first": "u", "n_power_iterations": 2},
    "stored": {"update": False},
}
SOME = ("conv", "conv channels_last", "conv_transpose", "linear", "1x1", "nx1")


def _shapes(backend: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return (*SOME, "very wide") if backend == "triton" else names


def run(batch: Batch, backend: str, **options):
    return spectral_normalize(batch.weights, batch.us, batch.vs, dims=batch.dims, backend=backend, **options)


def assert_all_close(actual, expected, tolerance=1e-10, names=WEIGHTS):
    for name, a, e in zip(names, actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def _torch_hook(weight, u, v, dim, **options):
    """What torch.nn.utils.spectral_norm computes of a weight."""
    module = nn.Module()
    module.weight = nn.Parameter(weight.detach())
    training = options.pop("update", True)
    reference.spectral_norm(module, dim=dim, **options)
    module.weight_u.copy_(u)
    module.weight_v.copy_(v)
    module.weight_orig = nn.Parameter(weight.detach().clone())
    hook = next(iter(module._forward_pre_hooks.values()))
    module.train(training)
    hook(module, None)
    return module.weight, module.weight_orig, module.weight_u, module.weight_v


def _torch_parametrization(weight, u, v, dim, **options):
    module = nn.Module()
    module.weight = nn.Parameter(weight.detach().clone())
    reference.parametrizations.spectral_norm(module, dim=dim, **options)
    method = module.parametrizations.weight[0]
    method._u.copy_(u)
    method._v.copy_(v)
    return module.weight, module.parametrizations.weight.original, method._u, method._v


def _compare_with_torch(backend, theirs, torch_options, **options):
    # All shapes once under the interpreter, which is slow.
    once = options.get("first", "v") == "v" and options.get("n_power_iterations") == 1
    names = tuple(WEIGHTS) if once else _shapes(backend, tuple(WEIGHTS))
    batch = make_batch(names)
    expected = [theirs(w, u, v, d, **torch_options) for w, u, v, d in zip(*batch)]
    normalised, sigmas = run(batch, backend, **options)
    assert_all_close(normalised, [e[0] for e in expected], names=names)
    assert_all_close(batch.us, [e[2] for e in expected], names=names)
    assert_all_close(batch.vs, [e[3] for e in expected], names=names)
    for n, s, w in zip(normalised, sigmas, batch.weights):
        torch.testing.assert_close(n * s, w, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(sum(n.sin().sum() for n in normalised), batch.weights)
    theirs_gradients = [torch.autograd.grad(e[0].sin().sum(), e[1])[0] for e in expected]
    assert_all_close(gradients, theirs_gradients, names=names)


@pytest.mark.parametrize("steps", [1, 2])
def test_equals_torch_hook(backend, steps):
    options = {"n_power_iterations": steps}
    _compare_with_torch(backend, _torch_hook, options, **options)


def test_equals_torch_hook_in_evaluation(backend):
    _compare_with_torch(backend, _torch_hook, {"update": False}, update=False)


@pytest.mark.parametrize("steps", [1, 2])
def test_equals_torch_parametrization_for_the_same_vectors(backend, steps):
    options = {"n_power_iterations": steps}
    _compare_with_torch(backend, _torch_parametrization, options, first="u", **options)


def test_biggan_evaluation_takes_one_step_and_stores_nothing(backend):
    batch, stepped = make_batch(SOME), make_batch(SOME)
    expected = run(stepped, "reference")
    kept = [u.clone() for u in batch.us]
    for steps in (1, 4):
        normalised, sigmas = spectral_normalize(
            batch.weights, batch.us, dims=batch.dims, update=False, n_power_iterations=steps, backend=backend
        )
        torch.testing.assert_close(normalised, expected[0], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(sigmas, expected[1], rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(batch.us, kept, rtol=0, atol=0)


def test_without_v_only_u_is_stored(backend):
    batch, both = make_batch(SOME), make_batch(SOME)
    normalised, _ = spectral_normalize(batch.weights, batch.us, dims=batch.dims, backend=backend)
    expected, _ = run(both, "reference")
    torch.testing.assert_close(normalised, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(batch.us, both.us, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", MODES)
def test_derivatives_up_to_the_third(backend, mode):
    names = SOME if backend == "triton" else tuple(WEIGHTS)
    batch, plain = make_batch(names), make_batch(names)
    actual = derivatives(*run(batch, backend, **MODES[mode]), batch.weights, 3)
    expected = derivatives(*run(plain, "reference", **MODES[mode]), plain.weights, 3)
    for order, (a, e) in enumerate(zip(actual, expected), 1):
        for name, x, y in zip(names, a, e):
            torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-9, msg=lambda m, n=name, o=order: f"{n}, {o}: {m}")


@pytest.mark.interpreter
def test_second_derivatives_over_several_strips():
    names = ("several strips", "several strips, unaligned")
    batch, plain = make_batch(names), make_batch(names)
    actual = derivatives(*run(batch, "triton"), batch.weights, 2)
    expected = derivatives(*run(plain, "reference"), plain.weights, 2)
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-8, atol=1e-8)


def test_gradcheck_and_gradgradcheck(backend):
    """With vectors that are constants, as autograd takes them: a step would move them with the weight."""
    batch = make_batch(("conv_transpose", "linear") if backend == "triton" else ("conv", "conv_transpose", "linear"))
    _, us, vs, dims = batch

    def function(*weights):
        outputs, sigmas = spectral_normalize(weights, us, vs, dims=dims, update=False, backend=backend)
        return (*outputs, *sigmas)

    assert torch.autograd.gradcheck(function, tuple(batch.weights), fast_mode=True)
    assert torch.autograd.gradgradcheck(function, tuple(batch.weights), fast_mode=True)


def test_converges_to_the_largest_singular_value():
    batch = make_batch()
    _, sigmas = run(batch, "eager", n_power_iterations=800)
    for name, w, s, d in zip(WEIGHTS, batch.weights, sigmas, batch.dims):
        exact = torch.linalg.svdvals(rows_of(w.detach(), d))[0]
        torch.testing.assert_close(s.detach(), exact, rtol=1e-9, atol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.interpreter
def test_kernels_converge_to_the_largest_singular_value():
    batch = make_batch(("linear", "nx1"))
    _, sigmas = run(batch, "triton", n_power_iterations=15)
    exact = [torch.linalg.svdvals(rows_of(w.detach(), d))[0] for w, d in zip(batch.weights, batch.dims)]
    torch.testing.assert_close([s.detach() for s in sigmas], exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_weight_of_zeros_stays_zero_and_keeps_its_vectors(backend, mode):
    batch = make_batch(("linear", "conv"))
    with torch.no_grad():
        batch.weights[0].zero_()
    before = batch.us[0].clone(), batch.vs[0].clone()
    normalised, _ = run(batch, backend, **MODES[mode])
    assert torch.equal(normalised[0], torch.zeros_like(normalised[0]))
    torch.testing.assert_close((batch.us[0], batch.vs[0]), before, rtol=1e-12, atol=1e-12)
    gradients = torch.autograd.grad(sum(n.sum() for n in normalised), batch.weights)
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_low_precision(backend, dtype):
    """float16 weights; and float32 ones written in float16."""
    names = ("conv", "linear", "conv channels_last")
    batch, exact = make_batch(names, dtype), make_batch(names)
    normalised, _ = run(batch, backend, dtype=torch.float16)
    expected, _ = run(exact, "reference")
    for n, e in zip(normalised, expected):
        assert n.dtype == torch.float16
        torch.testing.assert_close(n.double(), e, rtol=4e-3, atol=4e-3)
    gradients = torch.autograd.grad(sum(n.float().square().sum() for n in normalised), batch.weights)
    truth = torch.autograd.grad(sum(e.square().sum() for e in expected), exact.weights)
    for g, t in zip(gradients, truth):
        assert g.dtype == dtype
        torch.testing.assert_close(g.double(), t, rtol=3e-2, atol=1e-2)


def test_layout_is_kept(backend):
    names = _shapes(backend, tuple(WEIGHTS))
    batch = make_batch(names)
    normalised, _ = run(batch, backend)
    gradients = torch.autograd.grad(sum(n.square().sum() for n in normalised), batch.weights)
    for name, w, n, g in zip(names, batch.weights, normalised, gradients):
        if "holes" not in name:
            assert n.stride() == w.stride(), name
            assert g.stride() == w.stride(), name
        assert n._base is None, name  # code that changes results in place is common


@pytest.mark.parametrize("kind", ["expanded", "other layout"])
def test_gradients_of_any_strides(backend, kind):
    batch, plain = make_batch(SOME), make_batch(SOME)
    grads = []
    for w in batch.weights:
        if kind == "expanded":
            grads.append(torch.ones((), dtype=F64).expand(w.shape))
        else:
            grads.append(torch.randn(w.shape[::-1], dtype=F64).permute(*range(w.dim())[::-1]))
    actual = torch.autograd.grad(run(batch, backend)[0], batch.weights, grads)
    expected = torch.autograd.grad(run(plain, "reference")[0], plain.weights, grads)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def test_only_what_is_asked_for(backend):
    """Weights that are frozen, and normalised weights that the loss does not see."""
    batch, plain = make_batch(SOME), make_batch(SOME)
    found = []
    for some, which in ((batch, backend), (plain, "reference")):
        some.weights[1].requires_grad_(False)
        normalised, _ = run(some, which)
        assert not normalised[1].requires_grad
        (normalised[0].sum() + (normalised[3] * normalised[1].sum()).square().sum()).backward()
        found.append([w.grad for w in some.weights])
    assert [g is None for g in found[0]] == [g is None for g in found[1]] == [False, True, True, False, True, True]
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found[0][3], found[1][3], rtol=1e-10, atol=1e-10)


def test_graphs_keep_their_own_vectors(backend):
    batch, plain = make_batch(SOME), make_batch(SOME)
    losses = []
    for some, which in ((batch, backend), (plain, "reference")):
        first, _ = run(some, which)
        run(some, which)  # moves the vectors that the first graph was made with
        losses.append(torch.autograd.grad(sum(n.sin().sum() for n in first), some.weights))
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-10)


def test_same_bits_every_time(backend):
    results = []
    for _ in range(2):
        batch = make_batch(("several strips", "conv"), torch.float32)
        normalised, _ = run(batch, backend)
        gradients = torch.autograd.grad(sum(n.sin().sum() for n in normalised), batch.weights)
        results.append((normalised, batch.us, gradients))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_empty_and_mixed(backend):
    """No weights, an empty one, types that differ within a call."""
    assert spectral_normalize([], [], [], backend=backend) == ([], [])
    batch = make_batch(("linear",))
    other = make_batch(("conv",), torch.float32)
    weights = [*batch.weights, torch.zeros(0, 3, dtype=F64, requires_grad=True), *other.weights]
    us = [*batch.us, torch.zeros(0, dtype=F64), *other.us]
    normalised, sigmas = spectral_normalize(weights, us, backend=backend)
    assert [n.dtype for n in normalised] == [F64, F64, torch.float32]
    assert normalised[1].shape == (0, 3)
    assert len(sigmas) == 3
    sum(n.sum().double() for n in normalised).backward()
    assert weights[0].grad is not None


def test_meta_tensors():
    weight, u = torch.empty(4, 3, device="meta"), torch.empty(4, device="meta")
    normalised, _ = spectral_normalize([weight], [u])
    assert normalised[0].is_meta
