"""Networks as functions of tensors alone, with what their games add: the images that `ganfuse sample` draws."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.ema import detached_copy
from ganfuse.engine.layers.fuse_spectral_norms import FusedSpectralNorms, unfuse_spectral_norms
from ganfuse.engine.layers.spectral_norm import SpectralNorm, remove_spectral_norm
from ganfuse.models.mapping_network import MappingNetwork
from ganfuse.models.style_generator import StyleGenerator

__all__ = ["Encoding", "Finish", "FromLatents", "FromLatentsAndLabels", "FromTexts", "Mapped", "Rendered"]
__all__ += ["Translation", "settled"]


def settled(network: nn.Module) -> nn.Module:
    """A copy whose weights are computed already: spectrally normalised ones are what they are in evaluation mode.

    Otherwise every call of a graph would compute them again, of several times as many operators.
    """
    copied = detached_copy(network)
    for module in copied.modules():
        if any(isinstance(hook, FusedSpectralNorms) for hook in module._forward_pre_hooks.values()):
            unfuse_spectral_norms(module)
    for module in copied.modules():
        names = [hook.name for hook in module._forward_pre_hooks.values() if isinstance(hook, SpectralNorm)]
        for name in names:
            remove_spectral_norm(module, name=name)
    return copied


class Finish(nn.Module):
    """What a game does to its generator's images before it hands them out.

    Args:
        enlargement: repeat pixels so many times, of networks that have not grown up yet.
        clamp: cut off at -1 and 1, of networks that do not keep to it.
    """

    def __init__(self, enlargement: int = 1, *, clamp: bool = False) -> None:
        super().__init__()
        self.enlargement = enlargement
        self.clamp = clamp

    def forward(self, images: Any) -> Any:
        if self.enlargement > 1:
            images = F.interpolate(images, scale_factor=float(self.enlargement), mode="nearest")
        return images.clamp(-1.0, 1.0) if self.clamp else images


class _Drawing(nn.Module):
    """Args: the generator, the keywords that it is called with, what happens to its images."""

    def __init__(self, network: nn.Module, options: Mapping[str, Any], finish: Finish) -> None:
        super().__init__()
        self.network = network
        self.options = dict(options)
        self.finish = finish


class FromLatents(_Drawing):
    """z to images, or to a pair of them."""

    def forward(self, z: Tensor) -> Any:
        return self.finish(self.network(z, **self.options))


class FromLatentsAndLabels(_Drawing):
    """z and classes to images."""

    def forward(self, z: Tensor, labels: Tensor) -> Any:
        return self.finish(self.network(z, labels, **self.options))


class FromTexts(_Drawing):
    """z and embeddings of texts to images."""

    def forward(self, z: Tensor, embeddings: Tensor) -> Any:
        return self.finish(self.network(z, embeddings, **self.options))


class Rendered(_Drawing):
    """Styles of each layer to images, by a synthesis network."""

    def __init__(self, network: nn.Module, options: Mapping[str, Any], finish: Finish) -> None:
        own = {key: value for key, value in options.items() if key in ("level", "alpha", "noise_mode")}
        super().__init__(network, own, finish)

    def forward(self, ws: Tensor) -> Any:
        return self.finish(self.network(ws, **self.options))


class Mapped(nn.Module):
    """z, and classes where there are any, to styles of each layer, truncated."""

    def __init__(self, mapping: MappingNetwork, layers: int, truncation: float, cutoff: int | None) -> None:
        super().__init__()
        # Without the synthesis network, whose weights the file would hold otherwise.
        self.generator = StyleGenerator(mapping, nn.Identity())
        self.layers = layers
        self.truncation = truncation
        self.cutoff = cutoff

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.generator.styles(z, labels, self.layers, truncation=self.truncation, truncation_cutoff=self.cutoff)


class Encoding(nn.Module):
    """Images to latents."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


class Translation(Encoding):
    """Images to images of the other domain."""
