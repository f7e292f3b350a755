"""Checks of values that come from configurations, where anything may stand."""

from numbers import Real

__all__ = ["is_number"]


def is_number(value: object) -> bool:
    """Whether it is a real number: no word, no None, and not true, which Python takes for 1."""
    return isinstance(value, Real) and not isinstance(value, bool)
