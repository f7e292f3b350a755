"""GAN-CLS's networks: DCGAN's with bottlenecks and a text (Reed et al. 2016, arXiv 1605.05396, section 4.1)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import BatchNormAct2d
from ganfuse.models.checks import check_images, check_latents
from ganfuse.models.dcgan_networks import downsample, upsample
from ganfuse.models.initialization import normal_weights

__all__ = ["Discriminator", "Generator"]

_BASE = 4
_SLOPE = 0.2


class Generator(nn.Module):
    """z (B, latent_dim) and embeddings (B, embedding_dim) to images (B, channels, resolution, resolution) in [-1, 1].

    The text is projected to `text_features` and joins z; a 4×4 map of ``width · resolution / 8`` channels is projected
    from both; each further layer doubles the size and halves the channels. Residual bottlenecks follow at 4×4 and 8×8.

    Args:
        resolution: a power of two from 32 on.
        channels: of the images.
        width: channels at half the resolution.
        latent_dim, embedding_dim, text_features: see above.
    """

    def __init__(
        self, *, resolution: int, channels: int, width: int, latent_dim: int, embedding_dim: int, text_features: int
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.embedding_dim = embedding_dim
        widths = [width << step for step in range((resolution // 8).bit_length() - 1, -1, -1)]
        self.text = nn.Linear(embedding_dim, text_features)
        self.project = nn.ConvTranspose2d(latent_dim + text_features, widths[0], _BASE, bias=False)
        # The activation of a map with a bottleneck comes after the sum.
        self.norms = nn.ModuleList(
            BatchNormAct2d(count, activation="none" if index < 2 else "relu") for index, count in enumerate(widths)
        )
        self.bottlenecks = nn.ModuleList(Bottleneck(count, "relu") for count in widths[:2])
        self.convs = nn.ModuleList(upsample(a, b) for a, b in pairwise([*widths, channels]))
        normal_weights(self)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor, embeddings: Tensor | None = None) -> Tensor:
        check_latents(z, self.latent_dim)
        text = _projected(self.text, embeddings, z.shape[0])
        h = self.project(torch.cat([z, text.to(z.dtype)], dim=1)[:, :, None, None])
        for index, (norm, conv) in enumerate(zip(self.norms, self.convs)):
            h = norm(h)
            if index < len(self.bottlenecks):
                h = F.relu(h + self.bottlenecks[index](h))
            h = conv(h)
        return torch.tanh(h)


class Discriminator(nn.Module):
    """Images (B, channels, resolution, resolution) and embeddings (B, embedding_dim) to logits (B,).

    The mirror of the generator down to 4×4, with one bottleneck there; then the projected text joins the map's channels
    at each of its places.

    Args:
        resolution, channels, embedding_dim, text_features: as of `Generator`.
        width: channels at half the resolution.
    """

    def __init__(self, *, resolution: int, channels: int, width: int, embedding_dim: int, text_features: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        self.embedding_dim = embedding_dim
        widths = [width << step for step in range((resolution // 8).bit_length())]
        last = widths[-1]
        self.convs = nn.ModuleList(downsample(a, b) for a, b in pairwise([channels, *widths]))
        self.norms = nn.ModuleList(
            BatchNormAct2d(count, activation="none" if count == last else "leaky_relu") for count in widths[1:]
        )
        self.bottleneck = Bottleneck(last, "leaky_relu")
        self.text = nn.Linear(embedding_dim, text_features)
        self.join = nn.Conv2d(last + text_features, last, 1, bias=False)
        self.join_norm = BatchNormAct2d(last, activation="leaky_relu")
        self.output = nn.Conv2d(last, 1, _BASE, bias=False)
        normal_weights(self)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor, embeddings: Tensor | None = None) -> Tensor:
        check_images(images, self.channels, self.resolution)
        text = _projected(self.text, embeddings, len(images))
        h = F.leaky_relu(self.convs[0](images), _SLOPE)
        for conv, norm in zip(self.convs[1:], self.norms):
            h = norm(conv(h))
        h = F.leaky_relu(h + self.bottleneck(h), _SLOPE)
        everywhere = text.to(h.dtype)[:, :, None, None].expand(-1, -1, _BASE, _BASE)
        h = self.join_norm(self.join(torch.cat([h, everywhere], dim=1)))
        logits: Tensor = self.output(h)
        return logits.flatten()


class Bottleneck(nn.Module):
    """1×1 to a quarter of the channels, 3×3, and 3×3 back, each with batch normalisation; the sum is the caller's."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        inner = max(1, channels // 4)
        self.conv1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm1 = BatchNormAct2d(inner, activation=activation)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.norm2 = BatchNormAct2d(inner, activation=activation)
        self.conv3 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.norm3 = BatchNormAct2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        residual: Tensor = self.norm3(self.conv3(h))
        return residual


def _projected(layer: nn.Linear, embeddings: Tensor | None, batch: int) -> Tensor:
    expected = (batch, layer.in_features)
    if embeddings is None or embeddings.shape != expected:
        got = None if embeddings is None else tuple(embeddings.shape)
        raise ValueError(f"embeddings: expected shape {expected}, got {got}")
    return F.leaky_relu(layer(embeddings), _SLOPE)
