"""ProGAN of pytorch_GAN_zoo.

Results of its layers, not weights, are scaled by √(2/fan-in), and so are the biases. How far the last level has faded
in is not in its checkpoints; that is done when training ends.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.progressive import pyramid
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import indices, shape_of
from ganfuse.interop.source_list import SOURCES
from ganfuse.models.growth import BASE
from ganfuse.models.progan import Generator
from ganfuse.models.progressive_discriminator import Discriminator
from ganfuse.models.progressive_layers import HE_GAIN

__all__ = ["read"]

_NAME = "progan"
_GROUP_SIZE = 4


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    generator = "formatLayer.module.weight" in tensors
    kind = SOURCES[_NAME].places.get(part or "", part)
    require_part(kind, "generator" if generator else "discriminator", _NAME)
    equalized = config.get("equalized", True)
    if not isinstance(equalized, bool):
        raise ValueError(f"equalized: expected True or False, got {equalized!r}")
    return _generator(tensors, equalized) if generator else _discriminator(tensors, equalized)


def _generator(tensors: dict[str, Tensor], equalized: bool) -> Network:
    rules = [
        (r"^formatLayer\.module\.", "base.fc."),
        (r"^groupScale0\.0\.module\.", "base.conv."),
        (r"^scaleLayers\.(\d+)\.([01])\.module\.", r"blocks.\1.conv\2."),
        (r"^toRGBLayers\.(\d+)\.module\.", r"torgb.\1."),
    ]
    named = _rescaled(renamed(tensors, rules), r"torgb\.\d+", equalized)
    levels = len(indices(named, r"torgb\.(\d+)\."))
    widths = [shape_of(named, f"torgb.{level}.weight")[1] for level in range(levels)]
    own: dict[str, Any] = {
        "resolution": BASE << max(levels - 1, 0),
        "channels": shape_of(named, "torgb.0.weight")[0],
        "latent_dim": shape_of(named, "base.fc.weight")[1],
        "variant": "gan-zoo",
        **pyramid(widths),
    }
    return Network(Generator(**own), named, "progan", "generator", {**own, "start": own["resolution"]})


def _discriminator(tensors: dict[str, Tensor], equalized: bool) -> Network:
    rules = [
        (r"^fromRGBLayers\.(\d+)\.module\.", r"fromrgb.\1."),
        (r"^scaleLayers\.(\d+)\.([01])\.module\.", r"blocks.\1.conv\2."),
        (r"^groupScaleZero\.0\.module\.", "conv."),
        (r"^groupScaleZero\.1\.module\.", "fc."),
        (r"^decisionLayer\.module\.", "out."),
    ]
    named = _rescaled(renamed(tensors, rules), "out", equalized)
    levels = len(indices(named, r"fromrgb\.(\d+)\."))
    widths = [shape_of(named, f"fromrgb.{level}.weight")[0] for level in range(levels)]
    logits = shape_of(named, "out.weight")[0]
    if logits != 1:
        raise ValueError(
            f"checkpoint: decisionLayer gives {logits} numbers, those of an auxiliary classifier, which has no "
            "counterpart here"
        )
    rows, inputs = shape_of(named, "conv.weight")[:2]
    if inputs == rows:
        # Without minibatch standard deviation: no weight on it, and the scale of one input channel more.
        weight = named["conv.weight"] * math.sqrt((inputs + 1) / inputs)
        named["conv.weight"] = torch.cat([weight, torch.zeros_like(weight[:, :1])], 1)
    own: dict[str, Any] = {
        "resolution": BASE << max(levels - 1, 0),
        "channels": shape_of(named, "fromrgb.0.weight")[1],
        "group_size": _GROUP_SIZE,
        "variant": "gan-zoo",
        **pyramid(widths),
    }
    return Network(Discriminator(**own), named, "progan", "discriminator", {**own, "start": own["resolution"]})


def _rescaled(tensors: Mapping[str, Tensor], plain: str, equalized: bool) -> dict[str, Tensor]:
    """As tensors of our layers: biases as they are added; weights in front of √(2/fan-in), or of √(1/fan-in).

    Args:
        plain: a pattern of the layers whose scale has no 2.
        equalized: whether there is a scale.
    """
    result = {}
    for key, value in tensors.items():
        layer, _, name = key.rpartition(".")
        weight = tensors.get(f"{layer}.weight")
        if name not in ("weight", "bias") or weight is None:
            result[key] = value
            continue
        scale = HE_GAIN / math.sqrt(weight[0].numel())
        if name == "bias":
            result[key] = value * scale if equalized else value
            continue
        ratio = 1.0 if equalized else 1.0 / scale
        result[key] = value * (ratio * HE_GAIN if re.fullmatch(plain, layer) else ratio)
    return result
