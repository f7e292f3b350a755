"""A trainer for each way of running the same training steps: one for each combination of speed features."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganfuse.bench.subject import DEFAULT
from ganfuse.engine.batches import ImageData
from ganfuse.engine.game import Game
from ganfuse.engine.layers.fuse_spectral_norms import fuse_networks, unfuse_spectral_norms
from ganfuse.engine.trainer import Trainer

__all__ = ["FEATURES", "NotApplicableError", "Variant", "default_variants", "held_bytes", "parse_variants"]

FEATURES: dict[str, str] = {
    "reference": "the definitions in plain PyTorch in place of ganfuse's kernels and CPU forms",
    "channels_last": "images, maps and weights in channels_last",
    "bf16": "losses under bfloat16 autocast",
    "fp16": "losses under float16 autocast, with loss scaling",
    "compile": "networks through torch.compile, but for turns with second derivatives",
    "cuda_graphs": "forward and backward of each turn as one CUDA graph",
    "plain_optimizer": "PyTorch's default form of the optimisers in place of the fused one",
    "checkpointing": "blocks keep their inputs only and compute again in the backward",
    "accumulation": "two micro-batches for each batch; accumulation=N: N of them",
    "fused_spectral_norms": "all spectral norms of a network at once (the default on a GPU)",
    "separate_spectral_norms": "each spectrally normalised layer for itself (the default on a CPU)",
}
"""What a variant may change against the trainer's defaults (float32, NCHW, fused optimisers, ganfuse's kernels)."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "compile": {"compile": True},
    "cuda_graphs": {"cuda_graphs": True},
    "checkpointing": {"activation_checkpointing": True},
}
_EXCLUDE = (("bf16", "fp16"), ("fused_spectral_norms", "separate_spectral_norms"))


class NotApplicableError(ValueError):
    """A variant that makes no difference to this model here, or cannot run; the message says why."""


@dataclass(frozen=True)
class Variant:
    """A combination of features.

    Attributes:
        features: of `FEATURES`. micro_batches: of each batch.
    """

    name: str
    features: tuple[str, ...] = ()
    micro_batches: int = 1

    @property
    def backend(self) -> str:
        """For `use_backend`."""
        return "reference" if "reference" in self.features else "auto"

    @property
    def options(self) -> dict[str, Any]:
        """Of the trainer."""
        found: dict[str, Any] = {"accumulation": self.micro_batches} if self.micro_batches > 1 else {}
        for feature in self.features:
            found |= _OPTIONS.get(feature, {})
        return found

    def trainer(self, game: Game, data: ImageData, out: Path, options: Mapping[str, Any]) -> Trainer:
        """A trainer that runs this way, on `options` besides.

        Raises:
            NotApplicableError: it cannot, or the model has nothing that a feature would change.
        """
        try:
            trainer = Trainer(game, data, out=out, **{**options, **self.options})
        except ValueError as error:
            # A model that cannot be checkpointed, graphs on a CPU, a batch that cannot be divided.
            raise NotApplicableError(str(error)) from error
        for feature in self.features:
            change = _CHANGES.get(feature)
            if change is not None:
                change(trainer)
        return trainer


def parse_variants(texts: Iterable[str]) -> list[Variant]:
    """Variants from "default" or features joined by "+", each once, the default first.

    Raises:
        ValueError: no feature has such a name, or two exclude each other.
    """
    from ganfuse.bench.catalogue import require_known

    found = {DEFAULT: Variant(DEFAULT)}
    for text in texts:
        if text == DEFAULT:
            continue
        features, micro_batches = [], 1
        for part in text.split("+"):
            number = re.fullmatch(r"accumulation(?:=(\d+))?", part)
            name = "accumulation" if number else part
            require_known("feature", name, FEATURES)
            if number:
                micro_batches = int(number.group(1) or 2)
                if micro_batches < 2:
                    raise ValueError(f"feature accumulation: expected at least 2 micro-batches, got {micro_batches}")
            features.append(name)
        for pair in _EXCLUDE:
            if set(pair) <= set(features):
                raise ValueError(f"variant {text!r}: {pair[0]} and {pair[1]} exclude each other")
        found[text] = Variant(text, tuple(features), micro_batches)
    return list(found.values())


def default_variants(device: torch.device) -> list[str]:
    """What is measured unless told: each feature that may pay there, alone or on top of those that always do."""
    if device.type == "cpu":
        return ["reference", "channels_last", "plain_optimizer"]
    best = "bf16+channels_last"
    # The most instructive first, what compiles for minutes last.
    added = ("cuda_graphs", "reference", "separate_spectral_norms", "plain_optimizer", "checkpointing", "compile")
    return ["reference", best, *(f"{best}+{feature}" for feature in added), "channels_last"]


def _plain_optimizers(trainer: Trainer) -> None:
    changed = 0
    for optimizer in trainer.turn_runner.optimizers.values():
        for group in optimizer.param_groups:
            if group.get("fused"):
                group["fused"] = None
                changed += 1
        # What a fused optimiser says to the loss scaling; the others are unscaled before they step.
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    if not changed:
        raise NotApplicableError("its optimisers have no fused form here")


def _fuse(trainer: Trainer) -> None:
    if trainer.options.activation_checkpointing:
        raise NotApplicableError("blocks that compute again must find their weights as they were")
    if not fuse_networks(trainer.game, trainer.turn_runner.networks):
        raise NotApplicableError("no spectral norms to fuse: it has none, or they are fused by default here")


def _separate(trainer: Trainer) -> None:
    unfused = 0
    for name in trainer.turn_runner.networks:
        try:
            unfuse_spectral_norms(trainer.game.get_submodule(name))
            unfused += 1
        except ValueError:
            continue
    if not unfused:
        raise NotApplicableError("no fused spectral norms: it has none, or they are separate by default here")


_CHANGES: dict[str, Callable[[Trainer], None]] = {
    "plain_optimizer": _plain_optimizers,
    "fused_spectral_norms": _fuse,
    "separate_spectral_norms": _separate,
}


def held_bytes(trainer: Trainer) -> int:
    """Of everything that stays between two steps: weights, buffers, optimisers' states and averages."""
    tensors: list[Tensor] = [*trainer.game.parameters(), *trainer.game.buffers()]
    for average in trainer.averages.values():
        tensors += [*average.module.parameters(), *average.module.buffers()]
    for optimizer in trainer.turn_runner.optimizers.values():
        for state in optimizer.state.values():
            tensors += [value for value in state.values() if isinstance(value, Tensor)]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())
