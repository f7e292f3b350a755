"""Networks as ONNX graphs, checked in onnxruntime."""

import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.game import Game, evaluation_mode
from ganfuse.interop.export.comparison import TOLERANCE, ExportError, Report, compare, file_size
from ganfuse.interop.export.programs import program_of, require_exportable
from ganfuse.interop.export.staging import staged
from ganfuse.interop.export.subject import Options, Subject, describe
from ganfuse.kernels.backend import recording_export

__all__ = ["DEFAULT_OPSET", "LEAST_OPSET", "export_onnx", "missing_packages"]

#: What PyTorch's exporter writes by itself; other versions are converted from it.
DEFAULT_OPSET = LEAST_OPSET = 18


def export_onnx(
    game: Game,
    path: str | os.PathLike[str],
    part: str | None = None,
    *,
    opset: int = DEFAULT_OPSET,
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
    """Writes a network of a game as an ONNX graph.

    The graph computes what `Game.sample` and `TranslationGame.translate` make of their latents and images, in float32.
    What the inputs are stands in the graph's metadata. Weights beyond 2 GB lie beside it, in a file of their own.

    Args:
        path: of the file, which ends in ``.onnx``.
        opset: version of ONNX's operators, from 18 on.
        check: run the file in onnxruntime and compare its results with the network's, for other sizes than it was
            recorded with.
        game, part, batch_size, size, truncation, truncation_cutoff, standing_statistics, noise, tolerance, overwrite:
            see `export_program`.

    Raises:
        ValueError: names the argument.
        FileExistsError: there is a file already.
        ModuleNotFoundError: onnx and onnxscript, or onnxruntime to check, are not installed.
        ExportError: the network cannot be exported, or the results differ; no file is left.
    """
    target = Path(path)
    if target.suffix != ".onnx":
        raise ValueError(f"path: an ONNX file ends in .onnx, got {target.name!r}")
    if isinstance(opset, bool) or not isinstance(opset, int) or opset < LEAST_OPSET:
        raise ValueError(f"opset: expected a whole number from {LEAST_OPSET} on, got {opset!r}")
    missing = missing_packages(check)
    if missing:
        raise ModuleNotFoundError(
            f"ONNX export needs {' and '.join(missing)}: pip install 'ganfuse[export]'"
            + ("" if missing != ["onnxruntime"] else ", or leave the check out (check=False, --no-check)")
        )
    options = Options(batch_size, size, truncation, truncation_cutoff, standing_statistics, noise)
    subject = describe(game, part, options)
    require_exportable(game)
    with (
        staged(target, overwrite) as temporary,
        evaluation_mode(game),
        evaluation_mode(subject.network),
        subject.prepared(),
    ):
        _write(subject, options, opset, temporary)
        differences = None
        if check:
            differences = compare(subject, options, _run_session(temporary), tolerance, what="the ONNX graph")
        bytes_written = file_size(temporary)
    return Report(target, subject, differences, bytes_written)


def missing_packages(check: bool) -> list[str]:
    """Names of packages that are needed and not installed."""
    needed = ("onnx", "onnxscript", "onnxruntime") if check else ("onnx", "onnxscript")
    return [name for name in needed if importlib.util.find_spec(name) is None]


def _write(subject: Subject, options: Options, opset: int, path: Path) -> None:
    import onnx  # type: ignore[import-not-found,unused-ignore]

    program = program_of(subject, options)
    with _quiet(), recording_export():
        try:
            graph = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=[each.name for each in subject.inputs],
                output_names=list(subject.outputs),
                # The optimizer of onnxscript takes x + 1e-8 for x, with which constant maps become NaN in StyleGAN's
                # normalisation. Runtimes fold constants by themselves.
                optimize=False,
                verbose=False,
            )
        except Exception as error:  # whatever in the exporter gives up
            raise ExportError(
                f"PyTorch {torch.__version__} cannot write {subject.part} as ONNX: {type(error).__name__}: "
                f"{' '.join(str(error).split())[:600]}"
            ) from error
    assert graph is not None
    got = graph.model.opset_imports.get("")
    if got != opset:
        raise ExportError(f"opset: the graph cannot be converted to opset {opset}; {got} can be had")
    graph.model.metadata_props.update({f"ganfuse.{key}": value for key, value in subject.facts.items()})
    graph.model.producer_name = "ganfuse"
    graph.model.producer_version = subject.facts["ganfuse_version"]
    _name_axes(graph.model.graph, subject)
    for value, each in zip(graph.model.graph.inputs, subject.inputs):
        value.doc_string = each.meaning
    graph.save(path)
    onnx.checker.check_model(str(path))


def _name_axes(graph: Any, subject: Subject) -> None:
    """Calls open sizes by their names, wherever they stand in the graph, in place of the exporter's ``s34``."""
    names = {}
    for value, each in zip(graph.inputs, subject.inputs):
        names.update({str(value.shape[dim]): axis.name for dim, axis in each.axes.items()})
    inner = (output for node in graph for output in node.outputs)
    for value in (*graph.inputs, *graph.outputs, *inner):
        for dim, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and str(size) in names:
                value.shape[dim] = names[str(size)]


def _run_session(path: Path) -> Callable[[tuple[Tensor, ...]], list[Tensor]]:
    import onnxruntime  # type: ignore[import-untyped,import-not-found,unused-ignore]

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(arguments: tuple[Tensor, ...]) -> list[Tensor]:
        feeds = {name: argument.numpy() for name, argument in zip(names, arguments)}
        return [torch.from_numpy(result) for result in session.run(None, feeds)]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about packages and deprecations of its own."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before):
            logger.setLevel(level)
