"""BigGAN-deep: the deeper variant of BigGAN (Brock et al. 2019, arXiv 1809.11096, appendix B, figure 16).

Two residual blocks per resolution, each with four convolutions and a bottleneck of a quarter of the channels. Shortcuts
have no or few weights: where channels become fewer the generator drops the last of them, and where they become more the
discriminator appends what a 1×1 convolution gives. z is not cut: every block sees all of it beside the class embedding.

At 128 px with 1000 classes the players have 50,244,484 and 34,590,210 parameters.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.models.biggan import RESOLUTIONS
from ganfuse.models.biggan_game import BigGANGame
from ganfuse.models.biggan_variants import DEEP_VARIANTS, variant_of
from ganfuse.models.checks import check_attention, check_classes, check_positive, check_resolution
from ganfuse.models.layer_factory import LayerFactory
from ganfuse.models.registry import register_model
from ganfuse.models.residual_networks import (
    FIRST,
    ProjectionDiscriminator,
    ResidualGenerator,
    attention_after,
    doublings,
)

__all__ = ["ATTENTION", "Discriminator", "Generator", "biggan_deep"]

DISCRIMINATOR_WIDTHS = DEEP_VARIANTS["paper"].discriminator_widths
ATTENTION = {32: 0, 64: 32, 128: 64, 256: 64, 512: 64}


class BottleneckUpBlock(nn.Module):
    """BN, act, 1×1, BN, act, (×2 nearest,) 3×3, BN, act, 3×3, BN, act, 1×1, beside the first channels of the input.

    Args:
        inputs, outputs: channels; outputs ≤ inputs.
        upsample: double the resolution.
        full_shortcut: a 1×1 convolution of the input in place of its first channels.
        norm: from a number of channels to the normalisation with its activation, called with a map and the condition.
        layers: makes the convolutions.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        upsample: bool,
        full_shortcut: bool = False,
        norm: Callable[[int], nn.Module],
        layers: LayerFactory,
    ) -> None:
        super().__init__()
        hidden = max(inputs // 4, 1)
        self.outputs = outputs
        self.upsample = upsample
        second = layers.upsample_conv2d if upsample else layers.conv2d
        self.bn1, self.conv1 = norm(inputs), layers.conv2d(inputs, hidden, 1)
        self.bn2, self.conv2 = norm(hidden), second(hidden, hidden, 3)
        self.bn3, self.conv3 = norm(hidden), layers.conv2d(hidden, hidden, 3)
        self.bn4, self.conv4 = norm(hidden), layers.conv2d(hidden, outputs, 1)
        shortcut = layers.upsample_conv2d if upsample else layers.conv2d
        self.conv_sc = shortcut(inputs, outputs, 1) if full_shortcut else None

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H, W), or twice the size with `upsample`."""
        given = () if condition is None else (condition,)
        h: Tensor = self.conv1(self.bn1(x, *given))
        h = self.conv2(self.bn2(h, *given))
        h = self.conv3(self.bn3(h, *given))
        h = self.conv4(self.bn4(h, *given))
        if self.conv_sc is not None:
            converted: Tensor = self.conv_sc(x)
            return h + converted
        shortcut = x[:, : self.outputs]
        return h + (F.interpolate(shortcut, scale_factor=2.0, mode="nearest") if self.upsample else shortcut)


class BottleneckDownBlock(nn.Module):
    """act, 1×1, act, 3×3, act, 3×3, act, (2×2 mean,) 1×1, beside the input (2×2 mean) with new channels by a 1×1.

    Args:
        inputs, outputs: channels; outputs ≥ inputs.
        downsample: halve the resolution.
        activated_shortcut: the first activation is in front of the shortcut, too.
        full_shortcut: where size or channels change, the 1×1 convolution gives all channels of the shortcut.
        layers: makes the convolutions.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        downsample: bool,
        activated_shortcut: bool = False,
        full_shortcut: bool = False,
        layers: LayerFactory,
    ) -> None:
        super().__init__()
        hidden = max(outputs // 4, 1)
        self.downsample = downsample
        self.activated_shortcut = activated_shortcut
        self.full_shortcut = full_shortcut
        self.layers = layers
        self.conv1 = layers.conv2d(inputs, hidden, 1)
        self.conv2 = layers.conv2d(hidden, hidden, 3)
        self.conv3 = layers.conv2d(hidden, hidden, 3)
        self.conv4 = layers.conv2d(hidden, outputs, 1)
        changed = outputs > inputs or (full_shortcut and downsample)
        new = outputs if full_shortcut else outputs - inputs
        self.conv_sc = layers.conv2d(inputs, new, 1) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) → (B, outputs, H, W), or half the size with `downsample`."""
        activate = self.layers.activate
        start = activate(x)
        x = start if self.activated_shortcut else x
        h: Tensor = self.conv1(start)
        h = self.conv2(activate(h, inplace=True))
        h = self.conv3(activate(h, inplace=True))
        if self.full_shortcut:
            # There the last activation is behind the mean.
            h, x = (F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)) if self.downsample else (h, x)
            h = self.conv4(activate(h, inplace=True))
            return h + (x if self.conv_sc is None else self.conv_sc(x))
        h = activate(h, inplace=True)
        if self.downsample:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = self.conv4(h)
        return h + (x if self.conv_sc is None else torch.cat([x, self.conv_sc(x)], dim=1))


class Generator(ResidualGenerator):
    """z (B, latent_dim) and labels (B,) to images (B, channels, resolution, resolution) in [-1, 1].

    Args:
        resolution: 32, 64, 128, 256 or 512.
        num_classes: None makes an unconditional generator, whose condition is z alone.
        channels: of the images.
        width: unit of width, ``ch`` in the paper.
        latent_dim: size of z.
        shared_features: size of the shared class embedding.
        attention_resolution: which map the attention works on; 0: no attention.
        variant: one of `DEEP_VARIANTS`.
        layers: makes the layers; None: as the variant does.
    """

    def __init__(
        self,
        *,
        resolution: int = 128,
        num_classes: int | None = 1000,
        channels: int = 3,
        width: int = 128,
        latent_dim: int = 128,
        shared_features: int = 128,
        attention_resolution: int = 64,
        variant: str = "paper",
        layers: LayerFactory | None = None,
    ) -> None:
        details = variant_of(variant, DEEP_VARIANTS)
        layers = layers or details.layers()
        widths = [width * factor for factor in details.generator_widths[resolution]]
        condition_features = latent_dim + (0 if num_classes is None else shared_features)
        norm = partial(layers.batch_norm, condition_features=condition_features)
        block = partial(BottleneckUpBlock, full_shortcut=details.full_shortcut, norm=norm, layers=layers)
        blocks: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            blocks += [
                block(inputs, inputs, upsample=False),
                block(inputs, outputs, upsample=True),
            ]
        sizes = [size for pair in pairwise(doublings(FIRST, resolution)) for size in pair]
        given = [width for pair in pairwise(widths) for width in pair]
        super().__init__(
            resolution=resolution,
            channels=channels,
            latent_dim=latent_dim,
            num_classes=num_classes,
            linear=layers.linear(condition_features, widths[0] * FIRST * FIRST),
            blocks=blocks,
            attention=attention_after(sizes, given, attention_resolution, layers),
            features=widths[-1],
            layers=layers,
        )
        self.shared: nn.Embedding | None = None
        if num_classes is not None:
            self.shared = layers.embedding(num_classes, shared_features, spectral=False)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_inputs(z, labels)
        condition = z if self.shared is None else torch.cat([self.shared(labels), z], dim=1)
        return self.synthesize(condition, [condition] * len(self.blocks))


class Discriminator(ProjectionDiscriminator):
    """Images (B, channels, resolution, resolution) and labels (B,) to logits (B,).

    The arguments are those of `Generator`.
    """

    def __init__(
        self,
        *,
        resolution: int = 128,
        num_classes: int | None = 1000,
        channels: int = 3,
        width: int = 128,
        attention_resolution: int = 64,
        variant: str = "paper",
        layers: LayerFactory | None = None,
    ) -> None:
        details = variant_of(variant, DEEP_VARIANTS)
        layers = layers or details.layers()
        widths = [width * factor for factor in details.discriminator_widths[resolution]]
        block = partial(
            BottleneckDownBlock,
            activated_shortcut=details.activated_shortcut,
            full_shortcut=details.full_shortcut,
            layers=layers,
        )
        blocks: list[nn.Module] = []
        sizes: list[int] = []
        size = resolution
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            halved = not (resolution == 32 and index == len(widths) - 2)
            size //= 1 + halved
            blocks += [
                block(inputs, outputs, downsample=halved),
                block(outputs, outputs, downsample=False),
            ]
            sizes += [size, size]
        given = [width for width in widths[1:] for _ in range(2)]
        super().__init__(
            resolution=resolution,
            channels=channels,
            num_classes=num_classes,
            blocks=blocks,
            attention=attention_after(sizes, given, attention_resolution, layers, last=True),
            features=widths[-1],
            layers=layers,
            input_conv=layers.conv2d(channels, widths[0], 3),
        )


@register_model(
    summary="BigGAN with bottleneck blocks, four times as many layers and fewer parameters",
    paper="Large Scale GAN Training for High Fidelity Natural Image Synthesis",
    arxiv="1809.11096",
    resolutions=RESOLUTIONS,
)
def biggan_deep(
    *,
    resolution: int = 128,
    num_classes: int | None = 1000,
    channels: int = 3,
    width: int = 128,
    latent_dim: int = 128,
    shared_features: int = 128,
    attention_resolution: int | None = None,
    variant: str = "paper",
    loss: str = "hinge",
    generator_lr: float | None = None,
    discriminator_lr: float | None = None,
    betas: Sequence[float] = (0.0, 0.999),
    adam_eps: float = 1e-6,
    discriminator_steps: int = 2,
    orthogonal: float = 1e-4,
    ema_decay: float | None = 0.9999,
    ema_start: int = 20_000,
) -> BigGANGame:
    """BigGAN-deep with the recipe of the paper (appendices B and C); see `ganfuse.models.biggan.biggan`.

    Args:
        resolution: 32, 64, 128, 256 or 512; the paper's are the last three.
        num_classes: None (or 0 or 1) makes both players unconditional.
        channels: of the images, 1 or 3 usually.
        width: unit of width, ``ch`` in the paper: 128.
        latent_dim: size of z ~ N(0, 1).
        shared_features: size of the shared class embedding.
        attention_resolution: which map the attention works on; None: 64, at 64 px 32, at 32 px none; 0: none.
        variant: "studiogan" and "studiogan-legacy": widths, ε and shortcuts of PyTorch-StudioGAN's two kinds of
            BigGAN-deep, see `ganfuse.models.biggan_variants`.
        generator_lr, discriminator_lr: None: 5e-5 and 2e-4, from 256 px on 2.5e-5 for both (appendix C).
        loss, betas, discriminator_steps: see `AdversarialGame`.
        adam_eps, orthogonal, ema_decay, ema_start: see `BigGANGame`.

    Raises:
        ValueError: for a resolution that is not there and values out of range.
    """
    check_resolution("BigGAN-deep", resolution, RESOLUTIONS)
    check_positive(channels=channels, width=width, latent_dim=latent_dim, shared_features=shared_features)
    classes = check_classes(num_classes)
    if attention_resolution is None:
        attention_resolution = ATTENTION[resolution]
    check_attention(attention_resolution, doublings(2 * FIRST, resolution // 2), resolution)
    slow = resolution >= 256
    generator = Generator(
        resolution=resolution,
        num_classes=classes,
        channels=channels,
        width=width,
        latent_dim=latent_dim,
        shared_features=shared_features,
        attention_resolution=attention_resolution,
        variant=variant,
    )
    discriminator = Discriminator(
        resolution=resolution,
        num_classes=classes,
        channels=channels,
        width=width,
        attention_resolution=attention_resolution,
        variant=variant,
    )
    return BigGANGame(
        generator,
        discriminator,
        loss,
        latent_dim=latent_dim,
        num_classes=classes,
        generator_lr=(2.5e-5 if slow else 5e-5) if generator_lr is None else generator_lr,
        discriminator_lr=(2.5e-5 if slow else 2e-4) if discriminator_lr is None else discriminator_lr,
        betas=betas,
        adam_eps=adam_eps,
        discriminator_steps=discriminator_steps,
        orthogonal=orthogonal,
        ema_decay=ema_decay,
        ema_start=ema_start,
    )
