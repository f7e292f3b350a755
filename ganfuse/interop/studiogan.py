"""PyTorch-StudioGAN's networks of BigGAN and of its two kinds of BigGAN-deep.

An attention layer has an entry of its own among the blocks. In discriminators the activations work in place, so that
the shortcuts see what is behind the first one; the variants of ours that are taken do as much.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import (
    Frame,
    channels_fastest,
    discriminator_maps,
    generator_maps,
    indices,
    place_attention,
    resolution_of,
    shape_of,
)
from ganfuse.models import biggan, biggan_deep
from ganfuse.models.biggan_variants import DEEP_VARIANTS, VARIANTS, Variant
from ganfuse.models.residual_networks import FIRST

__all__ = ["read"]

_NAME = "studiogan"
_PROJECTION = "only discriminators with a projection, or without labels, have a counterpart"
_HEADS = ("linear2.", "linear_mi.", "embedding_mi.", "info_")


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    generator = any(key.startswith("conv2d5.") for key in tensors)
    require_part(part, "generator" if generator else "discriminator", _NAME)
    deep = any(re.match(r"blocks\.\d+\.0\.conv2d4\.", key) for key in tensors)
    named = renamed(tensors, [*_places(tensors), *_NAMES])
    named = {key: value.reshape(()) if key.endswith(".gamma") else value for key, value in named.items()}
    return _generator(named, deep) if generator else _discriminator(named, deep)


_NAMES = [
    (r"^(blocks\.\d+\.)conv2d0\.", r"\1conv_sc."),
    (r"^(blocks\.\d+\.)conv2d([1-4])\.", r"\1conv\2."),
    (r"^(blocks\.\d+\.bn\d)\.bn\.", r"\1."),
    (r"^(blocks\.\d+\.attention\.)conv1x1_(theta|phi|g)\.", r"\1\2."),
    (r"^(blocks\.\d+\.attention\.)conv1x1_attn\.", r"\1o."),
    (r"^(blocks\.\d+\.attention\.)sigma$", r"\1gamma"),
    (r"^linear[01]\.", "linear."),
    (r"^bn4\.", "output_bn."),
    (r"^conv2d5\.", "output_conv."),
]


def _places(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """From entries of the list, in which attention layers are counted, to blocks, in which they are not."""
    attention = indices(tensors, r"blocks\.(\d+)\.0\.sigma$")
    rules = []
    block = -1
    for entry in indices(tensors, r"blocks\.(\d+)\.0\."):
        if entry in attention:
            # The mark keeps later rules from taking it for an entry.
            rules.append((rf"^blocks\.{entry}\.0\.", f"blocks.<{block}>.attention."))
        else:
            block += 1
            rules.append((rf"^blocks\.{entry}\.0\.", f"blocks.<{block}>."))
    return [*rules, (r"^blocks\.<(-?\d+)>", r"blocks.\1")]


def _generator(tensors: dict[str, Tensor], deep: bool) -> Network:
    channels_fastest(tensors, "linear")
    blocks = len(indices(tensors, r"blocks\.(\d+)\."))
    variant, details = _variant(tensors, deep)
    table = details.generator_widths
    resolution = resolution_of((blocks // 2 if deep else blocks) + 1, table, "a generator")
    rows, source = shape_of(tensors, "linear.weight")
    condition = shape_of(tensors, "blocks.0.bn1.gain.weight")[1]
    classes, shared = shape_of(tensors, "shared.weight") if "shared.weight" in tensors else (None, 0)
    latents = condition - shared
    if latents < 1 or source != (condition if deep else latents):
        raise ValueError(
            f"checkpoint: the first layer takes {source} features, the norms take {condition}, and the embedding has "
            f"{shared}; that is neither BigGAN's nor BigGAN-deep's generator, which are the ones with a counterpart"
        )
    config: dict[str, Any] = {
        "resolution": resolution,
        "channels": shape_of(tensors, "output_conv.weight")[0],
        "width": rows // FIRST**2 // table[resolution][0],
        "num_classes": classes,
        "latent_dim": latents * (1 if deep else blocks + 1),
        "variant": variant,
    }
    if classes is not None:
        config["shared_features"] = shared
    maps = generator_maps(resolution, deep=deep)
    model = "biggan-deep" if deep else "biggan"
    make: Any = biggan_deep.Generator if deep else biggan.Generator
    return _placed(make, tensors, Frame("generator", model, config, config, maps, details.layers()))


def _discriminator(tensors: dict[str, Tensor], deep: bool) -> Network:
    for key in tensors:
        if key.startswith(_HEADS):
            raise ValueError(f"checkpoint: {key} is of an auxiliary head; {_PROJECTION}")
        if re.match(r"blocks\.\d+\.bn\d\.", key):
            raise ValueError(f"checkpoint: {key} is of a discriminator with batch normalisation, without a counterpart")
    logits = shape_of(tensors, "linear.weight")[0]
    if logits != 1:
        raise ValueError(f"checkpoint: linear1 gives {logits} logits; {_PROJECTION}")
    blocks = len(indices(tensors, r"blocks\.(\d+)\."))
    variant, details = _variant(tensors, deep)
    table = details.discriminator_widths
    resolution = resolution_of(blocks // 2 + 1 if deep else blocks, table, "a discriminator")
    first, channels = shape_of(tensors, "input_conv.weight" if deep else "blocks.0.conv1.weight")[:2]
    classes = tensors.get("embedding.weight_orig", tensors.get("embedding.weight"))
    config = {
        "resolution": resolution,
        "channels": channels,
        "width": first // table[resolution][0],
        "num_classes": None if classes is None else len(classes),
        "variant": variant,
    }
    maps = discriminator_maps(resolution, deep=deep)
    model = "biggan-deep" if deep else "biggan"
    make: Any = biggan_deep.Discriminator if deep else biggan.Discriminator
    return _placed(make, tensors, Frame("discriminator", model, config, config, maps, details.layers()))


def _placed(make: Callable[..., nn.Module], tensors: dict[str, Tensor], frame: Frame) -> Network:
    """With attention; and without spectral normalisation where there is none, of which kind no registered model is."""
    if any(key.endswith(".weight_orig") for key in tensors):
        return place_attention(make, tensors, frame)
    frame = replace(frame, layers=replace(frame.layers, spectral=False))
    return replace(place_attention(partial(make, layers=frame.layers), tensors, frame), config=None)


def _variant(tensors: Mapping[str, Tensor], deep: bool) -> tuple[str, Variant]:
    if not deep:
        return "studiogan", VARIANTS["studiogan"]
    # Where the older kind has a convolution in a shortcut, it gives the channels alone that are new.
    full = any(key.startswith("blocks.0.conv_sc.") for key in tensors) and (
        shape_of(tensors, "blocks.0.conv_sc.weight")[0] == shape_of(tensors, "blocks.0.conv4.weight")[0]
    )
    name = "studiogan" if full else "studiogan-legacy"
    return name, DEEP_VARIANTS[name]
