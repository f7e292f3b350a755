"""The networks of UNIT: encoders, decoders, and discriminators of several scales."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import GroupNormAct2d, InstanceNormAct2d
from ganfuse.models.checks import check_images
from ganfuse.models.initialization import normal_weights
from ganfuse.models.resnet_generator import ResidualBlock, check_sizes, reflect_conv2d

__all__ = ["Decoder", "Encoder", "MultiScaleDiscriminator", "Translator"]


class Encoder(nn.Module):
    """Images (B, channels, H, W) to the mean of the latent code, (B, 4·width, H/4, W/4); H and W are multiples of 4.

    c7s1-64, c4s2-128, c4s2-256, each with instance normalisation and ReLU, and residual blocks; reflection padding.

    Args:
        channels: of the images.
        width: channels at full resolution.
        blocks: residual blocks of its own.
        shared: blocks behind them that it has in common with the other domain's encoder.
    """

    def __init__(self, channels: int, *, width: int, blocks: int, shared: nn.ModuleList) -> None:
        super().__init__()
        self.channels = channels
        self.layers = nn.ModuleList([_norm_relu(reflect_conv2d(channels, width, 7))])
        for inputs in (width, 2 * width):
            conv = nn.Conv2d(inputs, 2 * inputs, 4, stride=2, padding=1, padding_mode="reflect")
            self.layers.append(_norm_relu(conv))
        self.blocks = nn.ModuleList(ResidualBlock(4 * width) for _ in range(blocks))
        self.shared = shared

    def forward(self, images: Tensor) -> Tensor:
        check_sizes(images, self.channels, Translator.size_multiple, Translator.least_size)
        h = images
        for stage in (*self.layers, *self.blocks, *self.shared):
            h = stage(h)
        return h


class Decoder(nn.Module):
    """Latent codes (B, 4·width, H/4, W/4) to images (B, channels, H, W) in [-1, 1].

    Residual blocks, twice nearest ×2 and a 5×5 convolution to half the channels with layer normalisation and ReLU, and
    c7s1-3 with tanh; reflection padding.

    Args:
        channels, width: as of `Encoder`.
        blocks: residual blocks of its own.
        shared: blocks in front of them that it has in common with the other domain's decoder.
    """

    def __init__(self, channels: int, *, width: int, blocks: int, shared: nn.ModuleList) -> None:
        super().__init__()
        self.shared = shared
        self.blocks = nn.ModuleList(ResidualBlock(4 * width) for _ in range(blocks))
        self.layers = nn.ModuleList()
        for inputs in (4 * width, 2 * width):
            norm = GroupNormAct2d(1, inputs // 2, activation="relu")
            nn.init.uniform_(norm.weight)
            self.layers.append(nn.Sequential(reflect_conv2d(inputs, inputs // 2, 5), norm))
        self.output_conv = reflect_conv2d(width, channels, 7)

    def forward(self, code: Tensor) -> Tensor:
        h = code
        for block in (*self.shared, *self.blocks):
            h = block(h)
        for stage in self.layers:
            h = stage(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return torch.tanh(self.output_conv(h))


class Translator(nn.Module):
    """One domain's encoder and the other's decoder: images to images, by the mean of the code, without its noise."""

    size_multiple = 4
    least_size = 12

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        for part in (*encoder.modules(), *decoder.modules()):
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight)
                assert part.bias is not None
                nn.init.zeros_(part.bias)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] → the same."""
        code: Tensor = self.encoder(images)
        translated: Tensor = self.decoder(code)
        return translated


class MultiScaleDiscriminator(nn.Module):
    """Images (B, channels, resolution, resolution) to a list of maps of logits, for the image and for smaller ones.

    At each scale four 4×4 convolutions of stride 2 with leaky ReLU of slope 0.2, without norms, and one of 1×1. Scales
    are made by 3×3 means of stride 2, in which the border does not count.

    Args:
        channels, resolution: of the images.
        width: of the first layers.
        scales: how many.
    """

    def __init__(self, channels: int = 3, *, resolution: int = 256, width: int = 64, scales: int = 3) -> None:
        super().__init__()
        self.channels = channels
        self.resolution = resolution
        self.scales = nn.ModuleList(_patch_network(channels, width) for _ in range(scales))
        normal_weights(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        check_images(images, self.channels, self.resolution)
        logits = []
        for index, network in enumerate(self.scales):
            if index:
                images = F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
            logits.append(network(images))
        return logits


def least_judged(scales: int) -> int:
    """The smallest image of which the last scale leaves something to the last reflection padding."""
    return 16 << (scales - 1)


def _patch_network(channels: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = channels
    for index in range(4):
        outputs = width << index
        layers.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, padding_mode="reflect"))
        layers.append(nn.LeakyReLU(0.2))
        inputs = outputs
    return nn.Sequential(*layers, nn.Conv2d(inputs, 1, 1))


def _norm_relu(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, InstanceNormAct2d(conv.out_channels, activation="relu"))
