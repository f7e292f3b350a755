"""The number types of training: autocast, and loss scaling for float16 that gradient penalties survive.

Weights, optimiser states and gradients stay in float32. In float16 gradients below 6e-8 vanish, so losses are
multiplied by a factor before the backward pass; see `ganfuse.engine.regularizers.input_gradient` for those in a loss.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["PRECISIONS", "Precision", "at_least_float32", "penalty_scale", "slow_type"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_LONG_NAMES = {"bf16": "bfloat16", "fp16": "float16"}

# A plain global, as a context variable would break a graph of torch.compile.
_penalty_scale = 1.0


def at_least_float32(x: Tensor) -> Tensor:
    """Half types as float32, others as they are.

    Under autocast logits come in half types, whose mean over a batch would lose most of its digits.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def penalty_scale() -> float:
    """The factor by which outputs are to be multiplied before they are differentiated inside a loss."""
    return _penalty_scale


def slow_type(name: str, device: torch.device) -> str:
    """Why training in a number type is slower on this device than in another, in a sentence; empty if nothing says so.

    PyTorch has every operation in both half types everywhere. On processors without instructions for them it has no
    fast convolution: with AVX2 alone one takes 13 times as long in bfloat16 as in float32, and longer in float16
    (benchmarks/results/biggan-turn-cpu-avx2.jsonl). Results are right.

    Args:
        name: "fp32", "bf16" or "fp16".
        device: where losses are computed.
    """
    if name == "fp32":
        return ""
    if device.type == "cpu":
        # A private question: without an answer, no complaint.
        question = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
        if question is None or question():
            return ""
        return (
            f"precision={name!r}: this processor has no instructions for {_LONG_NAMES[name]}; convolutions "
            "take many times as long in it as in float32. precision='fp32' is the faster choice"
        )
    if device.type == "cuda" and name == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return (
            f"precision='bf16': {torch.cuda.get_device_name(device)} has no instructions for bfloat16 and emulates "
            "them. precision='fp16' is the faster choice"
        )
    return ""


class Precision:
    """How losses are computed on a device.

    Args:
        name: "fp32", "bf16" or "fp16".
        device: of the game.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.dtype = PRECISIONS[name]
        self._device = device
        self._scalers: dict[str, torch.amp.GradScaler] = {}

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Low-precision arithmetic for the operations that can take it."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self.dtype)

    def scaler(self, turn: str) -> torch.amp.GradScaler | None:
        """The loss scaling of a turn; only float16 has one. Each turn has its own, since penalties differ in size."""
        if self.dtype != torch.float16:
            return None
        if turn not in self._scalers:
            self._scalers[turn] = torch.amp.GradScaler(self._device.type)
        return self._scalers[turn]

    @contextlib.contextmanager
    def penalties(self, scaler: torch.amp.GradScaler | None) -> Iterator[None]:
        """Inside, `penalty_scale()` is what the scaling says."""
        global _penalty_scale
        before = _penalty_scale
        _penalty_scale = 1.0 if scaler is None else float(scaler.get_scale())
        try:
            yield
        finally:
            _penalty_scale = before

    def scales(self) -> dict[str, float]:
        """The present factor of each turn that has one."""
        return {turn: float(scaler.get_scale()) for turn, scaler in self._scalers.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state of the loss scaling by turn."""
        return {turn: scaler.state_dict() for turn, scaler in self._scalers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads the state of the loss scaling."""
        for turn, entry in state.items():
            scaler = self.scaler(turn)
            if scaler is not None:
                scaler.load_state_dict(entry)
