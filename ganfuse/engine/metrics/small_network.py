"""The small convolutional network whose penultimate layer gives the features of the offline extractors."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MAX_RESOLUTION", "NUM_FEATURES", "RESIZE", "SmallNetwork", "resize_images"]

NUM_FEATURES = 128
#: Larger images are shrunk to this side.
MAX_RESOLUTION = 64
#: What `resize_images` does, as it is recorded beside scores.
RESIZE = "bilinear, antialiased"
_WIDTH, _WIDEST = 16, 128
_LAST = 4


class SmallNetwork(nn.Module):
    """Convolutions and pooling down to 4×4, 128 features, and a linear classifier of them.

    Args:
        channels: of the images.
        resolution: side of the images.
        num_classes: 0: it has no classifier, only features.
    """

    def __init__(self, channels: int, resolution: int, num_classes: int) -> None:
        super().__init__()
        self.channels = channels
        self.resolution = resolution
        self.num_classes = num_classes
        blocks: list[nn.Module] = []
        size, inputs, outputs = resolution, channels, _WIDTH
        while not blocks or size > _LAST:
            blocks += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.MaxPool2d(2, ceil_mode=True),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            size, inputs, outputs = -(-size // 2), outputs, min(2 * outputs, _WIDEST)
        self.body = nn.Sequential(*blocks, nn.Flatten())
        self.features = nn.Linear(inputs * size * size, NUM_FEATURES)
        self.classifier = nn.Linear(NUM_FEATURES, num_classes) if num_classes else None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Images, float (B, C, H, W) in [-1, 1], to features (B, 128), not negative, and logits."""
        features = F.relu(self.features(self.body(images)))
        return features, None if self.classifier is None else self.classifier(features)


def resize_images(images: Tensor, resolution: int) -> Tensor:
    """uint8 (B, C, H, W) to float (B, C, resolution, resolution) in [-1, 1]."""
    pixels = images.to(torch.float32)
    if tuple(pixels.shape[-2:]) != (resolution, resolution):
        pixels = F.interpolate(
            pixels, size=(resolution, resolution), mode="bilinear", align_corners=False, antialias=True
        )
    return pixels.div_(127.5).sub_(1.0)
