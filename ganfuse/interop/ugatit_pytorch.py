"""UGATIT-pytorch's six networks, full and light.

The auxiliary classifiers of its discriminators weigh the maps by their weights before spectral normalisation. Each is
a single row, which ganfuse divides by its length itself, without a stored power method.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import indices, shape_of
from ganfuse.interop.source_list import SOURCES
from ganfuse.models.ugatit_networks import Discriminator, Generator

__all__ = ["read"]

_NAME = "ugatit-pytorch"
_ATTENTION = [(r"^(gap_fc|gmp_fc)\.weight(_orig)?$", r"attention.\1.weight"), (r"^conv1x1\.", "attention.conv.")]


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    generator = any(key.startswith("DownBlock.") for key in tensors)
    if part in SOURCES[_NAME].places:
        kind: str | None = "generator" if str(part).startswith("gen") else "discriminator"
    else:
        kind, part = part, None
    require_part(kind, "generator" if generator else "discriminator", _NAME)
    return _generator(tensors, part) if generator else _discriminator(tensors, part)


def _generator(tensors: dict[str, Tensor], part: str | None) -> Network:
    blocks = len(indices(tensors, r"DownBlock\.(\d+)\.conv_block\."))
    rules = [
        *((rf"^DownBlock\.{number}\.(?!conv_block)", f"encoder.{stage}.0.") for stage, number in enumerate((1, 5, 9))),
        *((rf"^DownBlock\.{12 + block}\.conv_block\.", f"blocks.{block}.") for block in range(blocks)),
        (r"^(blocks\.\d+)\.1\.", r"\1.conv1."),
        (r"^(blocks\.\d+)\.5\.", r"\1.conv2."),
        *((rf"^UpBlock1_{block + 1}\.", f"adalin_blocks.{block}.") for block in range(blocks)),
        *_ATTENTION,
        (r"^FC\.", "style."),
        (r"^gamma\.", "gain."),
        (r"^beta\.", "bias."),
        (r"^UpBlock2\.11\.", "output_conv."),
        (r"^UpBlock2\.2\.", "decoder.0.0."),
        (r"^UpBlock2\.7\.", "decoder.1.0."),
        (r"^UpBlock2\.3\.", "decoder.0.1."),
        (r"^UpBlock2\.8\.", "decoder.1.1."),
        (r"^(decoder\.\d\.1)\.gamma$", r"\1.weight"),
        (r"^(decoder\.\d\.1)\.beta$", r"\1.bias"),
    ]
    named = renamed(tensors, rules)
    # Of shape (1, C, 1, 1) there.
    norms = (".rho", ".1.weight", ".1.bias")
    named = {
        key: value.flatten() if key.endswith(norms) and value.dim() == 4 else value for key, value in named.items()
    }
    width, channels = shape_of(named, "encoder.0.0.weight")[:2]
    features, inputs = shape_of(named, "style.0.weight")
    config: dict[str, Any] = {"channels": channels, "width": width, "blocks": blocks, "light": inputs == features}
    if inputs == features:
        module = Generator(channels=channels, width=width, blocks=blocks, style_grid=1)
    else:
        places = math.isqrt(inputs // features)
        if places**2 * features != inputs:
            raise ValueError(
                f"checkpoint: FC.0 takes {inputs} features, which are no square map of {features} channels"
            )
        config["resolution"] = 4 * places
        module = Generator(resolution=4 * places, channels=channels, width=width, blocks=blocks)
    return Network(module, named, "ugatit", SOURCES[_NAME].places[part or "genA2B"], config)


def _discriminator(tensors: dict[str, Tensor], part: str | None) -> Network:
    numbers = indices(tensors, r"model\.(\d+)\.weight_orig$")
    rules = [
        *((rf"^model\.{3 * layer + 1}\.", f"convs.{layer}.") for layer in range(len(numbers))),
        *_ATTENTION,
        (r"^conv\.", "output_conv."),
    ]
    named = renamed(tensors, rules)
    width, channels = shape_of(named, "convs.0.weight")[:2]
    layers = len(numbers) + 1
    module = Discriminator(channels, width=width, layers=layers, raw_attention=True)
    place = SOURCES[_NAME].places[part or "disGA"]
    which = "global_layers" if "global" in place else "local_layers"
    config = {"channels": channels, "width": width, which: layers, "raw_attention": True}
    return Network(module, named, "ugatit", place, config)
