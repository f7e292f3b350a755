"""The form for CPUs: few passes in plain PyTorch, for activations that are made of straight lines.

The gain goes before the activation, gain · act(u) = act(gain · u), where the pass that adds the bias has it for
nothing. A clamp is PyTorch's hardtanh, whose gradient is one pass where that of `clamp` is four; it is 0 at the limit
itself, too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels.bias_act.allocation import Attributes

STRAIGHT = ("linear", "relu", "lrelu")


def unsupported(act: str, gain: float, x: Tensor) -> str | None:
    """Why such a form does not take an activation with this gain; None if it does."""
    if x.device.type != "cpu":
        return "the eager form is written for CPUs"
    if act not in STRAIGHT:
        return f"the eager form has {', '.join(STRAIGHT)}"
    return None if gain > 0 else "the eager form needs a gain above 0"


def bias_act(attributes: Attributes, x: Tensor, b: Tensor | None) -> Tensor:
    """As the definition, and differentiated by PyTorch."""
    dim, act, alpha, gain, clamp, _ = attributes
    if b is not None:
        b = b.to(x.dtype).reshape([-1 if i == dim else 1 for i in range(x.ndim)])
        x = x + b if gain == 1.0 else torch.add(b * gain, x, alpha=gain)
    elif gain != 1.0:
        x = x * gain
    if act != "linear":
        # As a threshold a ReLU keeps what it gets, not its result, which may be changed in place.
        x = F.leaky_relu(x, alpha) if act == "lrelu" else F.threshold(x, 0.0, 0.0)
    # Where a limit is 0 there is nothing between the limits.
    return x if clamp < 0 else F.hardtanh(x, -clamp, clamp) if clamp > 0 else x.clamp(0, 0)
