"""Both functions as sums over pixels and taps, written out in float64; and inputs for them."""

import itertools

import torch

from ganfuse.kernels import conv2d_downsample, upsample_conv2d
from tests.kernels.derivative_checks import numbers

FUNCTIONS = {"up": upsample_conv2d, "down": conv2d_downsample}


def _pixel(x, row, column, padding_mode):
    """(B, C) at a place that may be one outside of the map."""
    height, width = x.shape[2:]
    if padding_mode == "reflect":
        row = -row if row < 0 else 2 * (height - 1) - row if row >= height else row
        column = -column if column < 0 else 2 * (width - 1) - column if column >= width else column
    if not (0 <= row < height and 0 <= column < width):
        return x.new_zeros(x.shape[:2])
    return x[:, :, row, column]


def _convolved(x, weight, bias, padding_mode):
    size = weight.shape[-1]
    rows = []
    for i in range(x.shape[2]):
        row = []
        for j in range(x.shape[3]):
            total = torch.zeros(x.shape[0], weight.shape[0], dtype=x.dtype) + (0 if bias is None else bias)
            for k, m in itertools.product(range(size), repeat=2):
                at = _pixel(x, i + k - size // 2, j + m - size // 2, padding_mode)
                total = total + at @ weight[:, :, k, m].t()
            row.append(total)
        rows.append(torch.stack(row, -1))
    return torch.stack(rows, -2)


def definition(name, x, weight, bias, padding_mode="zeros"):
    """What ``FUNCTIONS[name]`` means."""
    if name == "up":
        up = torch.stack([x[:, :, i // 2] for i in range(2 * x.shape[2])], 2)
        up = torch.stack([up[..., j // 2] for j in range(2 * x.shape[3])], 3)
        return _convolved(up, weight, bias, padding_mode)
    y = _convolved(x, weight, bias, padding_mode)
    rows, columns = y.shape[2] // 2, y.shape[3] // 2
    mean = [
        [y[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum((2, 3)) / 4 for j in range(columns)] for i in range(rows)
    ]
    return torch.stack([torch.stack(row, -1) for row in mean], -2)


def inputs(shape=(2, 3, 4, 5), out_channels=4, size=3, bias=True, dtype=torch.float64):
    """x, weight and bias, which require grad."""
    x = numbers(shape, torch.float64, 0)
    weight = numbers((out_channels, shape[1], size, size), torch.float64, 1)
    tensors = [x, weight, numbers((out_channels,), torch.float64, 2) if bias else None]
    return [None if t is None else t.to(dtype).requires_grad_() for t in tensors]
