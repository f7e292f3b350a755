"""Scale per sample and channel, noise, bias, activation, gain and clamp in one pass, twice differentiable."""

from ganfuse.kernels.scaled_bias_act.op import scaled_bias_act

__all__ = ["scaled_bias_act"]
