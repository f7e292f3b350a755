"""Progressive growth (Karras et al. 2018, ProGAN, arXiv 1710.10196, section 2): which resolution is trained when.

Training begins with small images. Each resolution is trained for a while (stable phase), then layers for the double
one fade in: the new image is mixed with the enlarged image of the layers that were there, at a share α that goes from
0 to 1. Real images are mixed in the same way, so that both players see the same sharpness.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.game import Stage
from ganfuse.engine.schedules import Progress
from ganfuse.models.checks import check_range
from ganfuse.models.residual_networks import doublings

__all__ = ["BASE", "Growth", "batch_sizes_of", "doubled", "fade_in", "halved", "per_resolution"]

#: The smallest map and image; level l has BASE · 2^l pixels a side.
BASE = 4


def doubled(images: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, 2H, 2W), each pixel four times."""
    return F.interpolate(images, scale_factor=2, mode="nearest")


def halved(images: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C, H/2, W/2), means of 2×2 pixels."""
    return F.avg_pool2d(images, 2)


def fade_in(old: Tensor, new: Tensor, alpha: Tensor) -> Tensor:
    """(1 − α) · old + α · new."""
    return torch.lerp(old, new, alpha.to(new.dtype))


def per_resolution(values: Mapping[Any, Any], name: str) -> dict[int, Any]:
    """A table by resolution, whose keys may be strings, as a YAML file makes them of numbers.

    Raises:
        ValueError: no table, a key that is not a resolution, or a value that is not positive.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{name}: expected a table by resolution, such as {{4: 1, 64: 2}}, got {values!r}")
    table = {}
    for key, value in values.items():
        # Powers of two have a single digit in binary.
        if not str(key).isdecimal() or int(key) < BASE or int(key).bit_count() != 1:
            raise ValueError(f"{name}: expected resolutions for keys (4, 8, 16...), got {key!r}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{name}: expected positive numbers, got {value!r} for {key}")
        table[int(key)] = value
    return dict(sorted(table.items()))


def batch_sizes_of(chosen: Mapping[Any, Any] | str | None, paper: Mapping[int, int]) -> Mapping[Any, Any] | None:
    """The paper's batch sizes for "paper", else what was chosen."""
    if isinstance(chosen, str):
        if chosen != "paper":
            raise ValueError(
                f"batch_sizes: expected 'paper', a table such as {{4: 16, 64: 8}}, or null, got {chosen!r}"
            )
        return paper
    return chosen


