"""What the readers of BigGAN's kin share: where the attention stands, and layouts of a generator's first layer."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import SelfAttention2d
from ganfuse.interop.network import Network
from ganfuse.interop.reading import renamed
from ganfuse.models.layer_factory import LayerFactory
from ganfuse.models.residual_networks import FIRST, doublings

__all__ = [
    "NORM_NAMES",
    "AttendedBlock",
    "Frame",
    "channels_fastest",
    "discriminator_maps",
    "generator_maps",
    "indices",
    "place_attention",
    "resolution_of",
    "shape_of",
]


class AttendedBlock(nn.Module):
    """A block and an attention layer behind it, for networks that have more of these than the paper's one."""

    def __init__(self, block: nn.Module, attention: SelfAttention2d) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, x: Tensor, *condition: Any) -> Tensor:
        h: Tensor = self.attention(self.block(x, *condition))
        return h


NORM_NAMES = [
    (r"\.stored_(mean|var)$", r".running_\1"),
    (r"^output_layer\.0\.gain$", "output_bn.weight"),
    (r"^output_layer\.0\.", "output_bn."),
    (r"^output_layer\.2\.", "output_conv."),
]
"""From the names of BigGAN-PyTorch and its kin to ours: of norms, and of a generator's last layers."""


@dataclass(frozen=True)
class Frame:
    """What is known of a network but for its attention.

    Attributes:
        part, model: see `Network`.
        config: of the network.
        complete: of the model; may be the same.
        maps: the resolution of the map that each block gives.
        layers: makes the attention layers.
    """

    part: str
    model: str
    config: Mapping[str, Any]
    complete: Mapping[str, Any]
    maps: Sequence[int]
    layers: LayerFactory


def place_attention(make: Callable[..., nn.Module], tensors: Mapping[str, Tensor], frame: Frame) -> Network:
    """The network with its attention: the model's own where that stands at the place, else one behind each block.

    Args:
        make: the network's class.
        tensors: by the network's names, but that attention is ``blocks.<number of the block before it>.attention``.
        frame: see there.
    """
    attended = indices(tensors, r"blocks\.(\d+)\.attention\.gamma$")
    if attended and attended[-1] >= len(frame.maps):
        raise ValueError(f"checkpoint: the attention stands after block {attended[-1]} of {len(frame.maps)}")
    if len(attended) <= 1:
        config = {"attention_resolution": frame.maps[attended[0]] if attended else 0}
        own = make(**frame.config, **config)
        if not attended or own.attention_after == attended[0]:
            named = renamed(tensors, [(r"^blocks\.\d+\.attention\.", "attention.")])
            return Network(own, named, frame.model, frame.part, {**frame.complete, **config})
    module = make(**frame.config, attention_resolution=0)
    blocks = module.get_submodule("blocks")
    assert isinstance(blocks, nn.ModuleList)
    tensors = dict(tensors)
    for index in attended:
        width = shape_of(tensors, f"blocks.{index}.attention.o.weight")[0]
        blocks[index] = AttendedBlock(blocks[index], frame.layers.attention(width))
        tensors = renamed(tensors, [(rf"^blocks\.{index}\.(?!attention\.)", f"blocks.{index}.block.")])
    return Network(module, tensors, frame.model, frame.part, None)


def generator_maps(resolution: int, *, deep: bool) -> list[int]:
    """The resolution of the map that each block of BigGAN's generator gives, or of BigGAN-deep's."""
    sizes = doublings(FIRST, resolution)
    return [size for pair in itertools.pairwise(sizes) for size in pair] if deep else sizes[1:]


def discriminator_maps(resolution: int, *, deep: bool) -> list[int]:
    """Likewise of the discriminator."""
    sizes = [16, 8, 8, 8] if resolution == 32 else [*doublings(FIRST, resolution // 2)[::-1], FIRST]
    return [size for size in sizes[:-1] for _ in range(2)] if deep else sizes


def indices(tensors: Mapping[str, Tensor], pattern: str) -> list[int]:
    """The different numbers that the first group of `pattern` matches among the keys, in order."""
    found = (re.match(pattern, key) for key in tensors)
    return sorted({int(match[1]) for match in found if match})


def resolution_of(blocks: int, table: Mapping[int, Sequence[int]], of: str) -> int:
    """The resolution whose table has so many blocks.

    Raises:
        ValueError: none has.
    """
    for resolution, widths in table.items():
        if len(widths) == blocks:
            return resolution
    raise ValueError(f"checkpoint: {of} with {blocks} blocks is of no resolution in {', '.join(map(str, table))}")


def shape_of(tensors: Mapping[str, Tensor], key: str) -> Sequence[int]:
    """The shape of a tensor that must be there; of a spectrally normalised weight under either name.

    Raises:
        ValueError: it is not there.
    """
    for name in (key, f"{key}_orig"):
        if name in tensors:
            return tensors[name].shape
    raise ValueError(f"checkpoint: expected a tensor {key}; there is none among {len(tensors)}")


def channels_fastest(tensors: dict[str, Tensor], layer: str) -> None:
    """Reorders the outputs of the layer to the first map, in place: from (C, 4, 4) to (4, 4, C)."""
    for name in ("weight", "weight_orig", "weight_u", "bias"):
        value = tensors.get(f"{layer}.{name}")
        if value is not None:
            rows = torch.arange(len(value)).view(-1, FIRST, FIRST).permute(1, 2, 0).flatten()
            tensors[f"{layer}.{name}"] = value[rows]
