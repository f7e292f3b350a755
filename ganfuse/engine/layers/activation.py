"""The activations that our layers can apply to their result."""

import difflib

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = ("none", "relu", "leaky_relu", "silu")


def check_activation(name: str) -> str:
    """`name` itself; ValueError, with the nearest name, if it is not one of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        near = difflib.get_close_matches(str(name), ACTIVATIONS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {name!r}{hint}")
    return name


def activate_fresh(x: Tensor, name: str, negative_slope: float) -> Tensor:
    """The activation of `x`, a fresh tensor that its own backward does not need: it may be overwritten."""
    if name == "relu":
        return F.relu(x, inplace=True)
    if name == "leaky_relu":
        # A negative slope cannot be undone from the result, so PyTorch refuses to do it in place.
        return F.leaky_relu(x, negative_slope, inplace=negative_slope >= 0)
    if name == "silu":
        return F.silu(x)
    return x
