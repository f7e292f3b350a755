"""The door of torch.compile: a custom op whose gradient is itself."""

import pytest
import torch

from ganfuse.kernels import upfirdn2d
from ganfuse.kernels.upfirdn2d.geometry import Sampling
from tests.kernels.derivative_checks import check, check_third
from tests.kernels.upfirdn2d.problems import BACKENDS, PROBLEMS, call, image

_TESTS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_opcheck(layout, backend):
    x = image(PROBLEMS["up"], layout=layout)
    for f in (torch.rand(4, 4), torch.rand(4), None) if backend == "eager" else (torch.rand(2, 2),):
        taps = 1 if f is None else f.shape[0]
        sampling = _sampling(taps, 5, 6, backend, layout == "channels_last")
        torch.library.opcheck(torch.ops.ganfuse.upfirdn2d.default, (x, f, *sampling), test_utils=_TESTS)


def _sampling(taps, height, width, backend, last=False):
    """Twice up, with the padding that keeps the image in its place."""
    return Sampling(2, 2, 1, 1, 2, 2, 2 * width + 4 - taps, 2 * height + 4 - taps, False, 4.0, last, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamic, backend):
    torch.compiler.reset()
    for name in ("up", "12 taps down") if backend == "eager" else ("up",):
        problem = PROBLEMS[name]._replace(shape=(1, 2, 4, 3))
        compiled = torch.compile(call(problem, backend), fullgraph=True, backend="aot_eager", dynamic=dynamic)
        check(compiled, call(problem, "reference"), (image(problem, layout="channels_last"),), order=1)
        other = problem._replace(shape=(2, 3, 4, 5))
        check(compiled, call(other, "reference"), (image(other),), order=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_derivatives_of_all_orders(backend):
    """The formula calls the op again, and so on."""
    f = torch.rand(2, 2)
    x = torch.randn(1, 1, 2, 2, dtype=torch.float64, requires_grad=True)

    def op(x):
        return torch.ops.ganfuse.upfirdn2d(x, f, *_sampling(2, 2, 2, backend))

    assert torch.autograd.gradgradcheck(op, (x,), fast_mode=True)
    check_third(op, lambda x: upfirdn2d(x, f, 2, 1, [2, 2, 2, 2], gain=4.0, backend="reference"), (x,))
