"""Applying an affine map to images without aliasing: between two low-pass filters, at twice the resolution.

Karras et al. 2020 ("Training Generative Adversarial Networks with Limited Data"), appendix B.2: the images are enlarged
twofold with the low-pass filter of the wavelet sym6, sampled bilinearly, and reduced with the same filter. The filter
is orthogonal to its even shifts, so the two steps alone give the images back.

The paper pads the images as far as the map of this very batch reaches, which the host must know. Here the enlarged
images are mirrored without end by the sampling itself, at the outermost pixels' edges (to a fifth of a pixel, since the
filter is not quite symmetric): shapes are fixed and nothing waits for the device.
"""

from functools import cache

import torch
from torch import Tensor

from ganfuse.engine.augment.resample import resample
from ganfuse.kernels import upfirdn2d

# Low-pass filter of the symlet with six vanishing moments; it sums to √2 and has norm 1 (Daubechies, "Ten Lectures on
# Wavelets", 1992, table 6.3).
SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
TAPS = len(SYM6)
#: Where the filter's weight lies: pixel k becomes pixel 2k + DELAY of the enlarged image.
DELAY = sum(place * weight for place, weight in enumerate(SYM6)) / sum(SYM6)
# Pixels of the mirrored border that the filter reaches.
_BORDER = TAPS // 2


def transform_images(images: Tensor, inverse: Tensor) -> Tensor:
    """Each image under its affine map; what lies outside it is its mirror image.

    Args:
        images: ``(B, C, H, W)``, float32 or float64.
        inverse: ``(B, 3, 3)`` of the same type: from places in the result to places in the image, both in pixels from
            the centre, x to the right and y down.

    Returns:
        ``(B, C, H, W)``. An image whose map is the identity comes back bit for bit.
    """
    height, width = images.shape[2:]
    result = _reduce(resample(enlarge(images), _grid(inverse, height, width)))
    unmoved = (inverse == torch.eye(3, dtype=inverse.dtype, device=inverse.device)).flatten(1).all(dim=1)
    return torch.where(unmoved.view(-1, 1, 1, 1), images, result)


def enlarge(images: Tensor) -> Tensor:
    """Twice as high and wide: ``(B, C, H, W)`` to ``(B, C, 2H, 2W)``, mirrored at the edges."""
    rows, columns = (_mirrored(side, images.device) for side in images.shape[2:])
    padded = images.index_select(2, rows).index_select(3, columns)
    # Cropped to the image's own pixels: the first of them is where the filter has moved it to.
    before = TAPS - 1 - 2 * _BORDER - _first_kept()
    crop = (before, TAPS - 1 - 4 * _BORDER - before)
    # √2 for each direction, so that flat areas keep their brightness.
    return upfirdn2d(padded, _filter(images.device), up=2, padding=(*crop, *crop), gain=2)


def _reduce(images: Tensor) -> Tensor:
    return upfirdn2d(images, _filter(images.device), down=2, flip_filter=True, gain=0.5)


def _first_kept() -> int:
    # The enlarged pixel whose left edge is next to that of the original's first pixel.
    return round(DELAY - 0.5)


def _grid(inverse: Tensor, height: int, width: int) -> Tensor:
    """Where to sample the enlarged image for all enlarged pixels that the second filter reads."""
    x, y = (_places(side, inverse) for side in (width, height))
    places = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x)), inverse.new_ones(len(y), len(x))], dim=2)
    sources = 2.0 * (places @ inverse[:, None, :2].transpose(2, 3)) + (DELAY - _first_kept() - 0.5)
    # From pixels of the original to coordinates of the enlarged image in which its edges are at -1 and 1.
    return torch.stack([sources[..., 0] / width, sources[..., 1] / height], dim=3)


def _places(side: int, like: Tensor) -> Tensor:
    # Enlarged pixel n lies at (n - DELAY) / 2 pixels of the original, whose centre is at (side - 1) / 2.
    enlarged = torch.arange(2 * side + TAPS - 2, dtype=like.dtype, device=like.device)
    return (enlarged - DELAY - (side - 1)) / 2


def _mirrored(side: int, device: torch.device) -> Tensor:
    places = torch.arange(-_BORDER, side + _BORDER, device=device).remainder(2 * side)
    return torch.minimum(places, 2 * side - 1 - places)


@cache
def _filter(device: torch.device) -> Tensor:
    # Kept, since a copy from the host could not be captured in a CUDA graph. What is made in inference mode could not
    # be used outside of it.
    with torch.inference_mode(False):
        return torch.tensor(SYM6, device=device)
