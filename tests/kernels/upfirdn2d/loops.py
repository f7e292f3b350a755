"""Resampling written out element by element, in float64: what all implementations are held against."""

import torch
from torch import Tensor


def upfirdn2d(x: Tensor, f: Tensor, up, down, padding, flip_filter: bool, gain: float) -> Tensor:
    """up, down: (x, y); padding: (x0, x1, y0, y1); f of two dimensions."""
    batch, channels, height, width = x.shape
    left, right, top, bottom = padding
    # The image with zeros between its pixels and around it; what is cropped is not written.
    rows, columns = height * up[1] + top + bottom, width * up[0] + left + right
    image = torch.zeros(batch, channels, rows, columns, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            r, c = i * up[1] + top, j * up[0] + left
            if 0 <= r < rows and 0 <= c < columns:
                image[:, :, r, c] = x[:, :, i, j].double()
    taps_y, taps_x = f.shape
    out = []
    for r in range(0, rows - taps_y + 1, down[1]):
        for c in range(0, columns - taps_x + 1, down[0]):
            total = torch.zeros(batch, channels, dtype=torch.float64)
            for i in range(taps_y):
                for j in range(taps_x):
                    tap = f[i, j] if flip_filter else f[taps_y - 1 - i, taps_x - 1 - j]
                    total += tap.double() * image[:, :, r + i, c + j]
            out.append(gain * total)
    return torch.stack(out, 2).unflatten(2, (-1, (columns - taps_x) // down[0] + 1))
