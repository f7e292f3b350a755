"""StyleGAN2 of rosinality's stylegan2-pytorch.

The same networks as NVIDIA's under other names, without a limit of the convolutions' results. Weights that are
modulated have a dimension for the batch, filters are kept in every layer that resamples, and the mean of w is in
converted files alone, as ``latent_avg``.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import indices, shape_of
from ganfuse.interop.source_list import SOURCES
from ganfuse.interop.styles import check_filters, drawn_noise, kept_buffers, mean_style
from ganfuse.kernels import setup_filter
from ganfuse.models.stylegan2_discriminator import Discriminator
from ganfuse.models.stylegan2_generator import Generator

__all__ = ["read"]

_NAME = "stylegan2-rosinality"
_GROUP_SIZE = 4
_LAYER = [
    (r"\.conv\.modulation\.", ".affine."),
    (r"\.conv\.weight$", ".weight"),
    (r"\.noise\.weight$", ".noise_strength"),
    (r"\.activate\.bias$", ".bias"),
]


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    generator = "input.input" in tensors
    kind = SOURCES[_NAME].places.get(part or "", part)
    require_part(kind, "generator" if generator else "discriminator", _NAME)
    # Those that enlarge spread one value over four.
    taps = setup_filter([1, 3, 3, 1]) * (4 if generator else 1)
    tensors = check_filters(tensors, r".*\.kernel", taps, "1, 3, 3, 1")
    return _generator(tensors) if generator else _discriminator(tensors, config)


def _generator(tensors: dict[str, Tensor]) -> Network:
    levels = len(indices(tensors, r"convs\.(\d+)\.")) // 2 + 1
    layers = indices(tensors, r"style\.(\d+)\.")
    resolution = 4 << (levels - 1)
    block = "synthesis.blocks"
    rules = [
        *_LAYER,
        *((rf"^style\.{number}\.", f"mapping.fc{layer}.") for layer, number in enumerate(layers)),
        (r"^input\.input$", f"{block}.0.const"),
        (r"^conv1\.", f"{block}.0.conv1."),
        (r"^to_rgb1\.", f"{block}.0.torgb."),
        (r"^noises\.noise_0$", f"{block}.0.conv1.noise_const"),
    ]
    for level in range(1, levels):
        rules.append((rf"^to_rgbs\.{level - 1}\.", f"{block}.{level}.torgb."))
        for place in (0, 1):
            number = 2 * (level - 1) + place
            rules.append((rf"^convs\.{number}\.", f"{block}.{level}.conv{place}."))
            rules.append((rf"^noises\.noise_{number + 1}$", f"{block}.{level}.conv{place}.noise_const"))
    named = renamed(tensors, rules)
    average = named.pop("latent_avg", None)
    if not any(key.startswith("noises.") for key in tensors):
        # Of the codebase's first months, whose code draws them when it builds the network.
        for layer in range(2 * levels - 1):
            level, place = divmod(layer + 1, 2)
            named[f"{block}.{level}.conv{place}.noise_const"] = drawn_noise(4 << level, layer)
    for key, value in named.items():
        named[key] = _reshaped(key, value)
    widths = [shape_of(named, f"{block}.{level}.conv1.weight")[0] for level in range(levels)]
    style, latents = shape_of(named, "mapping.fc0.weight")
    own: dict[str, Any] = {
        "resolution": resolution,
        "num_classes": None,
        "latent_dim": latents,
        "style_features": style,
        "mapping_layers": len(layers),
        "channels": shape_of(named, f"{block}.{levels - 1}.torgb.weight")[0],
        "width": widths[-1],
        "channel_max": max(widths),
        "conv_clamp": None,
    }
    module = Generator(**own)
    named["mapping.w_avg.value"] = mean_style(module.mapping, named) if average is None else average.flatten()
    named.update(kept_buffers(module, named))
    return Network(module, named, "stylegan2", "generator", own)


def _reshaped(key: str, value: Tensor) -> Tensor:
    """In the shape of our parameter of that name: without dimensions of one for batch, channel and place."""
    if key.endswith(".const") or (key.endswith(".weight") and value.dim() == 5):
        return value.squeeze(0)
    if key.endswith(".noise_const"):
        return value.squeeze(0).squeeze(0)
    if key.endswith(".noise_strength"):
        return value.squeeze()
    return value.squeeze() if key.endswith(".torgb.bias") else value


def _discriminator(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Network:
    halvings = len(indices(tensors, r"convs\.(\d+)\.conv1\."))
    if not halvings:
        raise ValueError("checkpoint: expected blocks convs.1, convs.2, ...; there is none")
    rules = [
        *((rf"^convs\.0\.{place}\.", "blocks.0.fromrgb.") for place in (0, 1)),
        *((rf"^convs\.{number}\.", f"blocks.{number - 1}.") for number in range(1, halvings + 1)),
        (r"\.conv1\.[01]\.", ".conv0."),
        (r"\.conv2\.[12]\.", ".conv1."),
        (r"\.skip\.1\.", ".skip."),
        (r"^final_conv\.[01]\.", "epilogue.conv."),
        (r"^final_linear\.0\.", "epilogue.fc."),
        (r"^final_linear\.1\.", "epilogue.out."),
    ]
    named = renamed(tensors, rules)
    width, channels = shape_of(named, "blocks.0.fromrgb.weight")[:2]
    widths = [width, *(shape_of(named, f"blocks.{level}.conv1.weight")[0] for level in range(halvings))]
    own: dict[str, Any] = {
        "resolution": 4 << halvings,
        "num_classes": None,
        "channels": channels,
        "width": width,
        "channel_max": max(widths),
        "group_size": config.get("group_size", _GROUP_SIZE),
        "conv_clamp": None,
    }
    module = Discriminator(**own)
    named.update(kept_buffers(module, named))
    return Network(module, named, "stylegan2", "discriminator", {**own, "discriminator_architecture": "resnet"})
