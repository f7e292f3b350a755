"""The least traffic of the pointwise kernels is that of the tensors that go in and come out."""

import torch

from ganfuse.kernels.bias_act import cost as bias_act_cost
from ganfuse.kernels.minibatch_stddev import cost as minibatch_stddev_cost
from ganfuse.kernels.pixel_norm import cost as pixel_norm_cost


def _bytes(*tensors: torch.Tensor) -> int:
    return sum(t.numel() * t.itemsize for t in tensors)


def test_bias_act():
    x = torch.empty(2, 3, 4, 5, dtype=torch.float16)
    assert bias_act_cost.forward(120, 2, "lrelu").bytes == _bytes(x, x)
    assert bias_act_cost.backward(120, 2, "lrelu").bytes == _bytes(x, x, x)
    assert bias_act_cost.double_backward(120, 2, "lrelu").bytes == _bytes(x, x, x)
    assert bias_act_cost.double_backward(120, 2, "swish").bytes == _bytes(x, x, x, x, x)
    assert bias_act_cost.forward(120, 2, "lrelu").exps == 0
    assert bias_act_cost.forward(120, 2, "swish").exps == 120


def test_pixel_norm():
    x, r = torch.empty(2, 3, 4, 5, dtype=torch.bfloat16), torch.empty(2, 1, 4, 5)
    assert pixel_norm_cost.forward(120, 40, 2).bytes == _bytes(x, x, r)
    assert pixel_norm_cost.backward(120, 40, 2).bytes == _bytes(x, x, x, r, r)
    assert pixel_norm_cost.double_backward(120, 40, 2).bytes == _bytes(x, x, x, x, x, r, r)


def test_minibatch_stddev():
    x, y = torch.empty(4, 6, 2, 3), torch.empty(4, 8, 2, 3)
    assert minibatch_stddev_cost.forward(4, 6, 6, 4, 2).bytes == _bytes(x, y)
    assert minibatch_stddev_cost.backward(4, 6, 6, 4, 2).bytes == _bytes(x, x, y)
    assert minibatch_stddev_cost.double_backward(4, 6, 6, 4, 2).bytes == _bytes(x, x, x, y)
