"""The activations that our layers can apply to their result."""

import difflib

ACTIVATIONS = ("none", "relu", "leaky_relu", "silu")


def check_activation(name: str) -> str:
    """`name` itself; ValueError, with the nearest name, if it is not one of `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        near = difflib.get_close_matches(str(name), ACTIVATIONS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, got {name!r}{hint}")
    return name


def describe_activation(name: str, negative_slope: float) -> str:
    """What `extra_repr` says of it."""
    slope = f", negative_slope={negative_slope}" if name == "leaky_relu" else ""
    return f"activation={name!r}{slope}"
