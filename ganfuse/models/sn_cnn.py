"""The small convolutional networks of spectral normalisation's paper (Miyato et al. 2018, arXiv 1802.05957, table 3).

LOGAN's experiments on small pictures have them. The discriminator's last layer sums over positions, as SAGAN's does, in
place of a dense layer.
"""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from ganfuse.models.layer_factory import LayerFactory
from ganfuse.models.residual_networks import FIRST, ProjectionDiscriminator, ResidualGenerator, doublings

__all__ = ["RESOLUTIONS", "Discriminator", "Generator"]

RESOLUTIONS = (32, 64)


class _NormUp(nn.Module):
    """BN, activation, transposed 4×4 convolution."""

    def __init__(self, norm: nn.Module, conv: nn.Module) -> None:
        super().__init__()
        self.bn = norm
        self.conv = conv

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        y: Tensor = self.conv(self.bn(x) if condition is None else self.bn(x, condition))
        return y


class _ConvDown(nn.Module):
    """(Activation,) 3×3, and with `halved` activation, 4×4 with stride 2."""

    def __init__(self, inputs: int, outputs: int, *, first: bool, halved: bool, layers: LayerFactory) -> None:
        super().__init__()
        self.first = first
        self.layers = layers
        self.conv1 = layers.conv2d(inputs, outputs, 3)
        self.conv2 = layers.conv2d(outputs, outputs, 4, stride=2) if halved else None

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv1(x if self.first else self.layers.activate(x))
        return h if self.conv2 is None else self.conv2(self.layers.activate(h, inplace=True))


def _widths(width: int, resolution: int) -> list[int]:
    """Channels at 4×4, 8×8, … pixels."""
    return [width * min(8, resolution // size) for size in doublings(FIRST, resolution)]


class Generator(ResidualGenerator):
    """z (B, latent_dim) and labels (B,) to images (B, channels, resolution, resolution) in [-1, 1].

    The width at resolution r is ``width · min(8, resolution / r)``.

    Args:
        resolution: 32 or 64.
        num_classes: None makes an unconditional generator.
        channels: of the images.
        width: channels at full resolution.
        latent_dim: size of z.
        layers: makes the layers; the paper's are not spectrally normalised here.
    """

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int | None,
        channels: int,
        width: int,
        latent_dim: int,
        layers: LayerFactory,
    ) -> None:
        widths = _widths(width, resolution)
        norm = partial(layers.batch_norm, num_classes=num_classes)
        super().__init__(
            resolution=resolution,
            channels=channels,
            latent_dim=latent_dim,
            num_classes=num_classes,
            linear=layers.linear(latent_dim, widths[0] * FIRST * FIRST),
            blocks=[
                _NormUp(norm(inputs), layers.conv_transpose2d(inputs, outputs)) for inputs, outputs in pairwise(widths)
            ],
            attention=(None, None),
            features=widths[-1],
            layers=layers,
        )

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_inputs(z, labels)
        return self.synthesize(z, [labels] * len(self.blocks))


class Discriminator(ProjectionDiscriminator):
    """Images (B, channels, resolution, resolution) and labels (B,) to logits (B,).

    The arguments are those of `Generator`.
    """

    def __init__(
        self, *, resolution: int, num_classes: int | None, channels: int, width: int, layers: LayerFactory
    ) -> None:
        widths = _widths(width, resolution)[::-1]
        blocks = [
            _ConvDown(inputs, outputs, first=index == 0, halved=index < len(widths) - 1, layers=layers)
            for index, (inputs, outputs) in enumerate(pairwise([channels, *widths]))
        ]
        super().__init__(
            resolution=resolution,
            channels=channels,
            num_classes=num_classes,
            blocks=blocks,
            attention=(None, None),
            features=widths[-1],
            layers=layers,
        )
