"""Each pixel's channels divided by their root mean square, twice differentiable."""

from ganfuse.kernels.pixel_norm.op import pixel_norm

__all__ = ["pixel_norm"]
