"""The definition in plain PyTorch, and the table of activations with StyleGAN2-ADA's defaults."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Activation(NamedTuple):
    """An activation ``(x, alpha) -> y`` and the `alpha` and `gain` that it has where none is given."""

    function: Callable[[Tensor, float], Tensor]
    alpha: float
    gain: float


_ROOT_2 = math.sqrt(2.0)

# Gains √2 keep the variance of what half of is cut away (He et al. 2015).
ACTIVATIONS = {
    "linear": Activation(lambda x, _: x, 0.0, 1.0),
    "relu": Activation(lambda x, _: F.relu(x), 0.0, _ROOT_2),
    "lrelu": Activation(F.leaky_relu, 0.2, _ROOT_2),
    "tanh": Activation(lambda x, _: torch.tanh(x), 0.0, 1.0),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x), 0.0, 1.0),
    "elu": Activation(lambda x, _: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, _: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, _: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, _: torch.sigmoid(x) * x, 0.0, _ROOT_2),
}


def bias_act(x: Tensor, b: Tensor | None, dim: int, act: str, alpha: float, gain: float, clamp: float | None) -> Tensor:
    """``clamp(gain · act(x + b))``, the bias along `dim`."""
    if b is not None:
        x = x + b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
    x = ACTIVATIONS[act].function(x, alpha)
    if gain != 1.0:
        x = x * gain
    return x if clamp is None else x.clamp(-clamp, clamp)
