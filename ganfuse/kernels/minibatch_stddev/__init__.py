"""The variation within groups of samples as extra channels, twice differentiable."""

from ganfuse.kernels.minibatch_stddev.op import minibatch_stddev

__all__ = ["minibatch_stddev"]
