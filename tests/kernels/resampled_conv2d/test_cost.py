"""The cost formulas against the convolutions that run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ganfuse.kernels.resampled_conv2d import cost
from tests.kernels.resampled_conv2d.definitions import FUNCTIONS

B, CIN, COUT, H, W = 2, 3, 4, 6, 8


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("form", ["plain", "folded"])
@pytest.mark.parametrize("size", [1, 3])
def test_cost(name, form, size):
    up = name == "up"
    x = torch.randn(B, CIN, H if up else 2 * H, W if up else 2 * W, requires_grad=True)
    weight = torch.randn(COUT, CIN, size, size, requires_grad=True)

    def count(run):
        with FlopCounterMode(display=False) as counter:
            result = run()
        counts = counter.get_flop_counts()["Global"]
        return result, sum(flops for op, flops in counts.items() if "convolution" in str(op))

    y, forward = count(lambda: FUNCTIONS[name](x, weight, form=form))
    grad = torch.randn_like(y, requires_grad=True)
    first, backward = count(lambda: torch.autograd.grad(y, (x, weight), grad, create_graph=True))
    cotangents = [torch.randn_like(g) for g in first]
    _, double = count(lambda: torch.autograd.grad(first, (grad, x, weight), cotangents))
    for formula, flops, elements in (
        (cost.forward, forward, x.numel() + weight.numel() + y.numel()),
        (cost.backward, backward, 2 * x.numel() + 2 * weight.numel() + y.numel()),
        (cost.double_backward, double, 3 * x.numel() + 3 * weight.numel() + 2 * y.numel()),
    ):
        found = formula(form, up, B, CIN, COUT, H, W, size, 2)
        assert found.bytes == 2 * elements
        # The least there is. PyTorch's second backward of some convolutions computes more than it keeps.
        assert found.flops == flops or (formula is cost.double_backward and 4 * forward == found.flops < flops)
