"""Calls of every shape, layout and choice of small inputs."""

import torch
from torch import Tensor

from ganfuse.kernels.scaled_bias_act import scaled_bias_act
from tests.kernels.derivative_checks import lay_out, numbers

# Which of scale, noise and bias there are; "shared" noise is one map for all samples.
PARTS = {
    "scale": ("scale",),
    "all": ("scale", "noise", "b"),
    "shared noise": ("scale", "shared", "b"),
    "noise": ("noise",),
    "bias": ("b",),
    "none": (),
}


def make_inputs(
    parts: str, shape=(2, 3, 4, 5), dtype=torch.float64, layout="nchw", small_dtype=None
) -> tuple[Tensor, ...]:
    """x and the small inputs that there are, leaves that require gradients."""
    batch, channels, height, width = shape
    shapes = {
        "scale": (batch, channels),
        "noise": (batch, 1, height, width),
        "shared": (1, 1, height, width),
        "b": (channels,),
    }
    made = [lay_out((2 * numbers(shape, torch.float64, 0)).to(dtype), layout)]
    for i, part in enumerate(PARTS[parts]):
        made.append(numbers(shapes[part], torch.float64, 1 + i).to(small_dtype or dtype).requires_grad_())
    return tuple(made)


def call(parts: str, backend: str, **options):
    """The function of what `make_inputs` makes."""

    def run(x: Tensor, *small: Tensor) -> Tensor:
        there = {("noise" if name == "shared" else name): t for name, t in zip(PARTS[parts], small)}
        return scaled_bias_act(x, **there, backend=backend, **options)

    return run


def both(parts: str, backend: str, **options):
    return call(parts, backend, **options), call(parts, "reference", **options)
