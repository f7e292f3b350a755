"""`ganfuse export`: a run's network as an ONNX graph, a torch.export program, or a folder for the Hugging Face Hub."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganfuse.commands._errors import EXIT_FAILED, CommandError
from ganfuse.commands._output import print_result
from ganfuse.commands._sampling import (
    StandingStatistics,
    TruncationCutoff,
    Weights,
    load_for_sampling,
    which_checkpoint,
)

if TYPE_CHECKING:
    from ganfuse.engine import Game
    from ganfuse.interop.export import Report

EXAMPLE = "ganfuse export runs/sagan-digits --to onnx --out generator.onnx"


class Target(str, Enum):
    """What to make."""

    onnx = "onnx"
    torch_export = "torch-export"
    hub = "hub"


class NoiseMode(str, Enum):
    """Of style models."""

    const = "const"
    none = "none"


_TOLERANCE = 1e-4
_ENDINGS = {Target.onnx: ".onnx", Target.torch_export: ".pt2"}
_OF_GRAPHS = ("batch_size", "size", "truncation", "truncation_cutoff", "standing_statistics", "noise")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    to: Annotated[Target, typer.Option(help="What to make; see above.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write; for hub, a folder.", show_default="PART.onnx, PART.pt2")
    ] = None,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="Which network, such as generator_ba; for hub, a network to keep (may be repeated).",
            show_default="generator, generator_ab; for hub, all",
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(min=1, help="onnx: version of the operators.", show_default="18")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="The only batch size that the graph takes.", show_default="any")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW", help="Translators: the only image size that the graph takes.", show_default="any"
        ),
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="Style models: ψ, built in. BigGAN's kin: what you will truncate z at; sets statistics."),
    ] = None,
    truncation_cutoff: TruncationCutoff = None,
    standing_statistics: StandingStatistics = None,
    noise: Annotated[
        NoiseMode | None,
        typer.Option(help="Style models: the same noise in every image, or none.", show_default="const"),
    ] = None,
    check: Annotated[bool, typer.Option(help="Run what was written, and compare it with the run's network.")] = True,
    tolerance: Annotated[
        float, typer.Option(min=0.0, help="Largest difference, in units of the largest result.")
    ] = _TOLERANCE,
    weights: Annotated[Weights, typer.Option(help="Moving averages, or the weights as trained.")] = Weights.ema,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or the step of a checkpoint.")] = "latest",
    push: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="hub: upload there, too; hf auth login first.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="hub: make the new repository private.")] = False,
    license_: Annotated[
        str | None, typer.Option("--license", help="hub: for the card, such as apache-2.0.", show_default="none")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Make a run's network usable elsewhere.

    onnx: a graph for onnxruntime, TensorRT, browsers. torch-export: a program for PyTorch without ganfuse. hub: a
    folder with weights (safetensors), configuration and model card, for ganfuse.interop.from_pretrained.

    Graphs compute what `ganfuse sample` and `ganfuse translate` draw, in float32, for any batch size; translators also
    for any image size that the network takes. Both are compared with the network before the file appears.
    """
    graph_options = {
        "batch_size": batch_size,
        "size": size,
        "truncation": truncation,
        "truncation_cutoff": truncation_cutoff,
        "standing_statistics": standing_statistics,
        "noise": None if noise is None else noise.value,
        "opset": opset,
    }
    given: dict[str, Any] = {key: value for key, value in graph_options.items() if value is not None}
    if to is Target.hub:
        comparison = {"no_check": not check, "tolerance": tolerance != _TOLERANCE}
        given.update({key: True for key, asked in comparison.items() if asked})
        _require_none(given, "of graphs, and --to hub makes none")
        _save(run, out, part, weights, checkpoint, push, private, license_, overwrite)
        return
    hub_options = {"push": push, "private": private or None, "license": license_}
    _require_none({key: value for key, value in hub_options.items() if value is not None}, "of --to hub")
    if to is Target.torch_export:
        _require_none({key: value for key, value in given.items() if key == "opset"}, "of --to onnx")
    if part is not None and len(part) > 1:
        raise CommandError("--part: a file holds one network; export them one by one")
    if size is not None:
        given["size"] = _parse_size(size)
    given.update(check=check, tolerance=tolerance, overwrite=overwrite)
    _export(load_for_sampling(run, weights, checkpoint, "cpu"), to, out, None if part is None else part[0], given)


def _export(game: "Game", to: Target, out: Path | None, part: str | None, options: dict[str, Any]) -> None:
    from ganfuse.interop.export import ExportError, export_onnx, export_program, exportable_parts

    part = part or exportable_parts(game)[0]
    path = out or Path(f"{part}{_ENDINGS[to]}")
    write = export_onnx if to is Target.onnx else export_program
    try:
        report = write(game, path, part, **options)
    except ModuleNotFoundError as error:
        raise CommandError(str(error)) from error
    except ExportError as error:
        raise CommandError(str(error), "--debug shows where", code=EXIT_FAILED) from error
    _tell(report)


def _tell(report: "Report") -> None:
    rows: list[tuple[str, object]] = [("file", report.path), ("size", f"{report.bytes / 1e6:,.2f} MB")]
    rows += [(each.name, each.meaning) for each in report.subject.inputs]
    if report.differences is None:
        rows.append(("checked", "no"))
    else:
        batches = ", ".join(
            f"{each.batch}" + (f" of {each.size[0]}×{each.size[1]}" if each.size is not None else "")
            for each in report.differences
        )
        worst = max(each.error for each in report.differences)
        rows.append(("checked", f"batches of {batches}: largest difference {worst:.1e}"))
    print_result(*rows)


def _save(
    run: Path,
    out: Path | None,
    parts: list[str] | None,
    weights: Weights,
    checkpoint: str,
    push: str | None,
    private: bool,
    license_: str | None,
    overwrite: bool,
) -> None:
    from ganfuse.engine import CheckpointError
    from ganfuse.interop import push_to_hub, save_pretrained

    if out is None and push is None:
        raise CommandError("--out: give the folder to write", f"for example --out {run.name}-hub")
    if private and push is None:
        raise CommandError("--private: has a meaning only with --push")
    options: dict[str, Any] = {
        "parts": parts,
        "weights": weights.value,
        "checkpoint": which_checkpoint(checkpoint),
        "license": license_,
    }
    try:
        if out is not None:
            save_pretrained(run, out, repo_id=push, overwrite=overwrite, **options)
            print_result(("folder", out), ("next", f'ganfuse.interop.from_pretrained("{out}")'))
        if push is not None:
            source = run if out is None else out
            address = push_to_hub(source, push, private=private or None, **({} if out is not None else options))
            print_result(("pushed", address))
    except (CheckpointError, ModuleNotFoundError) as error:
        raise CommandError(str(error)) from error


def _require_none(given: dict[str, Any], why: str) -> None:
    for key in given:
        raise CommandError(f"--{key.replace('_', '-')} is an option {why}")


def _parse_size(text: str) -> tuple[int, int]:
    """(height, width) of ``256`` or ``256x320``."""
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) not in (1, 2) or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise CommandError(f"--size expects N or HxW, such as 256 or 256x320, got {text!r}")
    return int(sides[0]), int(sides[-1])
