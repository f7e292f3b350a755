"""BiGAN's networks: generator, encoder, discriminator of pairs (Donahue et al. 2017, arXiv 1605.09782, appendix C).

z enters the generator and the discriminator at every layer after the first as a bias, a linear map of z that is added
before batch normalisation, which has neither gain nor bias of its own.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import BatchNormAct2d
from ganfuse.models.checks import check_images, check_latents
from ganfuse.models.dcgan_networks import downsample, upsample
from ganfuse.models.initialization import normal_weights

__all__ = ["Discriminator", "Encoder", "Generator"]

_BASE = 4
_SLOPE = 0.2
_KERNEL = 5


class _Layer(nn.Module):
    """A linear or convolutional layer, plus a linear map of z if wanted, batch normalisation if wanted, activation."""

    def __init__(
        self,
        main: nn.Module,
        outputs: int,
        activation: str,
        *,
        norm_eps: float | None,
        latent_dim: int = 0,
    ) -> None:
        super().__init__()
        self.main = main
        self.activation = activation
        self.latent = nn.Linear(latent_dim, outputs, bias=False) if latent_dim else None
        self.norm = None
        if norm_eps is not None:
            self.norm = BatchNormAct2d(outputs, eps=norm_eps, affine=False, activation=activation)

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        h: Tensor = self.main(x)
        if self.latent is not None:
            assert z is not None
            bias = self.latent(z)
            h = h + (bias if h.dim() == 2 else bias[:, :, None, None])
        if self.norm is not None:
            maps: Tensor = self.norm(h[:, :, None, None] if h.dim() == 2 else h)
            return maps.view(h.shape) if h.dim() == 2 else maps
        return F.relu(h) if self.activation == "relu" else F.leaky_relu(h, _SLOPE)


class Generator(nn.Module):
    """z (B, latent_dim) to images (B, channels, resolution, resolution) in [-1, 1]; inside, a sigmoid's [0, 1].

    Args:
        resolution, channels: of the images.
        latent_dim: size of z.
        widths: of the hidden layers, if fully connected; of the maps from 4×4 on, each twice as large as the last.
        convolutional: which of the two.
        norm_eps: of batch normalisation.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        latent_dim: int,
        widths: Sequence[int],
        convolutional: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        self.latent_dim = latent_dim
        self.convolutional = convolutional
        self.widths = tuple(widths)
        layer = partial(_Layer, activation="relu", norm_eps=norm_eps)
        first: nn.Linear | nn.ConvTranspose2d
        later: list[nn.Linear] | list[nn.ConvTranspose2d]
        if convolutional:
            first = nn.ConvTranspose2d(latent_dim, widths[0], _BASE, bias=False)
            later = [upsample(a, b, _KERNEL) for a, b in pairwise(widths)]
            self.output: nn.Module = upsample(widths[-1], channels, _KERNEL, bias=True)
        else:
            first = nn.Linear(latent_dim, widths[0], bias=False)
            later = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
            self.output = nn.Linear(widths[-1], channels * resolution * resolution)
        self.layers = nn.ModuleList([layer(first, widths[0])])
        self.layers.extend(layer(main, width, latent_dim=latent_dim) for main, width in zip(later, widths[1:]))
        _begin(self, convolutional)

    def forward(self, z: Tensor) -> Tensor:
        check_latents(z, self.latent_dim)
        h = z[:, :, None, None] if self.convolutional else z
        for layer in self.layers:
            h = layer(h, z)
        # 2σ(x) − 1
        images: Tensor = torch.tanh(0.5 * self.output(h))
        return images.view(-1, self.channels, self.resolution, self.resolution)


class Encoder(nn.Module):
    """Images (B, channels, resolution, resolution) in [-1, 1] to latents (B, latent_dim), unbounded.

    Args:
        widths: of the hidden layers, or of the maps, the first at half the resolution and the last at 4×4.
        The others are those of `Generator`.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        latent_dim: int,
        widths: Sequence[int],
        convolutional: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.trunk = _Trunk(resolution, channels, widths, convolutional, norm_eps, latent_dim=0)
        self.output = nn.Linear(self.trunk.out_features, latent_dim)
        _begin(self, convolutional)

    def forward(self, images: Tensor) -> Tensor:
        latents: Tensor = self.output(self.trunk(images, None))
        return latents


class Discriminator(nn.Module):
    """Images and latents (B, latent_dim) to logits (B,): high for (x, E(x)), low for (G(z), z).

    Args:
        joint: take latents. Without, it is a discriminator of images, for the latent regressor.
        The others are those of `Encoder`.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        latent_dim: int,
        widths: Sequence[int],
        convolutional: bool,
        norm_eps: float,
        joint: bool = True,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.joint = joint
        used = latent_dim if joint else 0
        self.trunk = _Trunk(resolution, channels, widths, convolutional, norm_eps, latent_dim=used)
        self.output = nn.Linear(self.trunk.out_features, 1)
        _begin(self, convolutional)

    def forward(self, images: Tensor, latents: Tensor | None = None) -> Tensor:
        if (latents is not None) != self.joint:
            wanted = f"(B, {self.latent_dim})" if self.joint else "none: this discriminator judges images alone"
            raise ValueError(f"latents: expected {wanted}, got {None if latents is None else tuple(latents.shape)}")
        if latents is not None and latents.shape != (len(images), self.latent_dim):
            raise ValueError(f"latents: expected ({len(images)}, {self.latent_dim}), got {tuple(latents.shape)}")
        logits: Tensor = self.output(self.trunk(images, latents))
        return logits.squeeze(1)


class _Trunk(nn.Module):
    """Images to flat features, with z as a bias after the first layer if there is a `latent_dim`."""

    def __init__(
        self,
        resolution: int,
        channels: int,
        widths: Sequence[int],
        convolutional: bool,
        norm_eps: float,
        *,
        latent_dim: int,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        self.convolutional = convolutional
        self.out_features = widths[-1] * (_BASE * _BASE if convolutional else 1)
        layer = partial(_Layer, activation="leaky_relu")
        first: nn.Linear | nn.Conv2d
        later: list[nn.Linear] | list[nn.Conv2d]
        if convolutional:
            first = downsample(channels, widths[0], _KERNEL, bias=True)
            later = [downsample(a, b, _KERNEL) for a, b in pairwise(widths)]
        else:
            first = nn.Linear(channels * resolution * resolution, widths[0])
            later = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
        self.layers = nn.ModuleList([layer(first, widths[0], norm_eps=None)])
        self.layers.extend(
            layer(main, width, norm_eps=norm_eps, latent_dim=latent_dim) for main, width in zip(later, widths[1:])
        )

    def forward(self, images: Tensor, z: Tensor | None) -> Tensor:
        check_images(images, self.channels, self.resolution)
        h = 0.5 * (images + 1.0)
        h = h if self.convolutional else h.reshape(h.shape[0], -1)
        for layer in self.layers:
            h = layer(h, z)
        return h.flatten(1)


def _begin(network: nn.Module, convolutional: bool) -> None:
    normal_weights(network)
    if convolutional:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
