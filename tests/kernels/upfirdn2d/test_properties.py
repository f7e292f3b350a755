"""Random factors, paddings of any sign, filters of 1 to 12 taps, sizes, gains and layouts."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.kernels.derivative_checks import check
from tests.kernels.upfirdn2d.problems import Problem, call, image


@st.composite
def problems(draw, most_taps=12):
    sizes = st.integers(1, 7)
    height, width = draw(sizes), draw(sizes)
    up, down = (draw(st.tuples(*[st.integers(1, 4)] * 2)) for _ in range(2))
    taps = st.integers(1, most_taps)
    taps = draw(st.one_of(st.just(()), st.tuples(taps), st.tuples(taps, taps)))
    rows, columns = (taps[0], taps[-1]) if taps else (1, 1)
    padding = []
    for size, least in ((width * up[0], columns), (height * up[1], rows)):
        before = draw(st.integers(-4, 6))
        # At least as much as the filter needs.
        padding += [before, max(draw(st.integers(-4, 6)), least - size - before)]
    shape = (draw(st.integers(1, 2)), draw(st.sampled_from((1, 2, 8))), height, width)
    return Problem(taps, up, down, tuple(padding), draw(st.booleans()), draw(st.floats(-4, 4)), shape)


def _check(problem, layout, backend, order=2):
    check(call(problem, backend), call(problem, "reference"), (image(problem, layout=layout),), order)


_layouts = st.sampled_from(["nchw", "channels_last"])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems(), _layouts)
def test_eager(problem, layout):
    _check(problem, layout, "eager")


@pytest.mark.interpreter
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(problems(most_taps=6), _layouts)
def test_triton(problem, layout):
    _check(problem, layout, "triton", order=1)


@pytest.mark.slow
@pytest.mark.interpreter
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(problems(), _layouts)
def test_triton_thoroughly(problem, layout):
    _check(problem, layout, "triton")
