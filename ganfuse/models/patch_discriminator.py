"""PatchGAN: a discriminator that judges patches of images (Isola et al. 2017, arXiv 1611.07004, section 3.2.2)."""

import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import InstanceNormAct2d
from ganfuse.models.initialization import normal_weights

__all__ = ["PatchDiscriminator", "patch_side"]


def patch_side(layers: int) -> int:
    """Side in pixels of the patch that one logit judges: 70 for 3 layers."""
    side = 1
    for stride in (1, 1, *([2] * layers)):
        side = (side - 1) * stride + 4
    return side


def least_size(layers: int) -> int:
    """The smallest image that leaves a logit."""
    return 3 << layers


class PatchDiscriminator(nn.Module):
    """Images (B, channels, H, W) to a map of logits (B, 1, h, w), each for a patch of 70×70 pixels.

    C64-C128-C256-C512 of Zhu et al. 2017 (CycleGAN, appendix 7.2): 4×4 convolutions, all but the last with stride 2,
    instance normalisation but for the first, leaky ReLU of slope 0.2; then a 4×4 convolution to one map. At 256 px the
    map has 30×30 logits; 2,764,737 parameters.

    Args:
        channels: of the images.
        width: of the first layer; doubled by each of the next three.
        layers: convolutions with stride 2. The patch has a side of 16, 34, 70 pixels with 1, 2, 3.
    """

    def __init__(self, channels: int = 3, *, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        widths = [width * min(2**index, 8) for index in range(layers + 1)]
        self.channels = channels
        self.least_size = least_size(layers)
        self.input_conv = nn.Conv2d(channels, widths[0], 4, stride=2, padding=1)
        self.blocks = nn.ModuleList()
        for index in range(1, layers + 1):
            stride = 2 if index < layers else 1
            self.blocks.append(
                nn.Sequential(
                    nn.Conv2d(widths[index - 1], widths[index], 4, stride=stride, padding=1),
                    InstanceNormAct2d(widths[index], activation="leaky_relu", negative_slope=0.2),
                )
            )
        self.output_conv = nn.Conv2d(widths[-1], 1, 4, padding=1)
        normal_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] != self.channels or min(images.shape[2:]) < self.least_size:
            raise ValueError(
                f"images: expected (B, {self.channels}, H, W) with sides of at least {self.least_size}, "
                f"got {tuple(images.shape)}"
            )
        h = F.leaky_relu(self.input_conv(images), 0.2)
        for block in self.blocks:
            h = block(h)
        logits: Tensor = self.output_conv(h)
        return logits
