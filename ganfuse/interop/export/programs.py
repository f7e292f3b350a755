"""Networks as `torch.export` programs: graphs of PyTorch's own operators, which run without this package."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.game import Game, evaluation_mode
from ganfuse.interop.export.comparison import TOLERANCE, ExportError, Report, compare, file_size
from ganfuse.interop.export.networks import settled
from ganfuse.interop.export.staging import staged
from ganfuse.interop.export.subject import Axis, Options, Subject, describe
from ganfuse.kernels.backend import recording_export

__all__ = ["FACTS", "export_program", "program_of"]

#: Entry of the archive that says what the inputs are.
FACTS = "ganfuse.json"
# An example of one would be taken for a batch that is always one.
_EXAMPLE_BATCH = 2


def export_program(
    game: Game,
    path: str | os.PathLike[str],
    part: str | None = None,
    *,
    batch_size: int | None = None,
    size: tuple[int, int] | None = None,
    truncation: float | None = None,
    truncation_cutoff: int | None = None,
    standing_statistics: int | None = None,
    noise: str = "const",
    check: bool = True,
    tolerance: float = TOLERANCE,
    overwrite: bool = False,
) -> Report:
    """Writes a network of a game as a program of `torch.export`, for ``torch.export.load(path).module()``.

    The program computes what `Game.sample` and `TranslationGame.translate` make of their latents and images, in
    evaluation mode, in float32, on the CPU. What the inputs are stands in the archive's entry ``ganfuse.json``.

    Args:
        game: on the CPU, in float32, with the weights to export (`ganfuse.engine.load_run` gives moving averages).
        path: of the file, which ends in ``.pt2``.
        part: one of `exportable_parts`; None: the generator, or the translator from A to B.
        batch_size, size, truncation, truncation_cutoff, standing_statistics, noise: see `Options`.
        check: load the file and compare its results with the network's, for other sizes than it was recorded with.
        tolerance: largest difference, in units of the largest result.
        overwrite: replace the file.

    Raises:
        ValueError: names the argument.
        FileExistsError: there is a file already.
        ExportError: PyTorch cannot export the network, or the results differ; no file is left.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise ValueError(f"path: a program's file ends in .pt2, got {target.name!r}")
    options = Options(batch_size, size, truncation, truncation_cutoff, standing_statistics, noise)
    subject = describe(game, part, options)
    require_exportable(game)
    with (
        staged(target, overwrite) as temporary,
        evaluation_mode(game),
        evaluation_mode(subject.network),
        subject.prepared(),
    ):
        program = program_of(subject, options)
        with warnings.catch_warnings():
            # About weights that are views; their values are written all the same, and compared.
            warnings.filterwarnings("ignore", "No complete tensor found")
            torch.export.save(program, temporary, extra_files={FACTS: json.dumps(dict(subject.facts), indent=1)})
        differences = None
        if check:
            loaded = torch.export.load(temporary).module()
            differences = compare(subject, options, _run_program(loaded), tolerance, what="the program")
        bytes_written = file_size(temporary)
    return Report(target, subject, differences, bytes_written)


def program_of(subject: Subject, options: Options) -> Any:
    """The `torch.export.ExportedProgram` of a network, with its open sizes open."""
    batch = _EXAMPLE_BATCH if options.batch_size is None else options.batch_size
    arguments = subject.draw(batch, subject.size, seed=0)
    # One object per name: it is what makes two sizes the same.
    dims = {name: _dimension(axis) for name, axis in subject.open_sizes.items()}
    shapes = tuple({dim: dims[axis.name] for dim, axis in each.axes.items()} for each in subject.inputs)
    try:
        with recording_export():
            return torch.export.export(settled(subject.network), arguments, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # whatever in PyTorch gives up
        raise ExportError(
            f"torch.export (PyTorch {torch.__version__}) cannot export {subject.part}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:600]}"
        ) from error


def _dimension(axis: Axis) -> Any:
    if axis.multiple == 1:
        return torch.export.Dim(axis.name, min=axis.least)
    least = -(-axis.least // axis.multiple)
    return axis.multiple * torch.export.Dim(f"{axis.name}_by_{axis.multiple}", min=least)


def _run_program(module: Callable[..., Any]) -> Callable[[tuple[Tensor, ...]], list[Tensor]]:
    def run(arguments: tuple[Tensor, ...]) -> list[Tensor]:
        with torch.no_grad():
            made = module(*arguments)
        return list(made) if isinstance(made, tuple | list) else [made]

    return run


def require_exportable(game: Game) -> None:
    """Raises ValueError for a game on another device than the CPU, or of another type than float32."""
    for name, tensor in game.named_parameters():
        if tensor.device.type != "cpu":
            raise ValueError(f"game: expected it on the CPU (game.cpu()), {name} is on {tensor.device}")
        if tensor.dtype != torch.float32:
            raise ValueError(f"game: expected it in float32 (game.float()), {name} is {tensor.dtype}")
