"""Fully connected networks: a generator of images, and features of images."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import BatchNormAct2d
from ganfuse.models.checks import check_images, check_latents
from ganfuse.models.feature_discriminator import Features

__all__ = ["MLPFeatures", "MLPGenerator"]

_SLOPE = 0.2


class MLPGenerator(nn.Module):
    """z (B, latent_dim) to images (B, channels, resolution, resolution) in [-1, 1].

    Args:
        resolution, channels: of the images.
        latent_dim: size of z.
        widths: of the hidden layers.
        activation: of the hidden layers, "gelu" or "leaky_relu" (slope 0.2).
        batch_norm: normalise all hidden layers but the first.
        output: "tanh", or "sigmoid", whose [0, 1] is mapped to [-1, 1].
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        latent_dim: int,
        widths: Sequence[int],
        activation: str,
        batch_norm: bool = False,
        output: str = "tanh",
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        self.latent_dim = latent_dim
        # 2σ(x) − 1 = tanh(x/2)
        self.scale = {"tanh": 1.0, "sigmoid": 0.5}[output]
        inputs = [latent_dim, *widths]
        self.hidden = nn.ModuleList(
            _Dense(inputs[i], inputs[i + 1], activation, batch_norm=batch_norm and i > 0) for i in range(len(widths))
        )
        self.output = nn.Linear(inputs[-1], channels * resolution * resolution)

    def forward(self, z: Tensor) -> Tensor:
        check_latents(z, self.latent_dim)
        h = z
        for layer in self.hidden:
            h = layer(h)
        images: Tensor = torch.tanh(self.scale * self.output(h))
        return images.view(-1, self.channels, self.resolution, self.resolution)


class MLPFeatures(Features):
    """Images, and a condition that is appended to their pixels, to the last hidden layer of a fully connected network.

    Args:
        resolution, channels: of the images.
        widths: of the hidden layers.
        activation: "gelu" or "leaky_relu" (slope 0.2).
        dropout: after all hidden layers but the first.
        unit_range: show the network pixels in [0, 1].
        condition_features: length of the condition.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        widths: Sequence[int],
        activation: str,
        dropout: float = 0.0,
        unit_range: bool = False,
        condition_features: int = 0,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        self.condition_features = condition_features
        self.unit_range = unit_range
        self.out_features = widths[-1]
        inputs = [channels * resolution * resolution + condition_features, *widths]
        self.hidden = nn.ModuleList(
            _Dense(inputs[i], inputs[i + 1], activation, dropout=dropout if i > 0 else 0.0) for i in range(len(widths))
        )

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        check_images(images, self.channels, self.resolution)
        self.check_condition(condition, len(images))
        h = images.reshape(len(images), -1)
        if self.unit_range:
            h = 0.5 * (h + 1.0)
        if condition is not None:
            h = torch.cat([h, condition], dim=1)
        for layer in self.hidden:
            h = layer(h)
        return h


class _Dense(nn.Module):
    """A linear layer, batch normalisation if wanted, the activation, and dropout."""

    def __init__(
        self, inputs: int, outputs: int, activation: str, *, batch_norm: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.activation = activation
        self.bn = BatchNormAct2d(outputs) if batch_norm else None
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x)
        if self.bn is not None:
            x = self.bn(x[:, :, None, None])[:, :, 0, 0]
        x = F.gelu(x) if self.activation == "gelu" else F.leaky_relu(x, _SLOPE)
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
