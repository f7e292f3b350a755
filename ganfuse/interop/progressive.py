"""What the readers of networks that grow share: widths of levels, and the level that training has reached."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ganfuse.models.growth import BASE
from ganfuse.models.progressive_layers import widths_of

__all__ = ["pyramid", "reached_level"]


def pyramid(widths: Sequence[int]) -> dict[str, Any]:
    """The configuration ``width`` and ``channel_max`` of levels with these widths, from 4×4 on.

    A list where they do not double with every halving up to a limit.
    """
    resolution = BASE << (len(widths) - 1)
    regular = {"width": widths[-1], "channel_max": max(widths)}
    if widths_of(resolution, **regular) == list(widths):
        return regular
    return {"width": list(widths), "channel_max": max(widths)}


def reached_level(
    tensors: Mapping[str, Tensor], levels: int, resolution: object, grown: Callable[[int], Iterable[str]]
) -> int:
    """The level of `resolution`, or of None the last one that was trained.

    Args:
        tensors: of a network that has all levels, trained or not.
        levels: how many.
        resolution: what the user says.
        grown: from a level to names of tensors that are zero until it is trained.

    Raises:
        ValueError: there is no such level, or none was trained.
    """
    sizes = [BASE << level for level in range(levels)]
    if resolution is None:
        trained = [
            level for level in range(levels) if any(bool(tensors[key].any()) for key in grown(level) if key in tensors)
        ]
        if not trained:
            raise ValueError(
                "resolution: the tensors do not say which one was trained last, since all biases are zero; expected "
                f"one of {', '.join(map(str, sizes))}, for example resolution={sizes[-1]}"
            )
        return trained[-1]
    if isinstance(resolution, bool) or resolution not in sizes:
        raise ValueError(f"resolution: expected one of {', '.join(map(str, sizes))}, got {resolution!r}")
    return sizes.index(resolution)  # type: ignore[arg-type]
