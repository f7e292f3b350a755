"""pytorch-pretrained-BigGAN's generators, which were converted from the paper's authors' own.

Conditions are (z, embedding), not (embedding, z). Statistics of batch normalisation are tabulated by the truncation of
z, in steps of 1/50. The last convolution has more maps than the image, and its spectral norm is that of all of them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import Frame, generator_maps, indices, place_attention, resolution_of, shape_of
from ganfuse.models import biggan_deep
from ganfuse.models.biggan import GENERATOR_WIDTHS, layers_of
from ganfuse.models.residual_networks import FIRST

__all__ = ["read"]

_EPS = 1e-4
_CHANNELS = 3


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    require_part(part, "generator", "hf-biggan-deep")
    tensors = dict(tensors)
    classes, shared, latents = _swap_conditions(tensors)
    _choose_statistics(tensors, config.get("truncation", 0.4))
    _keep_image(tensors)
    attention = indices(tensors, r"generator\.layers\.(\d+)\.gamma$")
    blocks = len(indices(tensors, r"generator\.layers\.(\d+)\.conv_0\."))
    rules = [
        *_block_names(blocks + len(attention), attention),
        *((rf"\.conv_{n}\.", f".conv{n + 1}.") for n in range(4)),
        *((rf"\.bn_{n}\.", f".bn{n + 1}.") for n in range(4)),
        (r"\.scale\.", ".gain."),
        (r"\.offset\.", ".bias."),
        (r"\.snconv1x1_(theta|phi|g)\.", r".\1."),
        (r"\.snconv1x1_o_conv\.", ".o."),
        (r"^generator\.gen_z\.", "linear."),
        (r"^generator\.bn\.", "output_bn."),
        (r"^generator\.conv_to_rgb\.", "output_conv."),
    ]
    tensors = renamed(tensors, rules)
    tensors = {key: value.reshape(()) if key.endswith(".gamma") else value for key, value in tensors.items()}
    resolution = resolution_of(blocks // 2 + 1, GENERATOR_WIDTHS, "a generator")
    rows = shape_of(tensors, "linear.weight")[0]
    own = {
        "resolution": resolution,
        "channels": _CHANNELS,
        "width": rows // FIRST**2 // GENERATOR_WIDTHS[resolution][0],
        "num_classes": classes,
        "shared_features": shared,
        "latent_dim": latents,
    }
    frame = Frame("generator", "biggan-deep", own, own, generator_maps(resolution, deep=True), layers_of())
    return place_attention(biggan_deep.Generator, tensors, frame)


def _block_names(count: int, attention: list[int]) -> list[tuple[str, str]]:
    """The list of layers to blocks: an attention layer has a number of its own, and later ones move on."""
    rules = []
    block = -1
    for index in range(count):
        if index in attention:
            name = f"blocks.{block}.attention."
        else:
            block += 1
            name = f"blocks.{block}."
        rules.append((rf"^generator\.layers\.{index}\.", name))
    return rules


def _swap_conditions(tensors: dict[str, Tensor]) -> tuple[int, int, int]:
    """Columns from (z, embedding) to (embedding, z). Gives the sizes: classes, embedding, z."""
    shared, classes = shape_of(tensors, "embeddings.weight")
    latents = shape_of(tensors, "generator.gen_z.weight")[1] - shared
    if latents < 1:
        raise ValueError(f"checkpoint: generator.gen_z takes {latents + shared} features, the embedding has {shared}")
    tensors["shared.weight"] = tensors.pop("embeddings.weight").T.contiguous()
    for key, value in tensors.items():
        if ".scale." in key or ".offset." in key or ".gen_z." in key:
            if key.endswith("weight_orig"):
                tensors[key] = torch.cat([value[:, latents:], value[:, :latents]], 1)
            elif key.endswith("weight_v"):
                tensors[key] = torch.cat([value[latents:], value[:latents]])
    return classes, shared, latents


def _choose_statistics(tensors: dict[str, Tensor], truncation: object) -> None:
    """The statistics of one truncation, with the ε of the original in place of that of our layers."""
    if isinstance(truncation, bool) or not isinstance(truncation, int | float) or not 0 < truncation <= 1:
        raise ValueError(f"truncation: expected a number in (0, 1], got {truncation!r}")
    for key in [key for key in tensors if key.endswith((".running_means", ".running_vars"))]:
        table = tensors.pop(key)
        part, whole = math.modf(truncation / (1.0 / (len(table) - 1)))
        row = table[int(whole)]
        if part:
            # The original's weights, the other way round than one would expect, and with them its images.
            row = row * part + table[int(whole) + 1] * (1 - part)
        tensors[key[:-1]] = row + (_EPS - layers_of().norm_eps if key.endswith("vars") else 0)


def _keep_image(tensors: dict[str, Tensor]) -> None:
    """The rows of the last convolution that are the image, on a scale at which their own norm gives the same weights.

    ReLU(c·x) = c·ReLU(x), so the ratio of the norms goes into the gain and bias in front.
    """
    prefix = "generator.conv_to_rgb."
    weight = tensors[f"{prefix}weight_orig"]
    sigma = tensors[f"{prefix}weight_u"] @ weight.flatten(1) @ tensors[f"{prefix}weight_v"]
    image = weight[:_CHANNELS]
    u, values, v = torch.linalg.svd(image.flatten(1), full_matrices=False)
    tensors[f"{prefix}weight_orig"] = image
    tensors[f"{prefix}weight_u"], tensors[f"{prefix}weight_v"] = u[:, 0].contiguous(), v[0].contiguous()
    tensors[f"{prefix}bias"] = tensors[f"{prefix}bias"][:_CHANNELS]
    for name in ("weight", "bias"):
        tensors[f"generator.bn.{name}"] = tensors[f"generator.bn.{name}"] * (values[0] / sigma)
