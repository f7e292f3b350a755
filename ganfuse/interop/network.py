"""What a source's reader makes of a checkpoint, and the strict way into a network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.checkpoint import CheckpointError, load_tensors

__all__ = ["Ignored", "Network", "Source", "fill", "require_part"]


@dataclass(frozen=True)
class Network:
    """An imported network, not yet filled.

    Attributes:
        module: of ganfuse's models.
        tensors: the checkpoint's tensors by the module's names. What was not understood keeps the name that it had, so
            that the strict comparison reports it.
        model: the registered model whose part this is, with its `config`.
        part: the attribute of the model's game that holds the module.
        config: for `ganfuse.models.create`; None where no configuration of the model has such a network.
    """

    module: nn.Module
    tensors: dict[str, Tensor]
    model: str
    part: str
    config: dict[str, Any] | None


@dataclass(frozen=True)
class Ignored:
    """Tensors that are left out on purpose.

    Attributes:
        pattern: a regular expression of their whole names.
        reason: why the network does not need them.
        beside: only where the checkpoint has a tensor of this name.
        compared: the reader itself leaves them out, after it has made sure that `reason` holds.
    """

    pattern: str
    reason: str
    beside: str | None = None
    compared: bool = False


@dataclass(frozen=True)
class Source:
    """A codebase whose checkpoints can be read.

    Attributes:
        name: for `ganfuse.interop.load`.
        summary: whose code, and which networks.
        parts: names of the networks, for the argument `part`.
        home: the module that reads it, which has a function ``read(tensors, part, config)``.
        ignored: what is left out, and why.
        places: where the networks of a file that holds several by name belong in the model. Of two for one place the
            latter is the average of the former.
        companions: tensors that a file of several networks has beside them, and to which of `places` they belong.
        keywords: of `ganfuse.interop.load`, for what the tensors' shapes leave open, and what they mean.
    """

    name: str
    summary: str
    parts: tuple[str, ...]
    home: str
    ignored: tuple[Ignored, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)
    companions: Mapping[str, str] = field(default_factory=dict)
    keywords: Mapping[str, str] = field(default_factory=dict)


def fill(network: Network, source: str) -> nn.Module:
    """Puts the tensors into the module, in eval mode.

    Raises:
        ValueError: some tensor of either side has no counterpart, or one of another shape.
    """
    module = network.module
    tensors = dict(network.tensors)
    for key, value in module.state_dict().items():
        # A count that only a momentum of None reads; most codebases do not store it.
        if key.endswith("num_batches_tracked") and key not in tensors:
            tensors[key] = torch.zeros_like(value)
    try:
        load_tensors(module, tensors, what=f"checkpoint: as {source}, {network.part}")
    except CheckpointError as error:
        raise ValueError(str(error)) from error
    return module.eval()


def require_part(part: str | None, found: str, source: str) -> None:
    """Raises ValueError where another network was asked for than the checkpoint holds."""
    if part is not None and part != found:
        raise ValueError(f"part: expected {found!r}, which is what this {source} checkpoint holds, got {part!r}")
