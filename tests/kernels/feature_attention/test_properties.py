"""Random shapes, layouts and scales."""

import pytest
import torch

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from ganfuse.kernels import scaled_dot_product_attention  # noqa: E402
from ganfuse.kernels.backend import INTERPRETED  # noqa: E402
from tests.kernels.feature_attention.problems import LAYOUTS, Problem, check, make_inputs, ours  # noqa: E402

# The same examples each time: a failure in CI is one that anybody can repeat.
few = settings(
    derandomize=True,
    deadline=None,
    # An interpreted tile costs 16 ms.
    max_examples=8 if INTERPRETED else 40,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
side = st.integers(1, 7)
grids = st.tuples(side, side)
layouts = st.sampled_from(LAYOUTS)


@few
@given(
    problem=st.builds(Problem, st.integers(1, 2), st.integers(1, 40), st.integers(1, 40), grids, grids),
    layout=st.tuples(layouts, layouts, layouts),
    scale=st.floats(-2, 2, allow_subnormal=False),
)
def test_feature_attention(backend, problem, layout, scale):
    check(ours(backend, scale), ours("reference", scale), make_inputs(problem, torch.float64, layout))


@few
@given(
    lead=st.lists(st.integers(1, 2), max_size=3),
    sizes=st.tuples(*(st.integers(1, 35) for _ in range(4))),
    is_causal=st.booleans(),
    transposed=st.booleans(),
)
def test_scaled_dot_product_attention(backend, lead, sizes, is_causal, transposed):
    queries, keys, d, e = sizes
    shapes = (*lead, queries, d), (*lead, keys, d), (*lead, keys, e)
    inputs = tuple(torch.randn(s, dtype=torch.float64) for s in shapes)
    if transposed:
        inputs = tuple(x.mT.contiguous().mT for x in inputs)
    inputs = tuple(x.requires_grad_() for x in inputs)

    def attend(which):
        return lambda *x: scaled_dot_product_attention(*x, is_causal=is_causal, backend=which)

    check(attend(backend), attend("reference"), inputs)
