import torch

from ganfuse.kernels import upfirdn2d
from ganfuse.kernels.upfirdn2d import cost


def test_bytes_are_those_of_the_maps_and_flops_those_of_the_loops():
    x = torch.empty(2, 3, 8, 6, dtype=torch.float16)
    y = upfirdn2d(x, torch.ones(4, 2), up=2, padding=[1, 0, 2, 1])
    least = cost.forward(x.numel(), y.numel(), 2, (4, 2), (2, 2))
    assert least.bytes == x.nbytes + y.nbytes
    # Of 4 × 2 taps, 2 × 1 are over pixels.
    assert least.flops == 2 * 2 * y.numel()
    assert cost.backward(y.numel(), x.numel(), 2, (4, 2), (1, 1)).flops == 2 * 8 * x.numel()
