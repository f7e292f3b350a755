"""The definition against formulas written out with loops in float64."""

import pytest
import torch

from tests.kernels.modulated_conv2d.problems import LAYERS, by_loops, call, make_inputs


@pytest.mark.parametrize("layer", LAYERS)
def test_formula(layer):
    inputs = make_inputs(LAYERS[layer])
    expected = by_loops(LAYERS[layer], inputs)
    torch.testing.assert_close(call(LAYERS[layer], backend="reference")(*inputs), expected, rtol=1e-10, atol=1e-10)
