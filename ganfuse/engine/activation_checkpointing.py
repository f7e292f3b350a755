"""Activation checkpointing: blocks forget what they computed, and compute it again for the backward pass."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ganfuse.engine.layers.minibatch_stddev import MinibatchStdDev
from ganfuse.engine.layers.spectral_norm import spectral_hooks

__all__ = ["blocks_of", "checkpoint_activations"]


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The elements of the model's `nn.ModuleList`s that have parameters, by name; of nested ones the outermost."""
    blocks = {
        f"{name}.{index}" if name else index: block
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        for index, block in module.named_children()
        if any(True for _ in block.parameters())
    }
    return {name: block for name, block in blocks.items() if not any(name.startswith(f"{other}.") for other in blocks)}


def checkpoint_activations(model: nn.Module) -> list[str]:
    """Makes every block of a model keep only its inputs for the backward pass, which computes the rest again.

    Memory for activations falls from that of all layers to that of one block and the blocks' inputs, for one more
    forward pass (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174). Blocks are the
    elements of the model's `nn.ModuleList`s that have parameters.

    The second computation gives what the first one gave: running statistics and the vectors of spectral norms are put
    back for it to what they were, and again to what they became; dropout masks are drawn alike; spectral norms are held
    (`hold_spectral_norms`), and samples compared (`compare_within`), as they were. In evaluation mode, and where no
    gradient is recorded, blocks work as ever. Second derivatives are right.

    Returns:
        The names of the blocks.

    Raises:
        ValueError: the model has no blocks.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise ValueError(
            f"activation_checkpointing: {type(model).__name__} has no blocks (elements of an nn.ModuleList)"
        )
    for block in blocks.values():
        if not isinstance(block.forward, _Checkpointed):
            block.forward = _Checkpointed(block, block.forward)
    return list(blocks)


class _Checkpointed:
    """The forward of a block."""

    def __init__(self, block: nn.Module, forward: Any) -> None:
        self.block = block
        self.forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self.block.training and torch.is_grad_enabled()):
            return self.forward(*args, **kwargs)
        return checkpoint(self.forward, *args, use_reentrant=False, context_fn=self._contexts, **kwargs)

    def _contexts(self) -> tuple[contextlib.AbstractContextManager[Any], contextlib.AbstractContextManager[Any]]:
        return contextlib.nullcontext(), _Rewound(self.block)


class _Rewound:
    """Inside, the block's buffers, and how its layers are held, are what they were when this was made.

    May be entered again and again.
    """

    def __init__(self, block: nn.Module) -> None:
        self.buffers = list(block.buffers())
        self.before = [buffer.clone() for buffer in self.buffers]
        self.after: list[Tensor] = []
        self.held = [(layer, name, getattr(layer, name)) for layer, name in _held(block)]
        self.held_after: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> None:
        self.after = [buffer.clone() for buffer in self.buffers]
        _write(self.buffers, self.before)
        self.held_after = [(layer, name, getattr(layer, name)) for layer, name, _ in self.held]
        _set(self.held)

    def __exit__(self, *error: object) -> None:
        _write(self.buffers, self.after)
        _set(self.held_after)


def _held(block: nn.Module) -> Iterator[tuple[Any, str]]:
    """The attributes that a context around the forward may have set, and left again before the backward pass."""
    for module in block.modules():
        for hook in spectral_hooks(module):
            yield hook, "hold"
            yield hook, "stepped"
        if isinstance(module, MinibatchStdDev):
            yield module, "parts"


def _set(values: list[tuple[Any, str, Any]]) -> None:
    for layer, name, value in values:
        setattr(layer, name, value)


def _write(buffers: list[Tensor], values: list[Tensor]) -> None:
    with torch.no_grad():
        for buffer, value in zip(buffers, values):
            # Past the version counter: what graphs need of a buffer they have copied.
            buffer.data.copy_(value)
