"""What turns images into features: the interface, and anybody's network behind it."""

import hashlib
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.game import evaluation_mode

__all__ = [
    "INPUTS",
    "Extracted",
    "Extractor",
    "ModuleExtractor",
    "class_probabilities",
    "match_channels",
    "weights_hash",
]

#: How a network may want its pixels: 0 to 255 in uint8, float in [0, 1], float in [-1, 1].
INPUTS = ("uint8", "unit", "signed")


class Extracted(NamedTuple):
    """Features of some images.

    Attributes:
        features: float (B, D).
        probabilities: float (B, K), of the classes of a classifier; None where the extractor is none.
    """

    features: Tensor
    probabilities: Tensor | None


class Extractor(ABC):
    """Images to features. The same images give the same features, whatever the batch they are in.

    Attributes:
        name: what scores are labelled with.
        resolution: the side in pixels to which it brings all images; None: it takes them as they are.
        resize: the method by which it does so, or "none".
        gives_probabilities: whether it has class probabilities, which the Inception Score needs.
    """

    name: str
    resolution: int | None = None
    resize: str = "none"
    gives_probabilities: bool = False

    @abstractmethod
    def __call__(self, images: Tensor) -> Extracted:
        """Features of images, uint8 (B, C, H, W), without gradients.

        Raises:
            ValueError: the images are of another type or shape.
        """

    @abstractmethod
    def to(self, device: torch.device) -> "Extractor":
        """Moves it to a device, and returns it."""

    def describe(self) -> dict[str, Any]:
        """What is stored beside each score, so that only comparable ones are compared. Plain values."""
        return {"name": self.name, "resolution": self.resolution, "resize": self.resize}


class ModuleExtractor(Extractor):
    """Any network as an extractor.

    Args:
        module: called with images (B, C, H, W); returns features (B, D), or such a pair (features, logits). More
            dimensions are flattened.
        name: what scores are labelled with.
        input: "uint8", "unit" (float in [0, 1]) or "signed" (float in [-1, 1]): see `INPUTS`.
        channels: 1 or 3: images of the other kind are repeated or averaged; None takes both.
        resolution: side to which images are resized (bilinear, antialiased); None leaves them.
        arguments: further keyword arguments of the call.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        name: str,
        input: str = "signed",
        channels: int | None = 3,
        resolution: int | None = None,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        if input not in INPUTS:
            raise ValueError(f"input: expected one of {', '.join(map(repr, INPUTS))}, got {input!r}")
        if channels not in (None, 1, 3):
            raise ValueError(f"channels: expected 1, 3 or None, got {channels!r}")
        if resolution is not None and (not isinstance(resolution, int) or resolution < 1):
            raise ValueError(f"resolution: expected a positive whole number or None, got {resolution!r}")
        self.module = module
        self.name = name
        self.input = input
        self.channels = channels
        self.resolution = resolution
        self.resize = "none" if resolution is None else "bilinear, antialiased"
        self.arguments = dict(arguments or {})
        self._hash = weights_hash(module)
        self._device = next((p.device for p in [*module.parameters(), *module.buffers()]), torch.device("cpu"))

    def __call__(self, images: Tensor) -> Extracted:
        pixels = match_channels(images.to(self._device), self.channels)
        with evaluation_mode(self.module):
            output = self.module(self._converted(pixels), **self.arguments)
        features, logits = output if isinstance(output, tuple | list) and len(output) == 2 else (output, None)
        if not isinstance(features, Tensor) or features.ndim < 2 or len(features) != len(images):
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"extractor: {self.name} should return features ({len(images)}, D), it returned {got}")
        return Extracted(features.flatten(1), None if logits is None else class_probabilities(logits))

    def to(self, device: torch.device) -> "ModuleExtractor":
        self.module.to(device)
        self._device = device
        return self

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "input": self.input, "channels": self.channels, "weights": self._hash}

    def _converted(self, pixels: Tensor) -> Tensor:
        if self.resolution is not None and tuple(pixels.shape[-2:]) != (self.resolution,) * 2:
            size = (self.resolution, self.resolution)
            resized = F.interpolate(pixels.float(), size=size, mode="bilinear", align_corners=False, antialias=True)
            pixels = resized.round_().clamp_(0, 255).to(torch.uint8) if self.input == "uint8" else resized
        if self.input == "uint8":
            return pixels
        unit = pixels.float() / 255.0
        return unit if self.input == "unit" else unit * 2.0 - 1.0


def class_probabilities(logits: Tensor) -> Tensor:
    """Logits (B, K) to probabilities in float64, on the CPU where the device has no such type."""
    return (logits.cpu() if logits.device.type == "mps" else logits).double().softmax(1)


def match_channels(images: Tensor, channels: int | None) -> Tensor:
    """uint8 (B, 1 or 3, H, W) to uint8 with so many channels: gray ones are repeated, colours averaged.

    Raises:
        ValueError: the images are of another type or shape.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images: expected uint8 (B, 1 or 3, H, W), got {images.dtype} {tuple(images.shape)}")
    if channels is None or images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1)
    return images.float().mean(1, keepdim=True).round_().to(torch.uint8)


def weights_hash(module: nn.Module) -> str:
    """16 hexadecimal digits that stand for a network's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
