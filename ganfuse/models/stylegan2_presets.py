"""Hyperparameters of StyleGAN2: those of the paper, and those of StyleGAN2-ADA for other data.

Karras et al. 2020 (arXiv 1912.04958), table 1, config F; Karras et al. 2020 (arXiv 2006.06676), table 5 of appendix C
and its authors' training script.
"""

from dataclasses import dataclass

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """What a configuration sets.

    Attributes:
        width: channels at full resolution.
        lr: of both players.
        r1_gamma: γ of R1.
        ema_kimg, ema_ramp_up: see `StyleGame`.
        mapping_layers: of the generator's mapping network.
        group_size: of the minibatch standard deviation.
        batch_size: that the others are meant for.
        path_length: weight of the path length penalty.
        style_mixing: probability.
        discriminator_architecture: see `ganfuse.models.stylegan2_discriminator`.
    """

    width: int
    lr: float
    r1_gamma: float
    ema_kimg: float
    ema_ramp_up: float | None
    mapping_layers: int
    group_size: int
    batch_size: int
    path_length: float = 2.0
    style_mixing: float = 0.9
    discriminator_architecture: str = "resnet"


PRESETS = ("stylegan2", "auto", "paper256", "paper512", "paper1024", "cifar")

# The width of config F at 1024 px is 32; "half" has half the channels.
_FULL, _HALF = 32 * 1024, 16 * 1024


def preset(name: str, resolution: int, batch_size: int | None) -> Preset:
    """The preset of that name.

    Args:
        name: one of `PRESETS`. "stylegan2" is config F; "auto" scales with resolution and batch; "paper256", "paper512"
            and "paper1024" are what StyleGAN2-ADA's paper used at these resolutions, "cifar" at 32 px.
        resolution: of the images.
        batch_size: of all processes together; None: the preset's own. Only "auto" depends on it.

    Raises:
        ValueError: there is no such preset.
    """
    if name == "auto":
        batch = batch_size or max(1, min(4096 // resolution, 32))
        return Preset(
            width=max(1, (_FULL if resolution >= 512 else _HALF) // resolution),
            lr=0.002 if resolution >= 1024 else 0.0025,
            r1_gamma=0.0002 * resolution**2 / batch,
            ema_kimg=batch * 10 / 32,
            ema_ramp_up=0.05,
            mapping_layers=2,
            group_size=min(batch, 4),
            batch_size=batch,
        )
    full, half = max(1, _FULL // resolution), max(1, _HALF // resolution)
    fixed = {
        "stylegan2": Preset(full, 0.002, 10.0, 10.0, None, 8, 4, 32),
        "paper256": Preset(half, 0.0025, 1.0, 20.0, None, 8, 8, 64),
        "paper512": Preset(full, 0.0025, 0.5, 20.0, None, 8, 8, 64),
        "paper1024": Preset(full, 0.002, 2.0, 10.0, None, 8, 4, 32),
        "cifar": Preset(full, 0.0025, 0.01, 500.0, 0.05, 2, 32, 64, 0.0, 0.0, "orig"),
    }
    if name not in fixed:
        raise ValueError(f"config: expected one of {', '.join(map(repr, PRESETS))}, got {name!r}")
    return fixed[name]
