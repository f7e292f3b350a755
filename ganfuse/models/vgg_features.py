"""Features of VGG-16 (Simonyan & Zisserman 2015, arXiv 1409.1556), for losses that compare what images show."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.precision import at_least_float32
from ganfuse.kernels import instance_norm_act

__all__ = ["VGGFeatures", "perceptual_loss"]

# Channels of the 3×3 convolutions up to relu5_3; "M": 2×2 maximum.
_LAYERS = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGGFeatures(nn.Module):
    """Images (B, 1 or 3, H, W) in [-1, 1] to the features relu5_3, (B, 512, H/16, W/16). Weights are fixed.

    Args:
        weights: a file with the weights of torchvision's ``vgg16``, a state dict in safetensors or PyTorch's format.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for entry in _LAYERS:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(inputs, entry, 3, padding=1), nn.ReLU()]
                inputs = entry
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)
        found = _read(Path(weights))
        own = self.state_dict()
        wrong = [key for key in own if key not in found or found[key].shape != own[key].shape]
        if wrong:
            raise ValueError(f"vgg_weights: {weights} is not torchvision's vgg16: {wrong[0]} is missing or differs")
        self.load_state_dict({key: found[key] for key in own})
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < 16:
            raise ValueError(f"images: expected (B, 1 or 3, H, W) of at least 16×16, got {tuple(images.shape)}")
        colour = images.expand(-1, 3, -1, -1)
        features: Tensor = self.features((colour.add(1.0).mul(0.5) - self.mean) / self.std)
        return features


def perceptual_loss(features: VGGFeatures, x: Tensor, y: Tensor) -> Tensor:
    """E (IN(φ(x)) − IN(φ(y)))²: features without their mean and contrast, that is without style.

    Huang et al. 2018 (MUNIT, arXiv 1804.04732), section 5.1, "domain-invariant perceptual loss".
    """
    first, second = (at_least_float32(instance_norm_act(features(image), None, None)) for image in (x, y))
    return F.mse_loss(first, second)


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"vgg_weights: no such file: {path}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise ValueError(f"vgg_weights: {path} cannot be read ({type(error).__name__})") from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ValueError(f"vgg_weights: {path} does not hold a state dict")
    return loaded
