"""``digits``: 1,797 handwritten digits that come with the package, so that the first command needs no network.

They are the test half of "Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak (1998), UCI Machine
Learning Repository, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0 (``digits.txt`` beside this file).
"""

from importlib.resources import files

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ganfuse.engine.data.arrays import dataset_from_array
from ganfuse.engine.data.dataset import ImageDataset

CLASS_NAMES = tuple(str(digit) for digit in range(10))


def open_digits(*, resolution: int, channels: int | None = None, cache: bool = True) -> ImageDataset:
    """The embedded digits, white on black, enlarged from 8×8; labels 0 to 9."""
    pictures, labels = read_digits()
    return dataset_from_array(
        pictures,
        labels,
        name="digits",
        class_names=CLASS_NAMES,
        channels=1 if channels is None else channels,
        resolution=resolution,
        cache=cache,
    )


def read_digits() -> tuple[Tensor, Tensor]:
    """The pictures, uint8 (1797, 10, 10), and their labels, int64."""
    with (files("ganfuse.engine.data") / "digits.npz").open("rb") as file, np.load(file) as archive:
        levels, labels = torch.from_numpy(archive["images"]), torch.from_numpy(archive["labels"])
    pictures = (levels.float() * (255 / 16)).round().to(torch.uint8)
    # The strokes reach the edge of the 8×8 field: without a margin the enlarged digits look cut off.
    return F.pad(pictures, (1, 1, 1, 1)), labels.long()
