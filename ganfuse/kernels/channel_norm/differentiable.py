"""The differentiable op behind all channel norms."""

from typing import Any

from torch import Tensor

from ganfuse.kernels.autograd import DifferentiableOp
from ganfuse.kernels.channel_norm import eager, reference
from ganfuse.kernels.channel_norm.allocation import INPUTS, Attributes
from ganfuse.kernels.lazy_implementations import LazyImplementations


def _reference(attributes: Attributes, *inputs: Any) -> Tensor:
    return reference.channel_norm(attributes, *inputs)


CHANNEL_NORM = DifferentiableOp(
    "channel_norm",
    INPUTS,
    Attributes,
    LazyImplementations("ganfuse.kernels.channel_norm", eager=eager.IMPLEMENTATION),
    _reference,
    num_state=2,
    num_notes=0,
    optional=INPUTS[1:],
    weights={"gain": 1, "bias": 1, "rho": 1, "noise_strength": 1, "prologue_bias": 1},
    keeps_output=False,
)
