"""`ganfuse bench`: every op beside plain PyTorch, torch.compile and the library call that one would pick instead."""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganfuse.commands._errors import EXIT_FAILED, CommandError

if TYPE_CHECKING:
    import torch


EXAMPLE = "ganfuse bench feature_attention bias_act --html bench.html"

_PASSES = {"forward": "forward", "backward": "forward+backward", "double": "double backward"}


def bench(
    ops: Annotated[
        list[str] | None, typer.Argument(metavar="[OP]...", help="Ops to measure.", show_default="all")
    ] = None,
    shapes: Annotated[
        str | None,
        typer.Option(
            help="Of these: sagan-128, biggan-128, stylegan2-256, progan-256, ugatit-256.", show_default="all"
        ),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="OP:SIZE=N,...", help="A shape of your own; may be repeated."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp16, or several with commas.", show_default="bf16; fp32 on a CPU")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="nchw, channels_last, or both with a comma.", show_default="channels_last; nchw on a CPU"),
    ] = None,
    which: Annotated[
        str, typer.Option("--pass", help="forward, backward (with the forward), double (backward of the backward).")
    ] = "forward,backward,double",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1...")] = "auto",
    peers: Annotated[
        str | None,
        typer.Option(
            help="Implementations beside ganfuse: reference, compile, or a library's by its name in the table; none.",
            show_default="all; without compile on a CPU",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option("--time", help="Begin no shape after so many seconds.", show_default="300; 120 on a CPU"),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; 1 on a machine that is busy.")] = None,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", help="JSON lines, written as they come; the command goes on with them."),
    ] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Write a page with plots (ganfuse[report]).")] = None,
    compare_file: Annotated[
        Path | None, typer.Option("--compare", help="Results of before; the exit code is 1 if ganfuse became slower.")
    ] = None,
    read_file: Annotated[
        Path | None, typer.Option("--read", help="Show results of before; nothing is measured.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what is in the --json file.")] = False,
    energy: Annotated[
        bool,
        typer.Option(
            "--energy", help="Energy of every row on a GPU that counts it; else of ganfuse and reference alone."
        ),
    ] = False,
    train: Annotated[
        str | None, typer.Option("--train", metavar="MODEL", help="Measure whole training steps of this model instead.")
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            help="For --train, what to run beside the default: features joined by +, such as bf16+channels_last, "
            "several with commas. Features: reference, channels_last, bf16, fp16, compile, cuda_graphs, "
            "plain_optimizer, checkpointing, accumulation=N, fused_spectral_norms, separate_spectral_norms.",
            show_default="those that may pay on the device",
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="For --train: the images, as for ganfuse train.", show_default="digits")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="For --train: batch_size, resolution, width...; repeatable."),
    ] = None,
) -> None:
    """Measure the ops at shapes of published networks, beside other implementations of the same.

    Correctness comes first: what is wrong against float64 gets no time. Shares are of the bandwidth of a copy and the
    rate of a matrix product on this device, measured in the same run.

    With --train MODEL: whole training steps, with one speed feature more or less; images per second, memory, and where
    the time goes.
    """
    before = _read(compare_file, "--compare") if compare_file is not None else None
    _require_consistent(
        train,
        {"OP": ops, "--shapes": shapes, "--shape": shape, "--dtype": dtype, "--layout": layout, "--peers": peers},
        {"--variants": variants, "--data": data, "--set": assignments},
    )
    if read_file is not None:
        found = _read(read_file, "--read")
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = json_file or Path(folder) / "bench.jsonl"
            where = _device(device)
            if threads is not None:
                _set_threads(threads)
            seconds = time_limit if time_limit is not None else (300.0 if where.type == "cuda" else 120.0)
            command = " ".join(["ganfuse", *sys.argv[1:]])
            if train is not None:
                from ganfuse.commands._bench_training import measure_model

                found = measure_model(
                    train, data, _split(variants), assignments or [], path, where,
                    seconds=seconds, command=command, restart=restart,
                )  # fmt: skip
            else:
                found = _measure(
                    path, ops or [], _split(shapes), shape or [], _split(dtype), _split(layout), _split(which), where,
                    None if peers is None else [name for name in _split(peers) if name != "none"],
                    seconds=seconds, command=command, restart=restart, energy=energy,
                )  # fmt: skip
        if json_file is not None:
            typer.echo(f"wrote {json_file}", err=True)
    _show(found, html_file, with_rows=read_file is not None)
    if before is not None:
        _compare(before, found)


