"""StyleGAN2 as stylegan2-ada-pytorch and stylegan3 save it, as a state dict or in NVIDIA's pickles.

Our parameters have its names, but that blocks are numbered. Every layer there keeps a copy of the resampling filter,
ours only where it is used; all must be the one that the networks are made with.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import indices, shape_of
from ganfuse.interop.source_list import SOURCES
from ganfuse.interop.styles import check_filters, kept_buffers
from ganfuse.kernels import setup_filter
from ganfuse.models.stylegan2_discriminator import Discriminator
from ganfuse.models.stylegan2_generator import Generator

__all__ = ["read"]

_NAME = "stylegan2-ada"
_CONV_CLAMP = 256.0
_GROUP_SIZE = 4
#: Of the labels' network in the model's discriminator.
_LABEL_LAYERS = 8


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    for key in tensors:
        if key.startswith("synthesis.L"):
            raise ValueError(f"checkpoint: {key} is of a StyleGAN3 generator, which has no counterpart here")
    generator = "synthesis.b4.const" in tensors
    kind = SOURCES[_NAME].places.get(part or "", part)
    require_part(kind, "generator" if generator else "discriminator", _NAME)
    tensors = check_filters(tensors, r"(.*\.)?resample_filter", setup_filter([1, 3, 3, 1]), "1, 3, 3, 1")
    return _generator(tensors, config) if generator else _discriminator(tensors, config)


def _generator(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Network:
    sizes = indices(tensors, r"synthesis\.b(\d+)\.")
    rules = [(rf"^synthesis\.b{size}\.", f"synthesis.blocks.{level}.") for level, size in enumerate(sizes)]
    named = renamed(tensors, [*rules, (r"^mapping\.w_avg$", "mapping.w_avg.value")])
    resolution = sizes[-1]
    widths = [shape_of(named, f"synthesis.blocks.{level}.conv1.weight")[0] for level in range(len(sizes))]
    style, classes = _mapping(named)
    inputs = shape_of(named, "mapping.fc0.weight")[1]
    own = {
        "resolution": resolution,
        "num_classes": classes,
        "latent_dim": inputs - (0 if classes is None else style),
        "style_features": style,
        "mapping_layers": len(indices(named, r"mapping\.fc(\d+)\.")),
        "channels": shape_of(named, f"synthesis.blocks.{len(sizes) - 1}.torgb.weight")[0],
        "width": widths[-1],
        "channel_max": max(widths),
        "conv_clamp": config.get("conv_clamp", _CONV_CLAMP),
    }
    if any(".skip." in key for key in named):
        architecture = "resnet"
    else:
        architecture = "skip" if "synthesis.blocks.0.torgb.weight" in named else "orig"
    module = Generator(architecture=architecture, **own)
    named.update(kept_buffers(module, named))
    return Network(module, named, "stylegan2", "generator", {**own, "generator_architecture": architecture})


def _discriminator(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Network:
    sizes = [size for size in indices(tensors, r"b(\d+)\.") if size > 4][::-1]
    if not sizes:
        raise ValueError("checkpoint: expected blocks b8, b16, ...; there is none")
    rules = [(rf"^b{size}\.", f"blocks.{level}.") for level, size in enumerate(sizes)]
    named = renamed(tensors, [*rules, (r"^b4\.", "epilogue.")])
    width, channels = shape_of(named, "blocks.0.fromrgb.weight")[:2]
    widths = [width, *(shape_of(named, f"blocks.{level}.conv1.weight")[0] for level in range(len(sizes)))]
    if "blocks.0.skip.weight" in named:
        architecture = "resnet"
    else:
        architecture = "skip" if "epilogue.fromrgb.weight" in named else "orig"
    own: dict[str, Any] = {
        "resolution": sizes[0],
        "channels": channels,
        "width": width,
        "channel_max": max(widths),
        "group_size": config.get("group_size", _GROUP_SIZE),
        "conv_clamp": config.get("conv_clamp", _CONV_CLAMP),
    }
    layers = _LABEL_LAYERS
    if "mapping.embed.weight" in named:
        own["num_classes"], layers = _mapping(named)[1], len(indices(named, r"mapping\.fc(\d+)\."))
    module = Discriminator(architecture=architecture, mapping_layers=layers, **own)
    named.update(kept_buffers(module, named))
    # The model's `mapping_layers` are the generator's, which has two of them beside these eight in some presets.
    of_model = {**own, "discriminator_architecture": architecture} if layers == _LABEL_LAYERS else None
    return Network(module, named, "stylegan2", "discriminator", of_model)


def _mapping(tensors: Mapping[str, Tensor]) -> tuple[int, int | None]:
    """Size of w, and the number of classes."""
    style = shape_of(tensors, "mapping.fc0.weight")[0]
    return style, shape_of(tensors, "mapping.embed.weight")[1] if "mapping.embed.weight" in tensors else None
