"""The definition in plain PyTorch (Karras et al. 2018, section 3; grouped as in StyleGAN2-ADA)."""

import torch
from torch import Tensor

EPS = 1e-8


def minibatch_stddev(x: Tensor, group: int, num_channels: int) -> Tensor:
    """`x` with `num_channels` channels more; `group` divides the batch."""
    batch, channels, height, width = x.shape
    if batch == 0:
        return torch.cat([x, x.new_empty(0, num_channels, height, width)], 1)
    # Sample i is in group i mod (batch / group).
    y = x.reshape(group, -1, num_channels, channels // num_channels, height, width)
    y = y - y.mean(0)
    y = (y.square().mean(0) + EPS).sqrt().mean((2, 3, 4))
    y = y.reshape(-1, num_channels, 1, 1).repeat(group, 1, height, width)
    y = torch.cat([x, y], 1)
    # One channel has no layout, so that cat does not know which one to take.
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return y.contiguous(memory_format=torch.channels_last) if last else y
