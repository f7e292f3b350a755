"""Random geometries: every form agrees with the definition."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.derivative_checks import check
from tests.kernels.modulated_conv2d.problems import Problem, call, make_inputs, output_size

PROBLEMS = st.builds(
    Problem,
    batch=st.integers(1, 3),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    up=st.integers(1, 3),
    down=st.integers(1, 3),
    padding=st.integers(-1, 3) | st.tuples(*[st.integers(-1, 3)] * 4),
    filtered=st.booleans(),
    demodulate=st.booleans(),
    flip_weight=st.booleans(),
    noise=st.sampled_from(["own", "shared", "flat", None]),
    bias=st.booleans(),
    act=st.sampled_from(["linear", "lrelu"]),
    clamp=st.sampled_from([None, 0.8]),
)


def _is_possible(problem: Problem) -> bool:
    if min(output_size(problem)) < 1:
        return False
    try:
        call(problem, backend="reference")(*(t.detach() for t in make_inputs(problem)))
    except ValueError:
        # The filter before or after is larger than what it filters.
        return False
    return True


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problem=PROBLEMS.filter(_is_possible), form=st.sampled_from(["scaled", "grouped"]), last=st.booleans())
def test_forms_agree(problem, form, last):
    inputs = make_inputs(problem, layout="channels_last" if last else "nchw")
    check(call(problem, form=form), call(problem, backend="reference"), inputs, order=1)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(problem=PROBLEMS)
def test_what_one_form_takes_the_definition_takes(problem):
    """Errors come from the checks, before any work, and are the same for all."""
    inputs = [torch.zeros(1)] if min(output_size(problem)) < 1 else [t.detach() for t in make_inputs(problem)]
    if len(inputs) == 1:
        problem = problem._replace(noise=None, bias=False)
        inputs = [t.detach() for t in make_inputs(problem)]
    outcomes = []
    for options in ({"backend": "reference"}, {"form": "scaled"}):
        try:
            outcomes.append(call(problem, **options)(*inputs).shape)
        except ValueError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
