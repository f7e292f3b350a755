"""What all augmentations ask of their arguments."""

from torch import Tensor


def check_images(images: Tensor) -> None:
    """Raises a ValueError for anything but floating point images ``(B, C, H, W)``."""
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(f"images: expected floating point (B, C, H, W), got {images.dtype} {tuple(images.shape)}")


def check_probability(name: str, value: float) -> None:
    """Raises a ValueError for anything outside [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: expected a probability from 0 to 1, got {value!r}")
