"""The discriminator of StyleGAN2 (Karras et al. 2020, arXiv 1912.04958), with StyleGAN2-ADA's classes.

Parameters are named as in StyleGAN2-ADA, but that blocks are numbered from the largest map on, and its ``b4`` is
``epilogue``.
"""

import math

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import EqualizedConv2d, EqualizedLinear, FromRGB, MinibatchStdDev
from ganfuse.engine.precision import at_least_float32
from ganfuse.kernels import downsample2d
from ganfuse.kernels.precision import without_autocast
from ganfuse.models.checks import check_images, check_labels
from ganfuse.models.mapping_network import MappingNetwork
from ganfuse.models.residual_networks import doublings
from ganfuse.models.stylegan2_block import BASE, Block, is_half

__all__ = ["Discriminator"]


class DiscriminatorBlock(Block):
    """Two convolutions, the second of which halves the map.

    Args:
        inputs: channels that come in; 0: the image does, and nothing else.
        middle, outputs: channels between and behind the convolutions.
        channels: of the image.
        architecture: "resnet": a 1×1 convolution beside the two; "skip": every block sees the image in its own size,
            too; "orig": neither.
        half_precision, conv_clamp: see `SynthesisBlock`.
    """

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        channels: int,
        *,
        architecture: str,
        half_precision: bool,
        conv_clamp: float | None,
    ) -> None:
        super().__init__(architecture, half_precision, resampled=True)
        sees = inputs == 0 or architecture == "skip"
        self.fromrgb = FromRGB(channels, middle, conv_clamp=conv_clamp) if sees else None
        self.conv0 = _activated(middle, middle, conv_clamp, 1)
        self.conv1 = _activated(middle, outputs, conv_clamp, 2)
        self.skip = EqualizedConv2d(middle, outputs, 1, bias=False, down=2) if architecture == "resnet" else None

    def forward(self, x: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor]:
        """The map (B, outputs, H/2, W/2), and the image in the next block's size if that sees it, else as it was."""
        if self.half_precision:
            return self._forward(x, image)
        result: tuple[Tensor, Tensor] = without_autocast(
            self._forward, None if x is None else at_least_float32(x), image
        )
        return result

    def _forward(self, x: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor]:
        if self.fromrgb is not None:
            seen: Tensor = self.fromrgb(image)
            x = seen if x is None else x + seen
        assert x is not None
        if self.architecture == "skip":
            image = downsample2d(image, self.image_filter())
        if self.skip is None:
            return self.conv1(self.conv0(x)), image
        gain = math.sqrt(0.5)
        shortcut: Tensor = self.skip(x, gain=gain)
        return shortcut + self.conv1(self.conv0(x), gain=gain), image


class DiscriminatorEpilogue(nn.Module):
    """The 4×4 map (B, inputs, 4, 4) to (B, outputs), in the weights' type whatever autocast says.

    Args:
        inputs, outputs: see above.
        channels: of the image; 0: it does not see the image.
        group_size: of the minibatch standard deviation.
        conv_clamp: see `SynthesisBlock`.
    """

    def __init__(
        self, inputs: int, outputs: int, channels: int, *, group_size: int | None, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.fromrgb = FromRGB(channels, inputs) if channels else None
        self.mbstd = MinibatchStdDev(group_size)
        self.conv = _activated(inputs + 1, inputs, conv_clamp, 1)
        self.fc = EqualizedLinear(inputs * BASE**2, inputs, activation="leaky_relu")
        self.out = EqualizedLinear(inputs, outputs)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """`image`: (B, channels, 4, 4), if it is seen."""
        result: Tensor = without_autocast(self._forward, at_least_float32(x), image)
        return result

    def _forward(self, x: Tensor, image: Tensor) -> Tensor:
        if self.fromrgb is not None:
            x = x + self.fromrgb(image)
        x = self.conv(self.mbstd(x))
        logits: Tensor = self.out(self.fc(x.flatten(1)))
        return logits


class Discriminator(nn.Module):
    """Images (B, channels, resolution, resolution) and labels (B,) to logits (B,). Feature maps are channels_last.

    With classes the features of the image are projected on those of the label, which a mapping network of 8 layers
    makes (Karras et al. 2020, arXiv 2006.06676, appendix C; Miyato & Koyama 2018).

    Args:
        resolution, channels, width, channel_max, num_half_resolutions, conv_clamp: see `Synthesis`.
        num_classes: None: an unconditional discriminator.
        architecture: see `DiscriminatorBlock`.
        group_size: of the minibatch standard deviation, see `MinibatchStdDev`.
        mapping_layers: of the labels' network.
    """

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int | None = None,
        channels: int = 3,
        width: int = 32,
        channel_max: int = 512,
        architecture: str = "resnet",
        group_size: int | None = 4,
        num_half_resolutions: int = 4,
        conv_clamp: float | None = 256.0,
        mapping_layers: int = 8,
    ) -> None:
        super().__init__()
        sizes = doublings(BASE, resolution)[::-1]
        widths = [min(width * resolution // size, channel_max) for size in sizes]
        self.resolution = resolution
        self.channels = channels
        self.num_classes = num_classes
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(
                0 if size == resolution else middle,
                middle,
                outputs,
                channels,
                architecture=architecture,
                half_precision=is_half(size, resolution, num_half_resolutions),
                conv_clamp=conv_clamp,
            )
            for middle, outputs, size in zip(widths, widths[1:], sizes)
        )
        features = 1 if num_classes is None else widths[-1]
        self.epilogue = DiscriminatorEpilogue(
            widths[-1],
            features,
            channels if architecture == "skip" else 0,
            group_size=group_size,
            conv_clamp=conv_clamp,
        )
        self.mapping: MappingNetwork | None = None
        if num_classes is not None:
            self.mapping = MappingNetwork(
                0, features, num_layers=mapping_layers, num_classes=num_classes, average_decay=None
            )
        # What a convolution's weight is, its results are.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        check_images(images, self.channels, self.resolution)
        check_labels(labels, len(images), self.num_classes)
        x: Tensor | None = None
        image = images
        for block in self.blocks:
            x, image = block(x, image)
        features: Tensor = self.epilogue(x, image)
        if self.mapping is None:
            return features.squeeze(1)
        projected: Tensor = (features * self.mapping(None, labels)).sum(1) / math.sqrt(features.shape[1])
        return projected


def _activated(inputs: int, outputs: int, conv_clamp: float | None, down: int) -> EqualizedConv2d:
    return EqualizedConv2d(inputs, outputs, 3, down=down, activation="leaky_relu", conv_clamp=conv_clamp)
