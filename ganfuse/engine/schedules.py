"""How far a run has come, and learning rates as functions of it.

Schedules are pure functions of the progress, so that nothing about them needs to be stored to resume a run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ganfuse.engine.checks import is_number

__all__ = [
    "ConstantThenLinear",
    "Cosine",
    "Exponential",
    "Progress",
    "Schedule",
    "StepDecay",
    "Warmup",
    "named_schedule",
    "piecewise",
]

UNITS = ("steps", "epochs", "kimg")


@dataclass(frozen=True)
class Progress:
    """Where a run is when a step begins.

    Attributes:
        step: number of the step that begins, from 1 on.
        images: real images drawn before it.
        dataset_size: number of images of the data set.
        batch_size: real images per batch, of all processes together.
        steps: at which step the run will be complete.
    """

    step: int = 1
    images: int = 0
    dataset_size: int = 1
    batch_size: int = 1
    steps: int = 1

    @property
    def kimg(self) -> float:
        """Thousands of real images drawn."""
        return self.images / 1000.0

    @property
    def epochs(self) -> float:
        """Passes over the data set."""
        return self.images / self.dataset_size

    def elapsed(self, unit: str) -> float:
        """What has passed, in "steps" (complete ones), "epochs" or "kimg"."""
        return {"steps": float(self.step - 1), "epochs": self.epochs, "kimg": self.kimg}[unit]


Schedule = Callable[[Progress], float]
"""From the progress to the factor by which the learning rate is multiplied."""


def _check_unit(unit: str) -> None:
    if unit not in UNITS:
        raise ValueError(f"unit: expected one of {', '.join(map(repr, UNITS))}, got {unit!r}")


def _check_positive(**lengths: float) -> None:
    for name, value in lengths.items():
        if not (is_number(value) and value > 0):
            raise ValueError(f"{name}: expected a positive number, got {value!r}")


@dataclass(frozen=True)
class ConstantThenLinear:
    """1 for `constant` units, then linearly down to `final` over `decay` units (CycleGAN: 100 and 100 epochs).

    Zhu et al. 2017 (arXiv 1703.10593), section 4.
    """

    constant: float
    decay: float
    unit: str = "epochs"
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_unit(self.unit)
        _check_positive(decay=self.decay)

    def __call__(self, progress: Progress) -> float:
        share = min(1.0, max(0.0, (progress.elapsed(self.unit) - self.constant) / self.decay))
        return 1.0 + share * (self.final - 1.0)


@dataclass(frozen=True)
class Exponential:
    """1 for `constant` units, then exponentially to `final` over `decay` units, and on at that rate.

    BiGAN (Donahue et al. 2017, arXiv 1605.09782, appendix C) has 200 epochs, then 200 down to 0.01.
    """

    constant: float
    decay: float
    final: float = 0.01
    unit: str = "epochs"

    def __post_init__(self) -> None:
        _check_unit(self.unit)
        _check_positive(decay=self.decay, final=self.final)

    def __call__(self, progress: Progress) -> float:
        return self.final ** (max(0.0, progress.elapsed(self.unit) - self.constant) / self.decay)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class StepDecay:
    """Multiplied by `factor` every `every` units (UNIT: ½ every 100,000 steps; GAN-CLS: ½ every 100 epochs)."""

    every: float
    factor: float = 0.5
    unit: str = "steps"

    def __post_init__(self) -> None:
        _check_unit(self.unit)
        _check_positive(every=self.every, factor=self.factor)

    def __call__(self, progress: Progress) -> float:
        return self.factor ** math.floor(progress.elapsed(self.unit) / self.every)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Cosine:
    """From 1 to `final` along half a cosine over `length` units, and constant afterwards.

    Loshchilov & Hutter 2017 (arXiv 1608.03983), eq. 5, without restarts.
    """

    length: float
    final: float = 0.0
    unit: str = "steps"

    def __post_init__(self) -> None:
        _check_unit(self.unit)
        _check_positive(length=self.length)

    def __call__(self, progress: Progress) -> float:
        share = min(1.0, progress.elapsed(self.unit) / self.length)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Warmup:
    """Linearly from 0 to 1 over `length` units, times another schedule."""

    length: float
    then: Schedule | None = None
    unit: str = "steps"

    def __post_init__(self) -> None:
        _check_unit(self.unit)
        _check_positive(length=self.length)

    def __call__(self, progress: Progress) -> float:
        # The step that begins counts as made, or the first one would have no effect.
        elapsed = progress.elapsed(self.unit) + (1.0 if self.unit == "steps" else 0.0)
        factor = min(1.0, elapsed / self.length)
        return factor if self.then is None else factor * self.then(progress)


def named_schedule(name: str, length: float, unit: str, *, constant: float = 0.0) -> Schedule | None:
    """The schedule that a configuration names: "constant" (None), "linear", "cosine" or "exponential".

    Args:
        name: see above.
        length: of the decay, in `unit`.
        unit: "steps", "epochs" or "kimg".
        constant: units before the decay begins ("linear" and "exponential").

    Raises:
        ValueError: an unknown name or unit, or a length that is not positive.
    """
    choices: dict[str, Callable[[], Schedule | None]] = {
        "constant": lambda: None,
        "linear": lambda: ConstantThenLinear(constant, length, unit),
        "exponential": lambda: Exponential(constant, length, unit=unit),
        "cosine": lambda: Cosine(length, unit=unit),
    }
    if name not in choices:
        raise ValueError(f"schedule: expected one of {', '.join(map(repr, choices))}, got {name!r}")
    return choices[name]()


def piecewise(boundaries: Sequence[float], values: Sequence[float], unit: str = "kimg") -> Schedule:
    """values[i] until boundaries[i] units have passed; the last value for good.

    Raises:
        ValueError: not one value more than boundaries, or boundaries that do not increase.
    """
    _check_unit(unit)
    if len(values) != len(boundaries) + 1:
        raise ValueError(f"values: expected {len(boundaries) + 1}, one more than boundaries, got {len(values)}")
    if list(boundaries) != sorted(set(boundaries)):
        raise ValueError(f"boundaries: expected increasing numbers, got {list(boundaries)!r}")

    def schedule(progress: Progress) -> float:
        elapsed = progress.elapsed(unit)
        return values[sum(elapsed >= boundary for boundary in boundaries)]

    return schedule
