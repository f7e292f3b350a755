"""StyleGAN of rosinality's style-based-gan-pytorch.

Its networks always have all layers up to 1024 px, of which those are used that training has reached. Every weight is
scaled by √(2/fan-in), that of the noise included; where ours are scaled otherwise they are multiplied by the ratio, so
that the products are the same. Both layers of a resolution are given the same noise there.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.progressive import pyramid, reached_level
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import indices, shape_of
from ganfuse.interop.source_list import SOURCES
from ganfuse.interop.styles import check_filters, drawn_noise, kept_buffers, mean_style
from ganfuse.kernels import setup_filter
from ganfuse.models.growth import BASE
from ganfuse.models.progressive_discriminator import Discriminator
from ganfuse.models.progressive_layers import HE_GAIN
from ganfuse.models.stylegan_networks import Generator

__all__ = ["read"]

_NAME = "stylegan1-rosinality"
_LR_MULTIPLIER = 0.01
# Of the modules of these lists only the blurs have weights with a single input channel.
_FILTER = r"(generator\.)?progression\.\d+\.conv[12]\.\d\.weight(_flip)?"


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    generator = "generator.progression.0.conv1.input" in tensors
    kind = part if part in ("generator", "discriminator") else SOURCES[_NAME].places.get(part or "", part)
    require_part(kind, "generator" if generator else "discriminator", _NAME)
    blurs = {key: value for key, value in tensors.items() if re.fullmatch(_FILTER, key) and value.shape[1] == 1}
    check_filters(blurs, _FILTER, setup_filter([1, 2, 1]), "1, 2, 1")
    tensors = {key: value for key, value in tensors.items() if key not in blurs}
    return _generator(tensors, config) if generator else _discriminator(tensors, config)


def _generator(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Network:
    tensors = {key.removeprefix("generator."): value for key, value in tensors.items()}
    levels = len(indices(tensors, r"progression\.(\d+)\."))
    last = reached_level(tensors, levels, config.get("resolution"), _grown)
    tensors = _without(tensors, range(last + 1, levels), "to_rgb")
    layers = indices(tensors, r"style\.(\d+)\.")
    block = r"synthesis.blocks.\1"
    rules = [
        *((rf"^style\.{number}\.linear\.", f"mapping.fc{layer}.") for layer, number in enumerate(layers)),
        (r"^to_rgb\.(\d+)\.conv\.", r"synthesis.torgb.\1."),
        (r"^progression\.(\d+)\.conv1\.input$", rf"{block}.const"),
        (r"^progression\.(\d+)\.conv1\.(?:0|1\.conv)\.", rf"{block}.conv0."),
        # Here the bias is behind the noise, which is the same.
        (r"^progression\.(\d+)\.conv2\.conv\.bias$", rf"{block}.epilogue1.adain.prologue_bias"),
        (r"^progression\.(\d+)\.conv2\.conv\.", rf"{block}.conv1."),
    ]
    for n in (0, 1):
        adain = rf"{block}.epilogue{n}.adain."
        rules.append((rf"^progression\.(\d+)\.noise{n + 1}\.weight_orig$", f"{adain}noise_strength"))
        rules.append((rf"^progression\.(\d+)\.adain{n + 1}\.style\.linear\.", f"{adain}style."))
    named = {}
    for key, value in renamed(tensors, rules).items():
        named[key.replace(".weight_orig", ".weight")] = _rescaled(key, value)
    for level in range(last + 1):
        noise = drawn_noise(BASE << level, level)[None, None]
        named |= {f"synthesis.blocks.{level}.epilogue{n}.noise_const": noise.clone() for n in (0, 1)}
    widths = [shape_of(named, f"synthesis.blocks.{level}.conv1.weight")[0] for level in range(last + 1)]
    style, latents = shape_of(named, "mapping.fc0.weight")
    own: dict[str, Any] = {
        "resolution": BASE << last,
        "num_classes": None,
        "latent_dim": latents,
        "style_features": style,
        "mapping_layers": len(layers),
        "mapping_lr_multiplier": _LR_MULTIPLIER,
        "channels": shape_of(named, "synthesis.torgb.0.weight")[0],
        "variant": "rosinality",
        **pyramid(widths),
    }
    module = Generator(**own)
    named["mapping.w_avg.value"] = mean_style(module.mapping, named)
    named.update(kept_buffers(module, named))
    return Network(module, named, "stylegan", "generator", {**own, "start": BASE << last})


def _rescaled(key: str, value: Tensor) -> Tensor:
    """A generator's tensor as our layer's, whose scale differs; `key` is of ours but for the ending."""
    if key.startswith("mapping."):
        # There the optimiser's rate is a hundredth, here the scale is: the same function, learnt as slowly.
        return value / _LR_MULTIPLIER
    if key.endswith(".noise_strength"):
        return value.flatten() * math.sqrt(2 / value.numel())
    if key.endswith(".adain.style.bias"):
        return value - torch.cat([torch.ones(len(value) // 2), torch.zeros(len(value) - len(value) // 2)])
    if key.endswith(".adain.style.weight_orig") or re.fullmatch(r"synthesis\.torgb\.\d+\.weight_orig", key):
        return value * HE_GAIN
    if key.endswith(".conv0.weight"):
        # A transposed convolution that enlarges: the kernel's mirror image, and a quarter of it.
        return value.transpose(0, 1).flip(2, 3) / 4
    return value.squeeze(0) if key.endswith(".const") else value


def _discriminator(tensors: dict[str, Tensor], config: Mapping[str, Any]) -> Network:
    levels = len(indices(tensors, r"progression\.(\d+)\."))
    turned = [(rf"^(progression|from_rgb)\.{levels - 1 - level}\.", rf"\1.<{level}>.") for level in range(levels)]
    tensors = renamed(tensors, [*turned, (r"<(\d+)>", r"\1")])
    last = reached_level(tensors, levels, config.get("resolution"), _judged)
    tensors = _without(tensors, range(last + 1, levels), "from_rgb")
    activated = any(re.match(r"from_rgb\.\d+\.0\.", key) for key in tensors)
    rules = [
        (r"^from_rgb\.(\d+)\.0\." if activated else r"^from_rgb\.(\d+)\.", r"fromrgb.\1."),
        (r"^progression\.0\.conv1\.0\.", "conv."),
        (r"^progression\.0\.conv2\.0\.", "fc."),
        *((rf"^progression\.{level}\.conv1\.0\.", f"blocks.{level - 1}.conv0.") for level in range(1, last + 1)),
        *((rf"^progression\.{level}\.conv2\.1\.", f"blocks.{level - 1}.conv1.") for level in range(1, last + 1)),
        (r"\.conv\.(weight_orig|bias)$", r".\1"),
        (r"^linear\.linear\.", "out."),
        (r"\.weight_orig$", ".weight"),
    ]
    named = {}
    for key, value in renamed(tensors, rules).items():
        # A convolution that covers the whole map, and a scale of ours that lacks √2.
        named[key] = value.flatten(1) if key == "fc.weight" else value * HE_GAIN if key == "out.weight" else value
    widths = [shape_of(named, f"fromrgb.{level}.weight")[0] for level in range(last + 1)]
    own: dict[str, Any] = {
        "resolution": BASE << last,
        "channels": shape_of(named, "fromrgb.0.weight")[1],
        "num_classes": None,
        "group_size": None,
        "variant": "rosinality",
        "fromrgb_activation": activated,
        **pyramid(widths),
    }
    return Network(Discriminator(blur=True, **own), named, "stylegan", "discriminator", {**own, "start": BASE << last})


def _grown(level: int) -> list[str]:
    return [f"progression.{level}.{name}" for name in ("noise1.weight_orig", "noise2.weight_orig", "conv2.conv.bias")]


def _judged(level: int) -> list[str]:
    rgb = [f"from_rgb.{level}.conv.bias", f"from_rgb.{level}.0.conv.bias"]
    return [*rgb, f"progression.{level}.conv1.0.conv.bias"]


def _without(tensors: Mapping[str, Tensor], levels: range, image: str) -> dict[str, Tensor]:
    """Without the levels that were not trained."""
    dropped = tuple(f"{name}.{level}." for level in levels for name in ("progression", image))
    return {key: value for key, value in tensors.items() if not key.startswith(dropped)}
