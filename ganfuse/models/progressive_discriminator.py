"""The discriminator of ProGAN, and of StyleGAN, which differs from it by a blur."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import EqualizedLinear, MinibatchStdDev
from ganfuse.models.checks import check_choice, check_labels
from ganfuse.models.growth import BASE, fade_in, halved
from ganfuse.models.progressive_layers import HE_GAIN, Blur, activated_conv, linear_conv, widths_of

__all__ = ["VARIANTS", "ConsecutiveStdDev", "Discriminator"]

#: Whose details: the papers' authors', pytorch_GAN_zoo's (ProGAN) or rosinality's style-based-gan-pytorch's (StyleGAN).
VARIANTS = ("paper", "gan-zoo", "rosinality")
_EPS = 1e-8


class ConsecutiveStdDev(nn.Module):
    """The minibatch standard deviation of pytorch_GAN_zoo: of samples that follow each other, variances unbiased.

    Args:
        group_size: samples in a group; a batch that it does not divide is one group. None: the whole batch.
    """

    def __init__(self, group_size: int | None = 4) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C + 1, H, W)."""
        n, _, height, width = x.shape
        size = min(n, self.group_size or n)
        if n == 0 or size == 1:
            return torch.cat([x, x.new_zeros(n, 1, height, width)], 1)
        size = n if n % size else size
        groups = x.reshape(-1, size, *x.shape[1:])
        spread = (groups.var(1, correction=1) + _EPS).sqrt().mean((1, 2, 3))
        spread = spread.repeat_interleave(size).view(n, 1, 1, 1).to(x.dtype)
        return torch.cat([x, spread.expand(-1, 1, height, width)], 1)

    def extra_repr(self) -> str:
        return f"group_size={self.group_size}"


class DiscriminatorBlock(nn.Module):
    """(B, inputs, H, W) → (B, outputs, H/2, W/2).

    ProGAN: conv, leaky ReLU, conv, leaky ReLU, 2×2 mean (table 2). StyleGAN: conv, leaky ReLU, blur, conv, 2×2 mean,
    leaky ReLU, the last convolution and the mean at the low resolution. The second convolution widens the map, with
    `widen_first` the first one does.
    """

    def __init__(self, inputs: int, outputs: int, *, blur: bool, widen_first: bool = False) -> None:
        super().__init__()
        middle = outputs if widen_first else inputs
        self.conv0 = activated_conv(inputs, middle)
        self.blur = Blur() if blur else None
        self.conv1 = activated_conv(middle, outputs, down=2 if blur else 1)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv0(x)
        if self.blur is not None:
            found: Tensor = self.conv1(self.blur(h))
            return found
        return halved(self.conv1(h))


class Discriminator(nn.Module):
    """Images (B, channels, r, r) of a level's resolution to logits (B,).

    Karras et al. 2018 (ProGAN, arXiv 1710.10196), table 2; 2019 (StyleGAN, arXiv 1812.04948), appendix C. With classes
    there is a logit for each, of which the label chooses (as in StyleGAN's published code).

    Args:
        resolution: of the last level, a power of two.
        channels: of the images.
        width: channels of the largest map; they double with every halving up to `channel_max`. Or those of all maps
            from 4×4 on.
        num_classes: None: unconditional.
        group_size: of the minibatch standard deviation; None: the whole batch.
        blur: StyleGAN's.
        variant: one of `VARIANTS`. "gan-zoo" has `ConsecutiveStdDev`; in "rosinality" blocks widen the map in their
            first convolution.
        fromrgb_activation: whether a leaky ReLU follows the 1×1 convolution that images enter by.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int = 3,
        width: int | Sequence[int] = 16,
        channel_max: int = 512,
        num_classes: int | None = None,
        group_size: int | None = None,
        blur: bool = False,
        variant: str = "paper",
        fromrgb_activation: bool = True,
    ) -> None:
        super().__init__()
        check_choice("variant", variant, VARIANTS)
        widths = widths_of(resolution, width, channel_max)
        self.channels = channels
        self.num_classes = num_classes
        # By level; level 0 is the epilogue.
        self.fromrgb = nn.ModuleList(
            activated_conv(channels, features, 1)
            if fromrgb_activation
            else linear_conv(channels, features, 1, bias=True)
            for features in widths
        )
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(features, smaller, blur=blur, widen_first=variant == "rosinality")
            for smaller, features in pairwise(widths)
        )
        self.mbstd = ConsecutiveStdDev(group_size) if variant == "gan-zoo" else MinibatchStdDev(group_size)
        self.conv = activated_conv(widths[0] + 1, widths[0])
        self.fc = EqualizedLinear(
            widths[0] * BASE**2, widths[0], activation="leaky_relu", gain=HE_GAIN, activation_gain=1.0
        )
        self.out = EqualizedLinear(widths[0], 1 if num_classes is None else num_classes)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, *, level: int | None = None, alpha: Tensor | None = None
    ) -> Tensor:
        """Logits (B,).

        Args:
            images, labels: see the class.
            level: of the images; None: the last one.
            alpha: share of the level's own block while it fades in, a tensor of shape (); None: 1.
        """
        level = len(self.blocks) if level is None else level
        expected = (self.channels, BASE << level, BASE << level)
        if images.dim() != 4 or images.shape[1:] != expected:
            raise ValueError(f"images: expected (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}")
        check_labels(labels, len(images), self.num_classes)
        x: Tensor = self.fromrgb[level](images)
        for current in range(level, 0, -1):
            x = self.blocks[current - 1](x)
            if current == level and alpha is not None:
                x = fade_in(self.fromrgb[level - 1](halved(images)), x, alpha)
        logits: Tensor = self.out(self.fc(self.conv(self.mbstd(x)).flatten(1)))
        return logits.squeeze(1) if labels is None else logits.gather(1, labels[:, None]).squeeze(1)
