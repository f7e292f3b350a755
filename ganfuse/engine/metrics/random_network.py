"""Features of a network with fixed random weights, for images that have no labels.

Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models", arXiv:2002.09797, section 4, find
that features of a random VGG-16 rank generators sensibly, and better than pretrained ones where images are unlike
ImageNet's.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.metrics.extractor import Extracted, Extractor, match_channels, weights_hash
from ganfuse.engine.metrics.small_network import MAX_RESOLUTION, RESIZE, SmallNetwork, resize_images

__all__ = ["RandomExtractor"]


class RandomExtractor(Extractor):
    """`SmallNetwork` with weights drawn from a seed; nothing is trained.

    Args:
        channels: 1 or 3, of the data's images.
        resolution: side of the data's images; those above 64 px are shrunk to it.
        seed: of the weights. Scores of different seeds cannot be compared.
    """

    resize = RESIZE

    def __init__(self, *, channels: int, resolution: int, seed: int = 0) -> None:
        self.name = "random"
        self.channels = channels
        self.resolution = min(resolution, MAX_RESOLUTION)
        self.seed = seed
        # What PyTorch draws first is overwritten, but must not disturb the caller's random numbers.
        with torch.random.fork_rng(devices=[]):
            self._network = SmallNetwork(channels, self.resolution, 0).eval()
        _draw_weights(self._network, torch.Generator().manual_seed(seed))
        self._hash = weights_hash(self._network)
        self._device = torch.device("cpu")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        pixels = match_channels(images.to(self._device), self.channels)
        return Extracted(self._network(resize_images(pixels, self._network.resolution))[0], None)

    def to(self, device: torch.device) -> "RandomExtractor":
        self._network.to(device)
        self._device = device
        return self

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "channels": self.channels, "seed": self.seed, "weights": self._hash}


def _draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            # As large as the signal of the layer before, or features would shrink from layer to layer.
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
