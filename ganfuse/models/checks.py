"""Checks of the arguments of models and of the inputs of their networks, with one wording for all."""

from collections.abc import Mapping, Sequence

from torch import Tensor

__all__ = ["check_attention", "check_choice", "check_classes", "check_images", "check_labels", "check_latents"]
__all__ += ["check_count", "check_length", "check_positive", "check_range", "check_resolution", "check_unused"]


def check_resolution(system: str, resolution: object, resolutions: Sequence[int]) -> None:
    """Raises ValueError for a resolution that the system is not made for."""
    if resolution not in resolutions or isinstance(resolution, bool):
        raise ValueError(f"resolution: {system} is made for {', '.join(map(str, resolutions))} px, got {resolution!r}")


def check_positive(**values: object) -> None:
    """Raises ValueError for what is not a positive whole number."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{key}: expected a positive whole number, got {value!r}")


def check_count(**values: object) -> None:
    """Raises ValueError for what is not a whole number of at least 0."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{key}: expected a whole number of at least 0, got {value!r}")


def check_length(**values: object) -> None:
    """Raises ValueError for what is not a number above 0, such as the epochs that a schedule takes."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ValueError(f"{key}: expected a number above 0, got {value!r}")


def check_range(least: float, most: float, **values: float) -> None:
    """Raises ValueError for what is not a number in [least, most]."""
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            wanted = f"in [{least:g}, {most:g}]" if most < float("inf") else f"of at least {least:g}"
            raise ValueError(f"{key}: expected a number {wanted}, got {value!r}")


def check_unused(system: str, options: Mapping[str, object], *keys: str) -> None:
    """Raises ValueError for an option that the system's own losses would pass over in silence."""
    for key in keys:
        if options.get(key) is not None:
            raise ValueError(f"{key}: {system} has losses of its own, which do not take it, got {options[key]!r}")


def check_choice(key: str, value: object, choices: Sequence[str]) -> None:
    """Raises ValueError for what is not one of the choices."""
    if value not in choices:
        raise ValueError(f"{key}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def check_classes(num_classes: object) -> int | None:
    """The number of classes; None for None, 0 and 1, which all mean an unconditional model."""
    if num_classes is None:
        return None
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
        raise ValueError(f"num_classes: expected a whole number or None, got {num_classes!r}")
    return num_classes if num_classes > 1 else None


def check_attention(attention_resolution: object, maps: Sequence[int], resolution: int) -> None:
    """Raises ValueError if the networks have no such map, unless it is 0 (no attention)."""
    if attention_resolution not in (0, *maps) or isinstance(attention_resolution, bool):
        raise ValueError(
            f"attention_resolution: both players have maps of {', '.join(map(str, maps))} at {resolution} px "
            f"(0: no attention), got {attention_resolution!r}"
        )


def check_latents(z: Tensor, latent_dim: int) -> None:
    """Raises ValueError for latents that are not (B, latent_dim)."""
    if z.dim() != 2 or z.shape[1] != latent_dim:
        raise ValueError(f"z: expected (B, {latent_dim}), got {tuple(z.shape)}")


def check_images(images: Tensor, channels: int, resolution: int) -> None:
    """Raises ValueError for images that are not (B, channels, resolution, resolution)."""
    expected = (channels, resolution, resolution)
    if images.dim() != 4 or images.shape[1:] != expected:
        raise ValueError(f"images: expected (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}")


def check_labels(labels: Tensor | None, batch: int, num_classes: int | None) -> None:
    """Raises ValueError for labels that are not (B,), and where they are missing or not wanted."""
    if num_classes is None:
        if labels is not None:
            raise ValueError("labels: this network is unconditional; leave labels out")
    elif labels is None:
        raise ValueError(f"labels: this network has {num_classes} classes and needs labels of shape ({batch},)")
    elif labels.shape != (batch,):
        raise ValueError(f"labels: expected shape ({batch},), got {tuple(labels.shape)}")
