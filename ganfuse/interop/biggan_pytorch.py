"""BigGAN-PyTorch's networks: BigGAN, BigGAN-deep and, where the norms have embeddings of their own, SAGAN.

Its spectral normalisation stores u alone and steps in evaluation, too; a step ahead of time makes that of ganfuse give
the same σ. Its first linear layer gives the channels slowest.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import (
    NORM_NAMES,
    Frame,
    channels_fastest,
    discriminator_maps,
    generator_maps,
    indices,
    place_attention,
    resolution_of,
    shape_of,
)
from ganfuse.interop.spectral import settle
from ganfuse.models import biggan, biggan_deep, sagan
from ganfuse.models.layer_factory import LayerFactory
from ganfuse.models.residual_networks import FIRST

__all__ = ["read"]

_NAME = "biggan-pytorch"
_COMMON = [
    # Each option of the codebase keeps the running statistics of its batch normalisation elsewhere.
    (r"\.bn\.(stored_mean|stored_var|running_mean|running_var)$", r".\1"),
    *NORM_NAMES,
    (r"^embed\.", "embedding."),
]
_WIDE = [(r"^blocks\.(\d+)\.0\.", r"blocks.\1."), (r"^blocks\.(\d+)\.1\.", r"blocks.\1.attention.")]


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    generator = "output_layer.2.weight" in tensors
    require_part(part, "generator" if generator else "discriminator", _NAME)
    deep = any(key.endswith(".conv4.weight") for key in tensors)
    tensors = settle(_averaged(tensors), weight="weight", u="u0")
    if deep and not generator:
        tensors = {_flat(key): value for key, value in tensors.items()}
        tensors = renamed(tensors, _COMMON)
    else:
        tensors = renamed(tensors, [*_COMMON, *_WIDE])
    return _generator(tensors, deep) if generator else _discriminator(tensors, deep)


def _generator(tensors: dict[str, Tensor], deep: bool) -> Network:
    channels_fastest(tensors, "linear")
    blocks = len(indices(tensors, r"blocks\.(\d+)\."))
    table = biggan.GENERATOR_WIDTHS
    resolution = resolution_of((blocks // 2 if deep else blocks) + 1, table, "a generator")
    rows, source = shape_of(tensors, "linear.weight")
    condition = shape_of(tensors, "blocks.0.bn1.gain.weight")
    config: dict[str, Any] = {
        "resolution": resolution,
        "channels": shape_of(tensors, "output_conv.weight")[0],
        "width": rows // FIRST**2 // table[resolution][0],
    }
    if "shared.weight" in tensors:
        model, make, layers = "biggan", biggan.Generator, biggan.layers_of()
        classes, shared = tensors["shared.weight"].shape
        latents = condition[1] - shared
        if latents < 1 or source != (condition[1] if deep else latents):
            raise ValueError(
                "checkpoint: of the generators with a shared embedding only those with hierarchical latents have a "
                f"counterpart; here the first layer takes {source} features, the norms take {condition[1]}, and the "
                f"embedding has {shared}"
            )
        config.update(num_classes=classes, shared_features=shared, latent_dim=latents * (1 if deep else blocks + 1))
        if deep:
            model, make = "biggan-deep", biggan_deep.Generator  # type: ignore[assignment]
    elif deep:
        raise ValueError("checkpoint: a BigGAN-deep generator without a shared embedding has no counterpart")
    else:
        model, make, layers = "sagan", sagan.Generator, LayerFactory()  # type: ignore[assignment]
        width = shape_of(tensors, f"blocks.{blocks - 1}.conv2.weight")[0]
        config.update(num_classes=condition[0], latent_dim=source, width=width)
    maps = generator_maps(resolution, deep=deep)
    return place_attention(make, tensors, Frame("generator", model, config, config, maps, layers))


def _discriminator(tensors: dict[str, Tensor], deep: bool) -> Network:
    blocks = len(indices(tensors, r"blocks\.(\d+)\."))
    table = biggan_deep.DISCRIMINATOR_WIDTHS if deep else biggan.DISCRIMINATOR_WIDTHS
    resolution = resolution_of(blocks // 2 + 1 if deep else blocks, table, "a discriminator")
    first, channels = shape_of(tensors, "input_conv.weight" if deep else "blocks.0.conv1.weight")[:2]
    classes = tensors.get("embedding.weight_orig")
    config = {
        "resolution": resolution,
        "channels": channels,
        "width": first // table[resolution][0],
        "num_classes": None if classes is None else len(classes),
    }
    maps = discriminator_maps(resolution, deep=deep)
    make: Any = biggan_deep.Discriminator if deep else biggan.Discriminator
    model = "biggan-deep" if deep else "biggan"
    return place_attention(make, tensors, Frame("discriminator", model, config, config, maps, biggan.layers_of()))


def _flat(key: str) -> str:
    """Names of BigGAN-deep's discriminator, whose blocks lie in lists of two with the attention as a third."""
    head, _, rest = key.partition("blocks.")
    if head or not rest:
        return key
    pair, place, name = rest.split(".", 2)
    index = 2 * int(pair)
    return f"blocks.{index + int(place)}.{name}" if place in "01" else f"blocks.{index + 1}.attention.{name}"


def _averaged(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With statistics that were summed over batches (``--mybn``) divided by how many these were."""
    result = {key: value for key, value in tensors.items() if not key.endswith("accumulation_counter")}
    for key, count in tensors.items():
        if key.endswith("accumulation_counter") and float(count) > 0:
            for name in ("stored_mean", "stored_var"):
                summed = key.replace("accumulation_counter", name)
                if summed in result:
                    result[summed] = result[summed] / count
    return result
