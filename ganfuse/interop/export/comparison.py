"""Exported networks beside the networks that they were made of."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ganfuse.interop.export.subject import Options, Subject

__all__ = ["TOLERANCE", "Difference", "ExportError", "Report", "compare", "file_size"]

TOLERANCE = 1e-4
# Of results that are all smaller, as those of networks without training may be, rounding leaves nothing to compare.
_LEAST_SCALE = 1e-2


class ExportError(RuntimeError):
    """A network cannot be exported, or what was written does not compute the same."""


@dataclass(frozen=True)
class Difference:
    """What a comparison found.

    Attributes:
        batch: how many samples were compared.
        size: (height, width) of the images that went in; None for other inputs.
        error: the largest difference, in units of the largest result.
    """

    batch: int
    size: tuple[int, int] | None
    error: float


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        path: of the file.
        subject: inputs, outputs and facts.
        differences: of the comparisons; None where they were not wanted.
        bytes: of the file, and of weights beside it.
    """

    path: Path
    subject: Subject
    differences: list[Difference] | None
    bytes: int


def compare(
    subject: Subject,
    options: Options,
    run: Callable[[tuple[Tensor, ...]], list[Tensor]],
    tolerance: float,
    *,
    what: str,
) -> list[Difference]:
    """Runs both on the same inputs: batches of one and of three, images of the usual and of another size.

    None of these is what a network was recorded with unless sizes are fixed. The network itself computes with whatever
    implementations it computes with elsewhere, so that these are compared, too.

    Raises:
        ExportError: results have another shape, differ by more than the tolerance, or are not finite.
    """
    found = []
    for seed, (batch, size) in enumerate(_cases(subject, options), start=1):
        arguments = subject.draw(batch, size, seed)
        with torch.no_grad():
            expected = subject.network(*arguments)
        expected = list(expected) if isinstance(expected, tuple | list) else [expected]
        where = f"for a batch of {batch}" + (f" of {size[0]}×{size[1]}" if subject.takes_images else "")
        try:
            results = run(arguments)
        except Exception as problem:  # whatever a runtime raises
            raise ExportError(f"{what} does not run {where}: {' '.join(str(problem).split())[:600]}") from problem
        shapes = [tuple(t.shape) for t in expected], [tuple(t.shape) for t in results]
        if shapes[0] != shapes[1]:
            raise ExportError(f"{what} gives shapes {shapes[1]} {where}, the network {shapes[0]}")
        if not all(bool(t.isfinite().all()) for t in expected):
            raise ExportError(f"the network's own results {where} are not finite; has it been trained?")
        error = max(_difference(a, b) for a, b in zip(results, expected))
        # Also true of NaN.
        if not error <= tolerance:
            raise ExportError(
                f"{what} differs from the network by {error:.2g} {where}, more than the tolerance of {tolerance:g}"
                + _of_rounding(subject, arguments, expected, tolerance)
            )
        found.append(Difference(batch, size if subject.takes_images else None, error))
    return found


def _cases(subject: Subject, options: Options) -> list[tuple[int, tuple[int, int]]]:
    batches = [1, 3] if options.batch_size is None else [options.batch_size] * 2
    sizes = [subject.size, subject.size]
    open_sizes = subject.open_sizes
    if "height" in open_sizes:
        height, width = open_sizes["height"], open_sizes["width"]
        # Smaller than most, and not square.
        sizes[1] = (height.up_to(40), max(width.up_to(52), height.up_to(40) + width.multiple))
    return list(zip(batches, sizes))


def _difference(result: Tensor, expected: Tensor) -> float:
    scale = max(_LEAST_SCALE, float(expected.abs().max()))
    return float((result.double() - expected.double()).abs().max()) / scale


def _of_rounding(subject: Subject, arguments: tuple[Tensor, ...], expected: list[Tensor], tolerance: float) -> str:
    """What to say of a difference where float32 itself makes much of it.

    Norms of maps that hardly vary, such as StyleGAN's before its noise has gained strength, magnify rounding.
    """
    try:
        network = copy.deepcopy(subject.network).double()
        with torch.no_grad():
            exact = network(*(t.double() if t.is_floating_point() else t for t in arguments))
        exact = list(exact) if isinstance(exact, tuple | list) else [exact]
        rounding = max(_difference(a, b) for a, b in zip(expected, exact))
    except Exception:  # of a network that does not run in float64, which is no more than less to say
        return ""
    if not rounding > tolerance / 10:
        return ""
    return f"; rounding alone moves the network's own results by {rounding:.2g}, so that a larger tolerance is due"


def file_size(path: Path) -> int:
    """Bytes of a file and of what lies beside it under the same name and one more ending."""
    return sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith(path.name))
