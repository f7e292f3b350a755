"""CoGAN's networks, which share layers between two domains (Liu & Tuzel 2016, arXiv 1606.07536, section 3)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import BatchNormAct2d
from ganfuse.models.checks import check_images, check_latents

__all__ = ["DOMAINS", "Discriminator", "Generator"]

DOMAINS = ("a", "b")
_BASE = 4


class Generator(nn.Module):
    """z (B, latent_dim) to a pair of images (B, channels, resolution, resolution) in [-1, 1], one of each domain.

    Transposed convolutions with batch normalisation (without gain and bias) and PReLU, shared; then one for each domain
    and a sigmoid, whose [0, 1] is mapped to [-1, 1]. At 28 px maps of 4, 7, 13 and 25 pixels, as in the authors' code;
    at 32 and 64 px each is twice the one before.

    Args:
        resolution: 28, 32 or 64.
        channels: of the images.
        width: channels of the last shared map; each one before has twice as many.
        latent_dim: size of z.
    """

    def __init__(self, *, resolution: int, channels: int, width: int, latent_dim: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        small = resolution == 28
        steps = 3 if small else (resolution // 8).bit_length()
        widths = [width << step for step in range(steps, -1, -1)] if small else [width << s for s in range(steps)][::-1]
        self.project = nn.ConvTranspose2d(latent_dim, widths[0], _BASE)
        self.shared = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3 if small else 4, stride=2, padding=1) for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(BatchNormAct2d(count, affine=False) for count in widths)
        self.activations = nn.ModuleList(nn.PReLU() for _ in widths)
        self.output_a, self.output_b = (
            nn.ConvTranspose2d(width, channels, 6 if small else 4, stride=1 if small else 2, padding=1) for _ in DOMAINS
        )
        _begin(self)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        check_latents(z, self.latent_dim)
        h = z[:, :, None, None]
        for conv, norm, activation in zip((self.project, *self.shared), self.norms, self.activations):
            h = activation(norm(conv(h)))
        # 2σ(x) − 1
        return torch.tanh(0.5 * self.output_a(h)), torch.tanh(0.5 * self.output_b(h))


class Discriminator(nn.Module):
    """A pair of images (B, channels, resolution, resolution), of A and of B, to logits (2B,), those of A first.

    A convolution and 2×2 maximum for each domain; the same again, a convolution that leaves one place, and PReLU,
    shared; then two values whose difference is the logit: a softmax over generated and real, as in the authors' code.

    Args:
        resolution, channels: as of `Generator`.
        width: the layers have 2, 5 and 50 times as many channels.
        num_classes: of a classifier beside the two values; None: none.
    """

    def __init__(self, *, resolution: int, channels: int, width: int, num_classes: int | None = None) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        places = ((resolution - 4) // 2 - 4) // 2
        self.input_a = nn.Conv2d(channels, 2 * width, 5)
        self.input_b = nn.Conv2d(channels, 2 * width, 5)
        self.conv1 = nn.Conv2d(2 * width, 5 * width, 5)
        self.conv2 = nn.Conv2d(5 * width, 50 * width, places)
        self.activation = nn.PReLU()
        self.output = nn.Conv2d(50 * width, 2, 1)
        self.classifier = None if num_classes is None else nn.Conv2d(50 * width, num_classes, 1)
        _begin(self)

    def forward(self, images: tuple[Tensor, Tensor]) -> Tensor:
        return self.judge(self.features(dict(zip("ab", images))))

    def features(self, images: dict[str, Tensor]) -> Tensor:
        """Shared features (N, 50 · width, 1, 1) of the images of each domain, in order."""
        maps = []
        for domain, given in images.items():
            check_images(given, self.channels, self.resolution)
            first = self.input_a if domain == "a" else self.input_b
            maps.append(F.max_pool2d(first(0.5 * (given + 1.0)), 2))
        h = F.max_pool2d(self.conv1(torch.cat(maps)), 2)
        features: Tensor = self.activation(self.conv2(h))
        return features

    def judge(self, features: Tensor) -> Tensor:
        """Logits (N,) of features: that of "real" less that of "generated"."""
        both: Tensor = self.output(features).flatten(1)
        return both[:, 1] - both[:, 0]

    def classify(self, features: Tensor) -> Tensor:
        """Logits of the classes, (N, num_classes).

        Raises:
            ValueError: there is no classifier.
        """
        if self.classifier is None:
            raise ValueError("num_classes: the game was made without classes, so it has no classifier")
        logits: Tensor = self.classifier(features)
        return logits.flatten(1)


def _begin(network: nn.Module) -> None:
    """Xavier's uniform distribution with a gain of √2, biases 0.1, as in the authors' code; channels_last."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(layer.weight, gain=2**0.5)
            assert layer.bias is not None
            nn.init.constant_(layer.bias, 0.1)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
