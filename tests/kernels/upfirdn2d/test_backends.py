"""Every backend against the definition: values and derivatives, layouts, types, and what an op promises besides."""

import pytest
import torch

from ganfuse.kernels import setup_filter, upfirdn2d, upsample2d
from ganfuse.kernels.launch import launch
from tests.kernels.derivative_checks import CL, check, check_third
from tests.kernels.upfirdn2d.problems import BACKENDS, LAYOUTS, PROBLEMS, Problem, call, image


def _both(name, backend):
    return call(PROBLEMS[name], backend), call(PROBLEMS[name], "reference")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_derivatives(name, backend):
    # Interpreted kernels are slow: each problem in one of the layouts, and a second derivative that is the third launch
    # of a kind in a few.
    layout = LAYOUTS[list(PROBLEMS).index(name) % 2]
    order = 2 if backend == "eager" or name in ("blur", "up", "no filter", "12 taps") else 1
    check(*_both(name, backend), (image(PROBLEMS[name], layout=layout),), order)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, backend):
    for name in ("up", "3/2"):
        x = image(PROBLEMS[name], layout=layout)
        results = []
        for f in _both(name, backend):
            y = f(x)
            # Expanded, as sums hand them out.
            results.append((y, *torch.autograd.grad(y.sum(), x)))
        for ours, plain in zip(*results):
            torch.testing.assert_close(ours, plain)
            assert ours.is_contiguous(memory_format=CL if layout == "channels_last" else torch.contiguous_format)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_types(dtype, backend):
    for name, layout in (("up", "channels_last"), ("3/2", "nchw"), ("12 taps", "nchw")):
        check(*_both(name, backend), (image(PROBLEMS[name], dtype, layout),), order=1)


def test_bfloat16_of_the_eager_form():
    for name in ("up", "down", "12 taps"):
        check(*_both(name, "eager"), (image(PROBLEMS[name], torch.bfloat16, "channels_last"),))


@pytest.mark.parametrize("backend", BACKENDS)
def test_finite_differences(backend):
    problem = PROBLEMS["up"]._replace(taps=(2, 3), shape=(1, 2, 2, 2))
    f, x = call(problem, backend), image(problem, layout="channels_last")
    assert torch.autograd.gradcheck(f, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(f, (x,), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_third(backend):
    problem = PROBLEMS["down"]._replace(shape=(1, 1, 4, 4))
    check_third(call(problem, backend), call(problem, "reference"), (image(problem),))


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_not_a_number_stays_under_its_taps(backend):
    for name in ("blur", "up", "3/2"):
        x = image(PROBLEMS[name], torch.float32).detach()
        x[0, 1, 2, 3], x[1, 0, 4, 0] = float("nan"), float("inf")
        ours, plain = (f(x) for f in _both(name, backend))
        torch.testing.assert_close(ours, plain, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend):
    for name in ("up", "3/2", "12 taps"):
        x = torch.randn(0, 3, 5, 6, requires_grad=True)
        y = call(PROBLEMS[name], backend)(x)
        assert y.shape == call(PROBLEMS[name], "reference")(x).shape
        assert torch.autograd.grad(y.sum(), x)[0].shape == x.shape


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_fresh_and_deterministic(backend):
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    for f, padding in ((setup_filter([1, 3, 3, 1]), 2), (None, 0), (None, -1)):
        y, again = (upfirdn2d(x * 1.0, f, padding=padding, backend=backend) for _ in range(2))
        assert torch.equal(y, again)
        before = x.detach().clone()
        # What codebases do with it.
        y.add_(1)
        torch.autograd.grad(y.sum(), x)
        assert torch.equal(x, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_changes_nothing(backend):
    x, f = torch.randn(1, 2, 5, 5, requires_grad=True), setup_filter([1, 3, 3, 1])
    results = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = upsample2d(x, f, backend=backend)
        results.append((y, *torch.autograd.grad(y.square().sum(), x)))
    for with_autocast, without in zip(*results):
        assert torch.equal(with_autocast, without)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_only_of_what_is_asked(backend):
    x, f = torch.randn(1, 2, 4, 4), setup_filter([1, 2, 1])
    assert not upsample2d(x, f, backend=backend).requires_grad
    with torch.no_grad():
        assert not upsample2d(x.requires_grad_(), f, backend=backend).requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_func_transforms(backend):
    problem = PROBLEMS["down"]._replace(taps=(2, 2), shape=(1, 2, 3, 3))
    x = image(problem).detach()
    results = [
        torch.func.grad(lambda x, f=f: torch.func.grad(lambda x: f(x).sin().sum())(x).sin().sum())(x)
        for f in (call(problem, backend), call(problem, "reference"))
    ]
    torch.testing.assert_close(*results)


@pytest.mark.interpreter
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_many_tiles(layout, monkeypatch):
    """Tiles so small that there are several along every axis, the last of them cut off."""
    from ganfuse.kernels.upfirdn2d import triton

    for name, value in {"_QUAD_WARPS": 1, "_PHASE_WARPS": 1, "_THREAD_BYTES": 8, "_THREAD_PLACES": 1}.items():
        monkeypatch.setattr(triton, name, value)
    sizes = []
    monkeypatch.setattr(triton, "launch", lambda *args, **kwargs: (sizes.append(args[1][0]), launch(*args, **kwargs)))
    triton._plan.cache_clear()
    try:
        shape = (1, 2, 5, 11) if layout == "nchw" else (1, 67, 2, 19)
        for up in ((2, 1), (3, 1)):
            problem = Problem((2, 2), up, padding=(1, 0, 1, 1), shape=shape)
            check(call(problem, "triton"), call(problem, "reference"), (image(problem, layout=layout),), order=0)
    finally:
        triton._plan.cache_clear()
    assert min(sizes) >= 4
