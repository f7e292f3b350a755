"""The networks of unetgan: BigGAN-PyTorch's blocks, with a decoder's in the same list behind the encoder's."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import NORM_NAMES, channels_fastest, indices, resolution_of, shape_of
from ganfuse.interop.spectral import settle
from ganfuse.models.biggan import GENERATOR_WIDTHS
from ganfuse.models.residual_networks import FIRST
from ganfuse.models.unet_gan_networks import ENCODER_WIDTHS, Generator, UNetDiscriminator

__all__ = ["read"]


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    generator = "output_layer.2.weight" in tensors
    require_part(part, "generator" if generator else "discriminator", "unetgan")
    tensors = settle(tensors, weight="weight", u="u0")
    return _generator(tensors) if generator else _discriminator(tensors)


def _generator(tensors: dict[str, Tensor]) -> Network:
    tensors = renamed(tensors, [*NORM_NAMES, (r"^blocks\.(\d+)\.0\.", r"blocks.\1.")])
    channels_fastest(tensors, "linear")
    sizes = {size: GENERATOR_WIDTHS[size] for size in ENCODER_WIDTHS}
    resolution = resolution_of(len(indices(tensors, r"blocks\.(\d+)\.")) + 1, sizes, "a generator")
    rows, latents = shape_of(tensors, "linear.weight")
    unconditional = "blocks.0.bn1.gain.0.weight" in tensors
    config = {
        "resolution": resolution,
        "channels": shape_of(tensors, "output_conv.weight")[0],
        "width": rows // FIRST**2 // GENERATOR_WIDTHS[resolution][0],
        "latent_dim": latents,
        "num_classes": None if unconditional else shape_of(tensors, "blocks.0.bn1.gain.weight")[0],
    }
    return Network(Generator(**config), tensors, "unet-gan", "generator", config)  # type: ignore[arg-type]


def _discriminator(tensors: dict[str, Tensor]) -> Network:
    blocks = max(indices(tensors, r"blocks\.(\d+)\.weight$"), default=0)
    encoder = blocks // 2
    resolution = resolution_of(encoder, ENCODER_WIDTHS, "an encoder")
    rules = [
        (rf"^blocks\.{blocks}\.", "output_conv."),
        *((rf"^blocks\.{index}\.0\.", f"encoder.{index}.") for index in range(encoder)),
        *((rf"^blocks\.{index}\.0\.", f"decoder.{index - encoder}.") for index in range(encoder, blocks)),
        (r"^linear_middle\.", "linear."),
        (r"^embed\.", "pixel_embedding."),
        (r"^embed_middle\.", "embedding."),
    ]
    attended = indices(tensors, r"blocks\.(\d+)\.1\.gamma$")
    if len(attended) > 1:
        raise ValueError(f"checkpoint: attention stands after the blocks {attended}; only one has a counterpart")
    if attended:
        rules.append((rf"^blocks\.{attended[0]}\.1\.", "attention."))
    tensors = renamed(tensors, rules)
    classes = tensors.get("embedding.weight_orig")
    first, channels = shape_of(tensors, "encoder.0.conv1.weight")[:2]
    config = {
        "resolution": resolution,
        "channels": channels,
        "width": first // ENCODER_WIDTHS[resolution][0],
        "num_classes": None if classes is None else len(classes),
        "attention_resolution": resolution >> (attended[0] + 1) if attended else 0,
    }
    return Network(UNetDiscriminator(**config), tensors, "unet-gan", "discriminator", config)  # type: ignore[arg-type]
