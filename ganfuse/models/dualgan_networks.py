"""The networks of DualGAN: a U-Net down to a single pixel, and a discriminator of the whole image."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import InstanceNormAct2d
from ganfuse.models.checks import check_images
from ganfuse.models.initialization import normal_weights
from ganfuse.models.resnet_generator import check_sizes

__all__ = ["GlobalDiscriminator", "SameConv2d", "SameConvTranspose2d", "UNetGenerator"]

_EPS = 1e-6


class SameConv2d(nn.Conv2d):
    """A convolution of stride 2 that halves even sizes, padded as TensorFlow's SAME: one pixel more behind than before.

    Args:
        kernel_size: 3 or 5.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3) -> None:
        super().__init__(inputs, outputs, kernel_size, stride=2)
        self.before = (kernel_size - 2) // 2

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H/2, W/2)."""
        before, behind = self.before, self.before + 1
        return super().forward(F.pad(x, (before, behind, before, behind)))


class SameConvTranspose2d(nn.ConvTranspose2d):
    """The adjoint of `SameConv2d`: (B, inputs, H, W) → (B, outputs, 2H, 2W)."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 3) -> None:
        super().__init__(inputs, outputs, kernel_size, stride=2, padding=(kernel_size - 2) // 2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, 2H, 2W)."""
        return super().forward(x)[:, :, :-1, :-1]


class UNetGenerator(nn.Module):
    """Images (B, channels, H, W) in [-1, 1] to images of the same size; H and W are multiples of `resolution`.

    Convolutions of stride 2 (5×5 the first, 3×3 the others) until one pixel is left of an image of `resolution`, and
    transposed ones back, whose results are concatenated with what came by on the way down; instance normalisation with
    gain and bias but for the first and the last; leaky ReLU of slope 0.2 on the way down, ReLU on the way up.

    **The innermost map.** Of one pixel there is no variance: its normalisation gives the bias, whatever the image. (The
    fused layer says 0 · gain + bias, where PyTorch's raises an error.) So at its resolution the published network sends
    nothing through its middle, and the weights in front of it learn nothing. ``innermost_norm=False`` leaves that one
    normalisation out, as pix2pix does (Isola et al. 2017), and the middle takes part.

    Args:
        channels: of the images.
        resolution: a power of two.
        width: of the first layer; at most eight times that in the middle.
        dropout: behind the three innermost transposed convolutions.
        innermost_norm: see above.
    """

    def __init__(
        self,
        channels: int = 3,
        *,
        resolution: int = 256,
        width: int = 64,
        dropout: float = 0.0,
        innermost_norm: bool = True,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.resolution = resolution
        self.dropout = dropout
        widths = [width * min(1 << index, 8) for index in range(resolution.bit_length() - 1)]
        self.input_conv = SameConv2d(channels, width, 5)
        self.encoder = nn.ModuleList(nn.Sequential(SameConv2d(i, o), _norm(o, "none")) for i, o in pairwise(widths))
        if not innermost_norm:
            self.encoder[-1] = nn.Sequential(SameConv2d(widths[-2], widths[-1]))
        self.decoder = nn.ModuleList()
        for index, (inputs, outputs) in enumerate(pairwise(widths[::-1])):
            conv = SameConvTranspose2d(inputs if index == 0 else 2 * inputs, outputs)
            self.decoder.append(nn.Sequential(conv, _norm(outputs, "relu")))
        self.output_conv = SameConvTranspose2d(2 * width, channels, 5)
        normal_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        check_sizes(images, self.channels, self.resolution, self.resolution)
        passed = [self.input_conv(images)]
        for stage in self.encoder:
            passed.append(stage(F.leaky_relu(passed[-1], 0.2)))
        h = F.relu(passed.pop())
        for index, stage in enumerate(self.decoder):
            # The authors' ReLU comes behind the concatenation; each part for itself, the normalised one has it in one.
            h = stage(h)
            if self.dropout and index < 3:
                h = F.dropout(h, self.dropout, self.training)
            h = torch.cat([h, F.relu(passed.pop())], 1)
        return torch.tanh(self.output_conv(h))


class GlobalDiscriminator(nn.Module):
    """Images (B, channels, resolution, resolution) to scores (B,).

    Convolutions of stride 2 (5×5 to `width` maps, then 3×3 to 2, 4, 8 and 8 times as many, as long as maps of 4×4 or
    more are left), instance normalisation but for the first, leaky ReLU of slope 0.2, and a linear layer.

    Args:
        channels: of the images.
        resolution: of the images, a power of two.
        width: of the first layer.
    """

    def __init__(self, channels: int = 3, *, resolution: int = 256, width: int = 64) -> None:
        super().__init__()
        self.channels = channels
        self.resolution = resolution
        # On smaller maps the normalisation would leave little of the image, on 1×1 nothing.
        depth = min(5, resolution.bit_length() - 3)
        widths = [width * min(1 << index, 8) for index in range(depth)]
        self.input_conv = SameConv2d(channels, width, 5)
        self.blocks = nn.ModuleList(
            nn.Sequential(SameConv2d(i, o), _norm(o, "leaky_relu")) for i, o in pairwise(widths)
        )
        self.linear = nn.Linear(widths[-1] * (resolution >> depth) ** 2, 1)
        normal_weights(self)

    def forward(self, images: Tensor) -> Tensor:
        check_images(images, self.channels, self.resolution)
        h = F.leaky_relu(self.input_conv(images), 0.2)
        for block in self.blocks:
            h = block(h)
        scores: Tensor = self.linear(h.flatten(1)).squeeze(1)
        return scores


def _norm(features: int, activation: str) -> InstanceNormAct2d:
    return InstanceNormAct2d(features, eps=_EPS, affine=True, activation=activation, negative_slope=0.2)
