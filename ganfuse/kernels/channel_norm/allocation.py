"""What a call of the normalisation op is, besides its tensors; and the shapes and layouts of all it returns.

Launchers and fake kernels allocate here alike, so that a compiled graph is promised the strides that it gets.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ganfuse.kernels.autograd import Gradients, Needs, Tensors
from ganfuse.kernels.layout import empty, is_channels_last

INPUTS = ("x", "gain", "bias", "rho", "mean", "var", "noise", "noise_strength", "prologue_bias")
# Places in INPUTS: those before NOISE make a plain norm; MEAN and VAR are constants.
MEAN, VAR, NOISE, STRENGTH, PROLOGUE_BIAS = range(4, 9)
# Planes of `coefficients`, each (B, C).
SLOPE, CENTRE, OFFSET, RSTD, ROW_RSTD, SHIFT = range(6)


class Attributes(NamedTuple):
    """What is normalised over what.

    Attributes:
        kind: over which rows (one row is the H·W positions of one channel of one sample) statistics are taken:
            ``"row"`` each its own (InstanceNorm), ``"group"`` groups of channels of a sample (GroupNorm, LayerNorm),
            ``"batch"`` a channel of the whole batch, ``"given"`` none: mean and var come in, and are constants;
            ``"mix"`` ρ·row + (1 − ρ)·group with one group (AdaLIN, ILN).
        groups: of channels, for "group" and "mix".
        unbiased: variances are divided by N − 1 (by 1 where N is 1).
        process_group: name of the group of processes whose batches are one; "" for this process alone.
        prologue: the activation of what happens to x before its statistics are taken,
            ``prologue(x + noise · noise_strength + prologue_bias)``; "" for nothing: then the noise, if there is any,
            is added after gain and bias.
        prologue_slope: of a leaky ReLU there.
    """

    kind: str
    groups: int
    eps: float
    unbiased: bool
    activation: str
    negative_slope: float
    process_group: str
    backend: str
    prologue: str = ""
    prologue_slope: float = 0.0


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type of statistics and coefficients."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def num_planes(attributes: Attributes) -> int:
    """Of the coefficients that the forward keeps."""
    return 6 if attributes.kind == "mix" else 4


def fake_forward(attributes: Attributes, inputs: Tensors) -> Tensors:
    """The output; `coefficients` (planes, B, C); `moments` (3, C): batch mean, unbiased variance and count."""
    x = inputs[0]
    dtype, (batch, channels) = accumulator(x.dtype), x.shape[:2]
    return (
        empty(x.shape, is_channels_last(x), x.dtype, x.device),
        torch.empty((num_planes(attributes), batch, channels), dtype=dtype, device=x.device),
        torch.empty((3, channels if attributes.kind == "batch" else 0), dtype=dtype, device=x.device),
    )


def is_noisy(attributes: Attributes, inputs: Tensors) -> bool:
    """Whether the call is more than a plain norm: noise, or a prologue."""
    return attributes.prologue != "" or inputs[NOISE] is not None


def _like(i: int, inputs: Tensors) -> Tensor:
    x = inputs[i]
    if i == 0:
        return empty(x.shape, is_channels_last(x), x.dtype, x.device)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def fake_backward(
    attributes: Attributes, needs: Needs, grad_output: Tensor, inputs: Tensors, output: Tensor, state: Tensors
) -> tuple[Gradients, Tensors]:
    """Gradients of the inputs, uninitialised."""
    return _gradients(needs, inputs), ()


def fake_double_backward(
    attributes: Attributes,
    needs: Needs,
    cotangents: Tensors,
    grad_output: Tensor,
    inputs: Tensors,
    output: Tensor,
    state: Tensors,
    notes: Tensors,
) -> Gradients:
    """Gradients of grad_output and of the inputs, uninitialised."""
    return (_like(0, inputs) if needs[0] else None, *_gradients(needs[1:], inputs))


def _gradients(needs: Needs, inputs: Tensors) -> Gradients:
    return tuple(_like(i, inputs) if needed and i not in (MEAN, VAR) else None for i, needed in enumerate(needs))
