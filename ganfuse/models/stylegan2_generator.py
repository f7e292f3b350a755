"""The generator of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958): synthesis by modulated convolutions, no growth.

Parameters are named as in StyleGAN2-ADA, but that blocks are numbered from the smallest map on: its ``synthesis.b4`` is
``synthesis.blocks.0`` here.
"""

import math

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import EqualizedConv2d, ModulatedConv2d, ToRGB
from ganfuse.engine.precision import at_least_float32
from ganfuse.kernels import upsample2d
from ganfuse.kernels.precision import without_autocast
from ganfuse.models.mapping_network import MappingNetwork
from ganfuse.models.residual_networks import doublings
from ganfuse.models.style_generator import StyleGenerator
from ganfuse.models.stylegan2_block import BASE, Block, is_half

__all__ = ["Generator", "Synthesis"]


class SynthesisBlock(Block):
    """Two modulated convolutions, the first of which doubles the map; only one behind the learnt constant 4×4.

    Args:
        inputs: channels that come in; 0: the block begins with the constant.
        outputs: channels that go out.
        style_features: of w.
        resolution: of the map that goes out.
        channels: of the image.
        architecture: how the image is made (section 4.1, figure 7): "skip": sum of an image from each resolution;
            "resnet": from the last map, with a 1×1 convolution beside the two; "orig": from the last map.
        last: whether the image is wanted here.
        half_precision: compute in autocast's type where that is on.
        conv_clamp: limit of every result.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        style_features: int,
        resolution: int,
        channels: int,
        *,
        architecture: str,
        last: bool,
        half_precision: bool,
        conv_clamp: float | None,
    ) -> None:
        super().__init__(architecture, half_precision, resampled=inputs > 0)
        self.const: nn.Parameter | None = None
        self.conv0: ModulatedConv2d | None = None
        self.torgb: ToRGB | None = None
        self.skip: EqualizedConv2d | None = None

        def modulated(channels_in: int, up: int) -> ModulatedConv2d:
            return ModulatedConv2d(
                channels_in, outputs, 3, style_features, up=up, resolution=resolution, conv_clamp=conv_clamp
            )

        if inputs == 0:
            self.const = nn.Parameter(torch.randn(outputs, BASE, BASE))
        else:
            self.conv0 = modulated(inputs, 2)
        self.conv1 = modulated(outputs, 1)
        if last or architecture == "skip":
            self.torgb = ToRGB(outputs, channels, style_features, conv_clamp=conv_clamp)
        if inputs > 0 and architecture == "resnet":
            self.skip = EqualizedConv2d(inputs, outputs, 1, bias=False, up=2)

    @property
    def convolutions(self) -> int:
        """How many latents w the block uses up; its image has the one that the next block begins with."""
        return 1 if self.conv0 is None else 2

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise_mode: str
    ) -> tuple[Tensor, Tensor | None]:
        """The map and the image so far.

        Args:
            x: (B, inputs, H/2, W/2). image: (B, channels, H/2, W/2); None: there is none yet.
            ws: (B, 2 or 3, style_features): one for each convolution, one for the image.
            noise_mode: see `ModulatedConv2d`.
        """
        if self.half_precision:
            return self._forward(x, image, ws, noise_mode)
        result: tuple[Tensor, Tensor | None] = without_autocast(
            self._forward, None if x is None else at_least_float32(x), image, ws, noise_mode
        )
        return result

    def _forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise_mode: str
    ) -> tuple[Tensor, Tensor | None]:
        w = ws.unbind(1)
        shortcut: Tensor | None = None
        # Of a sum of two, so that its variance stays.
        gain = 1.0 if self.skip is None else math.sqrt(0.5)
        if self.const is not None:
            x = self.const.expand(ws.shape[0], -1, -1, -1)
        else:
            assert self.conv0 is not None
            assert x is not None
            shortcut = None if self.skip is None else self.skip(x, gain=gain)
            x = self.conv0(x, w[0], noise_mode)
        x = self.conv1(x, w[self.convolutions - 1], noise_mode, gain)
        if shortcut is not None:
            x = shortcut + x
        if image is not None and self.architecture == "skip":
            image = upsample2d(image, self.image_filter())
        if self.torgb is not None:
            # Images add up in float32: nothing smaller holds the differences of many small terms.
            own = at_least_float32(self.torgb(x, w[self.convolutions]))
            image = own if image is None else image + own
        return x, image


class Synthesis(nn.Module):
    """Latents w (B, num_ws, style_features) to images (B, channels, resolution, resolution), around [-1, 1].

    The width of the map at resolution r is min(width · resolution / r, channel_max).

    Args:
        resolution: a power of two from 8 on.
        channels: of the images.
        width, channel_max: see above.
        style_features: of w.
        architecture: see `SynthesisBlock`.
        num_half_resolutions: how many of the largest maps, 8×8 and above, autocast may compute in half types
            (Karras et al. 2020, arXiv 2006.06676, appendix D: 4).
        conv_clamp: limit of every convolution's result, so that float16 holds it (likewise: 256).
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int = 3,
        width: int = 32,
        channel_max: int = 512,
        style_features: int = 512,
        architecture: str = "skip",
        num_half_resolutions: int = 4,
        conv_clamp: float | None = 256.0,
    ) -> None:
        super().__init__()
        sizes = doublings(BASE, resolution)
        widths = [min(width * resolution // size, channel_max) for size in sizes]
        self.style_features = style_features
        self.blocks = nn.ModuleList(
            SynthesisBlock(
                inputs,
                outputs,
                style_features,
                size,
                channels,
                architecture=architecture,
                last=size == resolution,
                half_precision=is_half(size, resolution, num_half_resolutions),
                conv_clamp=conv_clamp,
            )
            for inputs, outputs, size in zip([0, *widths], widths, sizes)
        )
        self.num_ws = 2 * len(sizes)

    def forward(self, ws: Tensor, noise_mode: str = "random") -> Tensor:
        if ws.dim() != 3 or ws.shape[1:] != (self.num_ws, self.style_features):
            raise ValueError(f"ws: expected (B, {self.num_ws}, {self.style_features}), got {tuple(ws.shape)}")
        x: Tensor | None = None
        image: Tensor | None = None
        start = 0
        for index, block in enumerate(self.blocks):
            count = 1 if index == 0 else 2
            x, image = block(x, image, ws[:, start : start + count + 1], noise_mode)
            start += count
        assert image is not None
        return image


class Generator(StyleGenerator):
    """z (B, latent_dim) and labels (B,) to images; see `StyleGenerator`, `MappingNetwork` and `Synthesis`.

    Args:
        latent_dim: of z.
        num_classes: None: an unconditional generator.
        mapping_layers: of the mapping network.
        mapping_lr_multiplier: by which it learns more slowly.
        style_features and the others: see `Synthesis`.
    """

    synthesis: Synthesis

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int | None = None,
        latent_dim: int = 512,
        style_features: int = 512,
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        channels: int = 3,
        width: int = 32,
        channel_max: int = 512,
        architecture: str = "skip",
        num_half_resolutions: int = 4,
        conv_clamp: float | None = 256.0,
    ) -> None:
        mapping = MappingNetwork(
            latent_dim,
            style_features,
            num_layers=mapping_layers,
            num_classes=num_classes,
            lr_multiplier=mapping_lr_multiplier,
        )
        synthesis = Synthesis(
            resolution=resolution,
            channels=channels,
            width=width,
            channel_max=channel_max,
            style_features=style_features,
            architecture=architecture,
            num_half_resolutions=num_half_resolutions,
            conv_clamp=conv_clamp,
        )
        super().__init__(mapping, synthesis)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        mixed: tuple[Tensor, Tensor] | None = None,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str | None = None,
    ) -> Tensor:
        """Images (B, channels, resolution, resolution).

        Args:
            z, labels: see the class.
            mixed: second latents and the layer from which on they steer, see `StyleGenerator.styles`.
            truncation, truncation_cutoff: likewise.
            noise_mode: see `ModulatedConv2d`; None: "random" in training mode, "const" in evaluation mode.
        """
        ws = self.styles(
            z,
            labels,
            self.synthesis.num_ws,
            mixed=mixed,
            truncation=truncation,
            truncation_cutoff=truncation_cutoff,
        )
        images: Tensor = self.synthesis(ws, self.noise_mode(noise_mode))
        return images
