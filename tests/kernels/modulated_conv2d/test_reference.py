"""The definition against formulas written out with loops in float64."""

import pytest
import torch

from ganfuse.kernels.backend import recording_export
from tests.kernels.modulated_conv2d.problems import LAYERS, by_loops, call, make_inputs


@pytest.mark.parametrize("layer", LAYERS)
def test_formula(layer):
    inputs = make_inputs(LAYERS[layer])
    expected = by_loops(LAYERS[layer], inputs)
    torch.testing.assert_close(call(LAYERS[layer], backend="reference")(*inputs), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layer", LAYERS)
def test_what_is_recorded_for_export_has_no_group_per_sample(layer):
    problem = LAYERS[layer]
    inputs = make_inputs(problem)
    groups = []
    convolve = torch.nn.functional.conv2d

    def watched(*arguments, **options):
        groups.append(options.get("groups", 1))
        return convolve(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch, recording_export():
        patch.setattr(torch.nn.functional, "conv2d", watched)
        made = call(problem)(*inputs)
    torch.testing.assert_close(made, by_loops(problem, inputs), rtol=1e-10, atol=1e-10)
    # Filters are grouped by channels.
    assert set(groups) <= {1, problem.inputs, problem.outputs}
