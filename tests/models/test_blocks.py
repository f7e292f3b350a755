"""Residual blocks against figure 14 of Miyato & Koyama 2018, step by step at the resolutions that it names."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ganfuse.models.blocks import DownBlock, UpBlock
from ganfuse.models.layer_factory import LayerFactory

F64 = torch.float64
PLAIN = LayerFactory(spectral=False)


def _up(block, x, labels):
    def upsampled(x):
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    condition = () if labels is None else (labels,)
    h = F.conv2d(upsampled(block.bn1(x, *condition)), block.conv1.weight, block.conv1.bias, padding=1)
    h = F.conv2d(block.bn2(h, *condition), block.conv2.weight, block.conv2.bias, padding=1)
    return h + F.conv2d(upsampled(x), block.conv_sc.weight, block.conv_sc.bias)


def _down(block, x):
    h = F.relu(x) if block.preactivation else x
    h = F.conv2d(h, block.conv1.weight, block.conv1.bias, padding=1)
    h = F.conv2d(F.relu(h), block.conv2.weight, block.conv2.bias, padding=1)
    shortcut = x if block.conv_sc is None else F.conv2d(x, block.conv_sc.weight, block.conv_sc.bias)
    return F.avg_pool2d(h + shortcut, 2) if block.downsample else h + shortcut


def _same_to_second_order(block, formula, x, *labels):
    results = []
    for run in (block, formula):
        y = run(x, *labels)
        (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        total = gradient.square().sum() + y.sum()
        results.append((y, gradient, *torch.autograd.grad(total, [x, *block.parameters()], allow_unused=True)))
    for a, e in zip(*results, strict=True):
        assert (a is None) == (e is None)
        if a is not None:
            torch.testing.assert_close(a, e, rtol=1e-9, atol=1e-9)


# So few pixels that the convolutions run as they are written, and enough that their kernels are folded.
@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_up(side, num_classes):
    block = UpBlock(4, 3, norm=partial(PLAIN.batch_norm, num_classes=num_classes), layers=PLAIN).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 4, side, side, dtype=F64, requires_grad=True)
    labels = None if num_classes is None else torch.tensor([2, 0])
    _same_to_second_order(block, lambda x, labels: _up(block, x, labels), x, labels)


@pytest.mark.parametrize("side", [4, 16])
@pytest.mark.parametrize("options", [{}, {"preactivation": False}, {"downsample": False}], ids=str)
@pytest.mark.parametrize("outputs", [3, 5])
def test_down(side, options, outputs):
    block = DownBlock(3, outputs, layers=PLAIN, **options).double()
    _same_to_second_order(
        block, lambda x: _down(block, x), torch.randn(2, 3, side, side, dtype=F64, requires_grad=True)
    )


class Products(TorchDispatchMode):
    """Multiply-adds of convolutions."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "convolution":
            x, weight, transposed = args[0], args[1], args[6]
            pixels = x.numel() // x.shape[1] if transposed else result.numel() // result.shape[1]
            self.count += pixels * weight.numel()
        return result


def test_work():
    """16 of 36 multiply-adds per pixel of the low resolution, and one of four."""
    c, pixels = 4, 2 * 8 * 8
    for block, x in (
        (UpBlock(c, c, norm=PLAIN.batch_norm, layers=PLAIN), torch.randn(2, c, 8, 8)),
        (DownBlock(c, c, layers=PLAIN), torch.randn(2, c, 16, 16)),
    ):
        with Products() as work:
            block(x)
        assert work.count == pixels * c * c * (16 + 36 + 1)
