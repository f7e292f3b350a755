"""Norms as public codebases write them in plain PyTorch, and the same by ganfuse; of (map, gain, bias, rho)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels import batch_norm_act, group_norm_act, instance_norm_act, layer_instance_norm_act

Norm = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
GROUPS = 4


def _per(v: Tensor) -> Tensor:
    return v[..., None, None]


def running_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """New ones, to be updated: what training does."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_zeros(x.shape[1], dtype=dtype), x.new_ones(x.shape[1], dtype=dtype)


def ours_conditional_batch_norm(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    return batch_norm_act(x, gain, bias, *running_statistics(x), training=True, activation="relu")


def conditional_batch_norm(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    """BigGAN-PyTorch's ccbn, and the ReLU behind it."""
    y = F.batch_norm(x, *running_statistics(x), None, None, True, 0.1, 1e-5)
    return F.relu(y * _per(gain) + _per(bias))


def ours_batch_norm(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    return batch_norm_act(x, gain, bias, *running_statistics(x), training=True, activation="relu")


def batch_norm(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    """A batch norm with a gain and bias for each channel, and the ReLU behind it."""
    return batch_norm_relu(x, gain, bias)


def ours_group_norm(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    return group_norm_act(x, GROUPS, gain, bias, activation="relu")


def group_norm(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    """A group norm with a gain and bias for each channel, and the ReLU behind it."""
    return F.relu(F.group_norm(x, GROUPS, gain, bias))


def ours_instance_norm(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    return instance_norm_act(x, None, None, activation="relu")


def instance_norm(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    """An instance norm without gain and bias, and the ReLU behind it."""
    return instance_norm_relu(x)


def ours_adain(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    return instance_norm_act(x, gain, bias)


def adain(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    return _per(gain) * F.instance_norm(x) + _per(bias)


def ours_adalin(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    return layer_instance_norm_act(x, rho, gain, bias, activation="relu")


def adalin(x: Tensor, gain: Tensor, bias: Tensor, rho: Tensor) -> Tensor:
    """U-GAT-IT's, and the ReLU behind it."""

    def standardised(dims: tuple[int, ...]) -> Tensor:
        return (x - x.mean(dims, keepdim=True)) / torch.sqrt(x.var(dims, keepdim=True) + 1e-5)

    share = _per(rho)
    y = share * standardised((2, 3)) + (1 - share) * standardised((1, 2, 3))
    return F.relu(y * _per(gain) + _per(bias))


def instance_norm_relu(x: Tensor) -> Tensor:
    return F.relu(F.instance_norm(x))


def batch_norm_relu(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.relu(F.batch_norm(x, *running_statistics(x), gain, bias, True, 0.1, 1e-5))


def stylegan_epilogue(
    x: Tensor, gain: Tensor, bias: Tensor, noise: Tensor, strength: Tensor, shift: Tensor
) -> Tensor:  # fmt: skip
    """Noise, bias, leaky ReLU, instance norm, style."""
    u = F.leaky_relu(x + noise * _per(strength) + _per(shift), 0.2)
    return _per(gain) * F.instance_norm(u, eps=1e-8) + _per(bias)


def pixel_norm(x: Tensor) -> Tensor:
    return x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()


def bias_act(x: Tensor, bias: Tensor) -> Tensor:
    """StyleGAN2's: leaky ReLU times √2, clamped to ±256."""
    return (F.leaky_relu(x + _per(bias), 0.2) * 2**0.5).clamp(-256, 256)
