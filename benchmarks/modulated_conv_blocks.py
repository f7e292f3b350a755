"""StyleGAN2's synthesis blocks at 256², computed by ganfuse and as public codebases do."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.kernels import modulated_conv2d, setup_filter

# A layer: (x, weight, styles, noise, bias, filter, up) -> map; noise is None in the layer that makes an image.
Layer = Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor, Tensor, int], Tensor]


class Block(NamedTuple):
    """One resolution of the generator: upsampling layer (none at the lowest), layer, image layer."""

    resolution: int
    inputs: int
    outputs: int

    @property
    def name(self) -> str:
        return f"b{self.resolution}"


def blocks(channel_base: int = 16384, channel_max: int = 512, resolution: int = 256) -> list[Block]:
    """Of Karras et al. 2020 as StyleGAN2-ADA has it at 256²: channels are base / resolution, at most max."""
    sides = [2**k for k in range(2, int(math.log2(resolution)) + 1)]
    widths = [min(channel_base // side, channel_max) for side in sides]
    return [Block(side, widths[max(i - 1, 0)], widths[i]) for i, side in enumerate(sides)]


def make_inputs(
    block: Block, batch: int, device: torch.device, dtype: torch.dtype, channels_last: bool
) -> list[Tensor]:
    """x; then weight, styles, noise, bias of each layer, leaves that require gradients; parameters at least float32."""
    generator = torch.Generator().manual_seed(block.resolution)
    parameter_dtype = torch.promote_types(dtype, torch.float32)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, parameter_dtype)

    first = block.resolution == 4
    side = block.resolution if first else block.resolution // 2
    format = torch.channels_last if channels_last else torch.contiguous_format
    made = [normal(batch, block.inputs, side, side).to(dtype).contiguous(memory_format=format)]
    if not first:
        made += _layer_inputs(normal, batch, block.inputs, block.outputs, 3, block.resolution)
    made += _layer_inputs(normal, batch, block.outputs, block.outputs, 3, block.resolution)
    # The image layer's styles are scaled by 1/√fan-in.
    weight, styles, _, bias = _layer_inputs(normal, batch, block.outputs, 3, 1, block.resolution)
    made += [weight, styles / math.sqrt(block.outputs), bias]
    return [t.detach().requires_grad_() for t in made]


def _layer_inputs(
    normal: Callable[..., Tensor], batch: int, inputs: int, outputs: int, kernel: int, side: int
) -> list[Tensor]:
    weight = normal(outputs, inputs, kernel, kernel)
    return [weight, 1 + 0.3 * normal(batch, inputs), 0.1 * normal(batch, 1, side, side), 0.1 * normal(outputs)]


def style_places(block: Block) -> list[int]:
    """Which of a block's inputs are styles."""
    return [2, 6] if block.resolution == 4 else [2, 6, 10]


def run_block(layer: Layer, inputs: list[Tensor], f: Tensor) -> tuple[Tensor, Tensor]:
    """The map that goes on to the next block, and the image."""
    x, *rest = inputs
    if len(rest) == 11:
        x = layer(x, *rest[:4], f, 2)
        rest = rest[4:]
    x = layer(x, *rest[:4], f, 1)
    weight, styles, bias = rest[4:]
    return x, layer(x, weight, styles, None, bias, f, 1)


def ganfuse(form: str = "auto") -> Layer:
    """Our function, in one of its forms."""

    def layer(
        x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None, bias: Tensor, f: Tensor, up: int
    ) -> Tensor:
        image = noise is None
        # Only layers that it takes are computed in a form of that name; the others as ever.
        chosen = "auto" if form == "implicit_gemm" and up > 1 else form
        return modulated_conv2d(
            x, weight, styles, noise, up, padding=weight.shape[2] // 2, resample_filter=f if up > 1 else None,
            demodulate=not image, flip_weight=up == 1, bias=bias, act="linear" if image else "lrelu", form=chosen,
        )  # fmt: skip

    return layer


def _filtered(x: Tensor, f: Tensor, pad: int, gain: float) -> Tensor:
    """A filter as public codebases have it where their CUDA extension is not: pad, and a convolution of C groups."""
    channels = x.shape[1]
    kernel = (f.flip(0, 1) * gain).to(x.dtype)[None, None].repeat(channels, 1, 1, 1)
    return F.conv2d(F.pad(x, [pad] * 4), kernel, groups=channels)


def grouped(
    x: Tensor, weight: Tensor, styles: Tensor, noise: Tensor | None, bias: Tensor, f: Tensor, up: int
) -> Tensor:
    """Weights of each sample's own, their norms, a grouped convolution, a filter, and pass after pass behind it."""
    batch, outputs, kernel = x.shape[0], weight.shape[0], weight.shape[2]
    own = weight[None] * styles[:, None, :, None, None]
    if noise is not None:
        own = own * (own.square().sum((2, 3, 4)) + 1e-8).rsqrt()[:, :, None, None, None]
    own, x = own.to(x.dtype), x.reshape(1, -1, *x.shape[2:])
    if up == 1:
        y = F.conv2d(x, own.reshape(-1, *own.shape[2:]), padding=kernel // 2, groups=batch)
    else:
        own = own.transpose(1, 2).reshape(-1, outputs, kernel, kernel)
        y = _filtered(F.conv_transpose2d(x, own, stride=2, groups=batch), f, 1, 4.0)
    y = y.reshape(batch, outputs, *y.shape[2:])
    if noise is None:
        return y + bias.to(y.dtype)[:, None, None]
    y = y + noise.to(y.dtype)
    return F.leaky_relu(y + bias.to(y.dtype)[:, None, None], 0.2) * math.sqrt(2)


def make_filter(device: torch.device) -> Tensor:
    return setup_filter([1, 3, 3, 1], device=device)
