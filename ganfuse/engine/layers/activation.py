"""The activations that our layers can apply to their result."""

import difflib

from ganfuse.kernels.bias_act.reference import ACTIVATIONS as BIAS_ACT

ACTIVATIONS = ("none", "relu", "leaky_relu", "silu")


def check_activation(name: str, argument: str = "activation") -> str:
    """`name` itself; ValueError, with the nearest name, if it is not one of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        near = difflib.get_close_matches(str(name), ACTIVATIONS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, ACTIVATIONS))}, got {name!r}{hint}")
    return name


# What `ganfuse.kernels.bias_act` calls them, where it is something else.
_BIAS_ACT_NAMES = {"none": "linear", "leaky_relu": "lrelu", "silu": "swish"}


def bias_act_name(name: str) -> str:
    """What `bias_act` calls one of `ACTIVATIONS`, or `name` itself if that is one of its own; else ValueError."""
    act = _BIAS_ACT_NAMES.get(name, name)
    if act not in BIAS_ACT:
        known = tuple(dict.fromkeys((*ACTIVATIONS, *BIAS_ACT)))
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"activation must be one of {', '.join(map(repr, known))}, got {name!r}{hint}")
    return act


def describe_activation(name: str, negative_slope: float, prefix: str = "") -> str:
    """What `extra_repr` says of it."""
    slope = f", {prefix}negative_slope={negative_slope}" if name == "leaky_relu" else ""
    return f"{prefix}activation={name!r}{slope}"
