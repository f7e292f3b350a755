"""What the blocks of StyleGAN2's two networks share: architectures, filter of images, which use half types.

Karras et al. 2020, arXiv 1912.04958, section 4.1, and 2006.06676, appendix D.
"""

import torch
from torch import Tensor, nn

from ganfuse.kernels import setup_filter
from ganfuse.models.checks import check_choice

__all__ = ["ARCHITECTURES", "BASE", "Block", "is_half"]

ARCHITECTURES = ("orig", "skip", "resnet")
#: Side of the smallest map.
BASE = 4
_FILTER = (1, 3, 3, 1)


class Block(nn.Module):
    """One resolution.

    Args:
        architecture: one of `ARCHITECTURES`.
        half_precision: compute in autocast's type where that is on; else in the weights' whatever autocast says.
        resampled: whether images are resampled here.
    """

    resample_filter: Tensor | None

    def __init__(self, architecture: str, half_precision: bool, resampled: bool) -> None:
        super().__init__()
        check_choice("architecture", architecture, ARCHITECTURES)
        self.architecture = architecture
        self.half_precision = half_precision
        # Filters have values to check, which the meta device has none of.
        with torch.device("cpu"):
            taps = setup_filter(_FILTER)
        here = torch.empty(0).device
        self.register_buffer("resample_filter", taps.to(here) if resampled and architecture == "skip" else None)

    def image_filter(self) -> Tensor:
        """With which images are resampled."""
        assert self.resample_filter is not None
        return self.resample_filter.float()


def is_half(size: int, resolution: int, count: int) -> bool:
    """Whether a map is one of the `count` largest, and not smaller than 8×8."""
    return size >= 8 and size * 2**count > resolution
