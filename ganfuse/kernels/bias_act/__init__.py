"""Bias, activation, gain and clamp in one pass, twice differentiable."""

from ganfuse.kernels.bias_act.op import bias_act

__all__ = ["bias_act"]