class Growth(nn.Module):
    """The schedule of growth and where it stands.

    Args:
        resolution: at the end, and of the data.
        start: resolution at the beginning; ProGAN 4, StyleGAN 8.
        stable_kimg, fade_kimg: length of the phases, in thousands of real images; 600 each in StyleGAN and in ProGAN's
            published code, 800 in ProGAN's paper (appendix A.1).
        batch_sizes: real images per batch from each resolution on; None: the trainer's.

    Attributes:
        position: buffer (2,): level and α. So a checkpoint says at which resolution it is to be sampled.

    Raises:
        ValueError: names the argument.
    """

    position: Tensor

    def __init__(
        self,
        resolution: int,
        *,
        start: int = BASE,
        stable_kimg: float = 600.0,
        fade_kimg: float = 600.0,
        batch_sizes: Mapping[Any, Any] | None = None,
    ) -> None:
        super().__init__()
        check_range(0.0, float("inf"), stable_kimg=stable_kimg, fade_kimg=fade_kimg)
        if not stable_kimg + fade_kimg > 0:
            raise ValueError("stable_kimg: expected more than 0 where fade_kimg is 0, or the training would not grow")
        levels = doublings(BASE, resolution)
        if start not in levels:
            raise ValueError(f"start: expected one of {', '.join(map(str, levels))}, got {start!r}")
        self.resolution = resolution
        self.first, self.last = levels.index(start), len(levels) - 1
        self.stable_kimg, self.fade_kimg = stable_kimg, fade_kimg
        self.batch_sizes = None if batch_sizes is None else per_resolution(batch_sizes, "batch_sizes")
        if self.batch_sizes is not None and not all(isinstance(size, int) for size in self.batch_sizes.values()):
            raise ValueError(f"batch_sizes: expected whole numbers, got {self.batch_sizes!r}")
        self.register_buffer("position", torch.tensor([float(self.first), 1.0]))
        # The same as Python numbers: whoever plans the work must not wait for the device.
        self._level, self._alpha = self.first, 1.0

    def at(self, progress: Progress) -> tuple[int, float]:
        """Level and α when a step begins; α is 1 in stable phases."""
        phase, elapsed = divmod(progress.kimg, self.stable_kimg + self.fade_kimg)
        level = min(self.first + int(phase), self.last)
        if level == self.last or elapsed <= self.stable_kimg:
            return level, 1.0
        return level + 1, (elapsed - self.stable_kimg) / self.fade_kimg

    def stage(self, progress: Progress) -> Stage:
        """The phase that a step belongs to. Optimisers start anew when a fade begins and when it ends."""
        level, alpha = self.at(progress)
        return self._stage(level, fading=alpha < 1.0)

    def stages(self) -> list[tuple[float, Stage]]:
        """All stages, each behind the thousands of real images at which it begins."""
        found = [(0.0, self._stage(self.first, fading=False))]
        for level in range(self.first + 1, self.last + 1):
            grown = (level - self.first) * (self.stable_kimg + self.fade_kimg)
            if self.fade_kimg:
                found.append((grown - self.fade_kimg, self._stage(level, fading=True)))
            found.append((grown, self._stage(level, fading=False)))
        return found

    def _stage(self, level: int, *, fading: bool) -> Stage:
        name = f"{BASE << level} px" + (", fading in" if fading else "")
        return Stage(name, self._by_resolution(self.batch_sizes, level), phase=name)

    def advance(self, progress: Progress) -> None:
        """Goes to where a step begins."""
        self._level, self._alpha = self.at(progress)
        # Filled and not replaced, as captured graphs read it.
        self.position[0].fill_(self._level)
        self.position[1].fill_(self._alpha)

    def schedule(self, rates: Mapping[Any, Any], base: float) -> Callable[[Progress], float]:
        """The factor of a learning rate `base` that gives the rate in the table from each resolution on."""
        table = per_resolution(rates, "lr_by_resolution")

        def factor(progress: Progress) -> float:
            rate = self._by_resolution(table, self.at(progress)[0])
            return 1.0 if rate is None else float(rate) / base

        return factor

    @staticmethod
    def _by_resolution(table: Mapping[int, Any] | None, level: int) -> Any:
        """The entry of the largest resolution that is not above the level's; None if there is none."""
        reached = [value for resolution, value in (table or {}).items() if resolution <= BASE << level]
        return reached[-1] if reached else None

    @property
    def level(self) -> int:
        """At present: the largest maps have BASE · 2^level pixels a side."""
        return self._level

    @property
    def alpha(self) -> Tensor | None:
        """At present: the share of the newest layers; None if it is 1."""
        return self.position[1] if self._alpha < 1.0 else None

    @property
    def reached(self) -> int:
        """At present: the largest resolution whose layers have wholly faded in."""
        return BASE << (self._level if self._alpha == 1.0 else self._level - 1)

    def shrink(self, images: Tensor) -> Tensor:
        """Real images in the present resolution, faded as generated ones are.

        Args:
            images: (B, C, resolution, resolution).
        """
        shrunk = self.reduce(images)
        return shrunk if self.alpha is None else fade_in(doubled(halved(shrunk)), shrunk, self.alpha)

    def reduce(self, images: Tensor) -> Tensor:
        """Images of the final resolution in the present one, by means of their pixels; undoes `enlarge`."""
        if images.shape[2:] != (self.resolution, self.resolution):
            raise ValueError(f"images: expected {self.resolution} × {self.resolution}, got {tuple(images.shape[2:])}")
        factor = self.resolution // (BASE << self.level)
        return images if factor == 1 else F.avg_pool2d(images, factor)

    def enlarge(self, images: Tensor) -> Tensor:
        """Images of the present resolution in the final one, their pixels repeated."""
        factor = self.resolution // images.shape[-1]
        return images if factor == 1 else F.interpolate(images, scale_factor=factor, mode="nearest")

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        if not self.position.is_meta:
            level, self._alpha = self.position.tolist()
            self._level = int(level)

    def extra_repr(self) -> str:
        phases = f"stable_kimg={self.stable_kimg}, fade_kimg={self.fade_kimg}"
        return f"{BASE << self.first} to {self.resolution} px, {phases}"