def _require_consistent(train: str | None, of_ops: Mapping[str, Any], of_training: Mapping[str, Any]) -> None:
    given = [name for name, value in (of_ops if train is not None else of_training).items() if value]
    if given and train is not None:
        raise CommandError(f"{given[0]} is for ops, and --train measures whole steps", "leave one of them out")
    if given:
        raise CommandError(f"{given[0]} belongs to --train MODEL")


def _set_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _show(found: list[dict[str, Any]], html_file: Path | None, *, with_rows: bool) -> None:
    """What was measured, on the terminal and as a page. Rows of ops have been shown as they came."""
    from ganfuse.bench import records, table

    training = found[0]["benchmark"] == "train"
    if training:
        from ganfuse.bench import training_table

        training_table.print_rows(records.joined_rows(found), found[0], typer.echo)
        typer.echo("\n" + table.device_line(found[0]))
    else:
        if with_rows:
            table.print_rows(records.joined_rows(found), typer.echo)
        typer.echo("\n" + "\n".join(table.headline(found)))
    if html_file is not None:
        from ganfuse.bench import page

        (page.write_training_page if training else page.write_page)(found, html_file)
        typer.echo(f"wrote {html_file}", err=True)


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _read(path: Path, option: str) -> list[dict[str, Any]]:
    from ganfuse.bench import records

    try:
        found = records.read(path)
    except ValueError as error:
        raise CommandError(f"{option}: {path} holds no JSON lines: {error}") from error
    if not found or found[0].get("benchmark") not in ("bench", "train"):
        raise CommandError(f"{option}: {path} is no result file of ganfuse bench")
    return found


def _measure(
    path: Path, ops: list[str], shapes: list[str], own: list[str], dtypes: list[str], layouts: list[str],
    which: list[str], device: "torch.device", peers: list[str] | None, *, seconds: float, command: str, restart: bool,
    energy: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    from ganfuse.bench import records, table
    from ganfuse.bench.catalogue import make_cases, parse_site, require_known
    from ganfuse.bench.session import run_session
    from ganfuse.bench.subject import LAYOUTS, TYPES

    gpu = device.type == "cuda"
    dtypes, layouts = dtypes or ["bf16" if gpu else "fp32"], layouts or ["channels_last" if gpu else "nchw"]
    for what, names, known in (("dtype", dtypes, TYPES), ("layout", layouts, LAYOUTS), ("pass", which, _PASSES)):
        for name in names:
            require_known(what, name, known)
    if not which:
        raise CommandError("--pass names no pass", f"known: {', '.join(_PASSES)}")
    cases = make_cases(ops, shapes, dtypes, layouts, device, own=[parse_site(text) for text in own])
    try:
        results = records.ResultFile(path, records.header("bench", device, command), restart=restart)
    except records.OtherRunError as error:
        raise CommandError(str(error), "--restart throws them away") from error
    run_session(
        cases,
        results,
        device,
        [_PASSES[name] for name in which],
        peers,
        seconds=seconds,
        energy=energy,
        say=lambda line: typer.echo(line, err=True),
        show=lambda rows: table.print_rows(rows, typer.echo),
    )
    return results.records


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise CommandError(f"--device {name!r} is no device", "auto, cpu, cuda, cuda:1...") from error
    if device.type not in ("cpu", "cuda"):
        raise CommandError(f"--device must be a CPU or a CUDA GPU, got {name!r}")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise CommandError("no GPU that PyTorch can use", "--device cpu measures the CPU")
        device = torch.device("cuda", device.index if device.index is not None else torch.cuda.current_device())
        torch.cuda.set_device(device)
    return device


def _compare(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
    from ganfuse.bench import compare
    from ganfuse.bench.subject import OURS, REFERENCE

    if before[0]["benchmark"] != now[0]["benchmark"]:
        raise CommandError("--compare: one of the results is of ops, the other of training steps")
    typer.echo("\nagainst the results of before:")
    for difference in compare.differences(before, now):
        typer.echo(f"  other {difference}")
    changes = compare.compare(before, now)
    typer.echo("\n".join(compare.lines(changes)))
    # The other ways to run a step are ours, too, but for the plain definitions.
    ours = {change.provider for change in changes} if now[0]["benchmark"] == "train" else {OURS}
    if any(change.is_regression and change.provider in ours - {REFERENCE} for change in changes):
        raise typer.Exit(EXIT_FAILED)
