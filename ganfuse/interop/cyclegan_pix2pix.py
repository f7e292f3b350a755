"""pytorch-CycleGAN-and-pix2pix's ResNet generators and PatchGANs, with instance normalisation.

Their layers are numbered through one nn.Sequential, in which the number of the last tells how many blocks there are.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ganfuse.interop.network import Network, require_part
from ganfuse.interop.reading import renamed
from ganfuse.interop.residual_layouts import indices, shape_of
from ganfuse.models.patch_discriminator import PatchDiscriminator
from ganfuse.models.resnet_generator import ResnetGenerator

__all__ = ["read"]

_NAME = "cyclegan-pix2pix"
_DROPOUT = 0.5


def read(tensors: dict[str, Tensor], part: str | None, config: Mapping[str, Any]) -> Network:
    """See `ganfuse.interop.load`."""
    for key in tensors:
        if key.startswith(("model.model.", "net.")):
            kind = "a U-Net generator" if key.startswith("model.") else "a PixelGAN"
            raise ValueError(f"checkpoint: {key} is of {kind}, which has no counterpart here")
    generator = any(".conv_block." in key for key in tensors)
    require_part(part, "generator" if generator else "discriminator", _NAME)
    return _generator(tensors) if generator else _discriminator(tensors)


def _generator(tensors: dict[str, Tensor]) -> Network:
    numbers = indices(tensors, r"model\.(\d+)\.conv_block\.")
    blocks = len(numbers)
    # A layer of dropout moves the second convolution from place 5 to place 6.
    dropout = any(".conv_block.6." in key for key in tensors)
    last = 10 + blocks
    rules = [
        *((rf"^model\.{number}\.", f"encoder.{stage}.0.") for stage, number in enumerate((1, 4, 7))),
        *((rf"^model\.{10 + block}\.conv_block\.", f"blocks.{block}.") for block in range(blocks)),
        (r"^(blocks\.\d+)\.1\.", r"\1.conv1."),
        (rf"^(blocks\.\d+)\.{6 if dropout else 5}\.", r"\1.conv2."),
        (rf"^model\.{last}\.", "decoder.0.0."),
        (rf"^model\.{last + 3}\.", "decoder.1.0."),
        (rf"^model\.{last + 7}\.", "output_conv."),
    ]
    named = renamed(tensors, rules)
    width, channels = shape_of(named, "encoder.0.0.weight")[:2]
    config = {"width": width, "blocks": blocks, "dropout": _DROPOUT if dropout else 0.0}
    module = ResnetGenerator(channels, width=width, blocks=blocks, dropout=config["dropout"])
    return Network(module, named, "cyclegan", "generator_ab", {"channels": channels, **config})


def _discriminator(tensors: dict[str, Tensor]) -> Network:
    numbers = indices(tensors, r"model\.(\d+)\.weight$")
    layers = len(numbers) - 2
    if layers < 1:
        raise ValueError(f"checkpoint: expected a PatchGAN of at least 3 convolutions, got {len(numbers)}")
    rules = [
        (r"^model\.0\.", "input_conv."),
        *((rf"^model\.{3 * layer + 2}\.", f"blocks.{layer}.0.") for layer in range(layers)),
        (rf"^model\.{3 * layers + 2}\.", "output_conv."),
    ]
    named = renamed(tensors, rules)
    width, channels = shape_of(named, "input_conv.weight")[:2]
    module = PatchDiscriminator(channels, width=width, layers=layers)
    config = {"channels": channels, "width": width, "discriminator_layers": layers}
    return Network(module, named, "cyclegan", "discriminator_b", config)
