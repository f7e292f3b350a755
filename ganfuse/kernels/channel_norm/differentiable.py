"""The differentiable op behind all channel norms."""

import importlib
from typing import Any

from torch import Tensor

from ganfuse.kernels.autograd import DifferentiableOp, Implementation
from ganfuse.kernels.channel_norm import eager, reference
from ganfuse.kernels.channel_norm.allocation import INPUTS, Attributes


def _triton() -> Any:
    # Importing Triton costs half a second, and is impossible on some machines: only who launches pays.
    return importlib.import_module("ganfuse.kernels.channel_norm.triton")


class _Implementations(dict[str, Implementation]):
    """By backend; Triton's on first use."""

    def __missing__(self, backend: str) -> Implementation:
        if backend != "triton":
            raise KeyError(backend)
        self[backend] = _triton().IMPLEMENTATION
        return self[backend]


def _reference(attributes: Attributes, *inputs: Any) -> Tensor:
    return reference.channel_norm(attributes, *inputs)


CHANNEL_NORM = DifferentiableOp(
    "channel_norm",
    INPUTS,
    Attributes,
    _Implementations(eager=eager.IMPLEMENTATION),
    _reference,
    num_state=2,
    num_notes=0,
    optional=INPUTS[1:],
    weights={"gain": 1, "bias": 1, "rho": 1, "noise_strength": 1, "prologue_bias": 1},
    keeps_output=False,
)
