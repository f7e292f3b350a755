"""The least traffic is that of the tensors that go in and come out; the arithmetic is what PyTorch counts."""

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ganfuse.kernels.modulated_conv2d import cost as conv_cost
from ganfuse.kernels.scaled_bias_act import cost as epilogue_cost


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.itemsize for t in tensors)


def test_scaled_bias_act():
    x, noise = torch.empty(2, 3, 4, 5, dtype=torch.float16), torch.empty(2, 1, 4, 5)
    assert epilogue_cost.forward(120, 2, "lrelu", 40).bytes == _bytes(x, x, noise)
    assert epilogue_cost.backward(120, 2, "lrelu", 40).bytes == _bytes(x, x, x, noise, noise)
    assert epilogue_cost.double_backward(120, 2, "lrelu", 40).bytes == _bytes(x, x, x, x, x, noise, noise)
    assert epilogue_cost.double_backward(120, 2, "swish", 40).bytes == _bytes(x, x, x, x, x, noise, noise, noise)
    assert [epilogue_cost.forward(120, 2, act).exps for act in ("lrelu", "swish")] == [0, 120]


def test_modulated_conv2d():
    x, weight = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randn(6, 3, 3, 3, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        y = F.conv2d(x, weight, padding=1)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    shape = (2, 3, 6, 16, 9, 4)
    assert conv_cost.forward(*shape).flops == forward.get_total_flops()
    assert conv_cost.backward(*shape).flops == backward.get_total_flops()
    assert conv_cost.forward(*shape).bytes == _bytes(x, weight, y)
    assert conv_cost.backward(*shape).bytes == _bytes(x, x, weight, weight, y, y)
