"""Sample grids: many generated images in one picture."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ganfuse.engine.atomic_file import atomic_write


def make_grid(images: Tensor, columns: int | None = None, padding: int = 2, scale: int = 1) -> Tensor:
    """Lays images out row by row.

    Args:
        images: float ``(N, C, H, W)`` in [-1, 1], C = 1 or 3, on any device. Values beyond the range are clipped to it.
        columns: images in a row; None makes the grid about square.
        padding: white pixels between the images and around them.
        scale: whole factor by which each image is enlarged, without smoothing.

    Returns:
        uint8 ``(C, height, width)`` on the CPU. Cells without an image are white.

    Raises:
        ValueError: wrong shape or type, no image, NaN or infinite values, or a setting out of range.
    """
    _check(images, columns, padding, scale)
    count, channels, height, width = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    # To uint8 first: what follows is then exact, and small for the copy from the device.
    pixels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu()
    if scale > 1:
        pixels = pixels.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
        height, width = height * scale, width * scale
    blank = pixels.new_full((rows * columns - count, channels, height, width), 255)
    cells = F.pad(torch.cat([pixels, blank]), (padding, 0, padding, 0), value=255)
    cells = cells.view(rows, columns, channels, height + padding, width + padding)
    grid = cells.permute(2, 0, 3, 1, 4).reshape(channels, rows * (height + padding), columns * (width + padding))
    return F.pad(grid, (0, padding, 0, padding), value=255)


def save_grid(images: Tensor, path: str | Path, columns: int | None = None, padding: int = 2, scale: int = 1) -> Path:
    """Writes `make_grid` of the images to a file whose ending gives the format (``.png``, ``.jpg``, ``.webp``...).

    The file appears whole or not at all: it is written under a temporary name in the same folder and renamed. Folders
    on the way are made.

    Returns:
        The path written.

    Raises:
        ValueError: as `make_grid`; or an ending that Pillow cannot write.
        OSError: the folder cannot be written.
    """
    path = Path(path)
    require_image_ending(path)
    return save_pixels(make_grid(images, columns=columns, padding=padding, scale=scale), path)


def save_pixels(pixels: Tensor, path: str | Path, **options: Any) -> Path:
    """Writes one picture, uint8 (1 or 3, H, W) on the CPU, to a file as `save_grid` does.

    Args:
        options: Pillow's, for the format that the ending gives.

    Returns:
        The path written.

    Raises:
        ValueError: an ending that Pillow cannot write.
        OSError: the folder cannot be written.
    """
    from PIL import Image

    path = Path(path)
    kind = require_image_ending(path)
    picture = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).contiguous().numpy())
    with atomic_write(path) as file:
        picture.save(file, format=kind, **options)
    return path


def require_image_ending(path: Path) -> str:
    """Pillow's name of the format that the ending of ``path`` stands for.

    Raises:
        ValueError: none that can be written.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise ValueError(f"cannot write an image to {path}: its ending must name a format, such as .png or .jpg")
    return kind


def _check(images: Tensor, columns: int | None, padding: int, scale: int) -> None:
    if images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (N, C, H, W) with C = 1 or 3, got shape {tuple(images.shape)}")
    if images.numel() == 0:
        raise ValueError(f"images must hold at least one pixel, got shape {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be float in [-1, 1], got {images.dtype}")
    finite = images.detach().isfinite()
    if not bool(finite.all()):
        broken = int((~finite).flatten(1).any(1).sum())
        raise ValueError(f"{broken} of {len(images)} images have NaN or infinite values")
    if columns is not None and columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if padding < 0:
        raise ValueError(f"padding must not be negative, got {padding}")
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
