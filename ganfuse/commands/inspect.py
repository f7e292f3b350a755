"""`ganfuse inspect`: what the compiler makes of our kernels on each GPU, without one."""

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ganfuse.commands._errors import EXIT_FAILED, CommandError

if TYPE_CHECKING:
    from ganfuse.kernels.inspection import Report
    from ganfuse.kernels.inspection_snapshot import Snapshot

EXAMPLE = 'ganfuse inspect --target sm90 --case "sagan-128"'


def inspect(
    op: Annotated[list[str] | None, typer.Option(help="Only this op; may be repeated.", show_default="all")] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="Only this GPU, such as sm90; may be repeated.", show_default="all")
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="Only shapes whose name contains this; may be repeated.", show_default="all"),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Compiling processes.", show_default="CPU cores")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the table to this JSON file.")] = None,
    compare_file: Annotated[
        Path | None,
        typer.Option("--compare", help="A snapshot of before; the exit code is 1 if a kernel became worse."),
    ] = None,
    snapshot_file: Annotated[
        Path | None,
        typer.Option("--snapshot", help="Write what was compiled to this snapshot; the rest of it stays as it is."),
    ] = None,
) -> None:
    """Compile the kernels for GPUs that need not be there, and print what came out.

    For each kernel in its shipped configuration: registers per thread, spills, shared memory, the tensor-core
    instruction, the widest global load and store, and the share of a multiprocessor's warps that fit on it at a time
    (estimated). The exit code is 1 if a kernel has a problem, or is worse than in the snapshot of --compare.

    The snapshot of the repository is benchmarks/results/compiled-kernels.json.
    """
    from ganfuse.engine.atomic_file import atomic_write
    from ganfuse.kernels.backend import INTERPRETED
    from ganfuse.kernels.inspection import OPS, TARGETS, inspect_all, op_cases, problems
    from ganfuse.kernels.inspection_pool import inspect_jobs
    from ganfuse.kernels.inspection_snapshot import Snapshot

    if INTERPRETED:
        raise CommandError("TRITON_INTERPRET is set, and interpreted kernels cannot be compiled", "unset it")
    ops = _chosen("op", op, OPS)
    targets = _chosen("target", target, tuple(TARGETS))
    before = Snapshot.read(compare_file) if compare_file is not None else None
    kept = Snapshot.read(snapshot_file) if snapshot_file is not None and snapshot_file.exists() else Snapshot()
    jobs = inspect_all(ops, targets)
    if case:
        jobs = [job for job in jobs if any(part in job[1] for part in case)]
        if not jobs:
            known = ", ".join(name for each in ops for name in op_cases(each))
            raise CommandError(f"no case contains {' or '.join(map(repr, case))}", f"cases: {known}")
    reports: list[Report] = []
    with typer.progressbar(
        inspect_jobs(jobs, workers=workers), length=len(jobs), label="compiling", file=typer.get_text_stream("stderr")
    ) as done:
        for some in done:
            reports.extend(some)
    order = {job: place for place, job in enumerate(jobs)}
    reports.sort(key=lambda report: order[(report.op, report.case, report.target)])
    _print(reports)
    bad = [report for report in reports if problems(report)]
    if json_file is not None:
        rows = [
            {**asdict(report), "occupancy": round(report.occupancy, 3), "problems": problems(report)}
            for report in reports
        ]
        content = {"versions": _versions(), "kernels": rows}
        with atomic_write(json_file) as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())
        typer.echo(f"wrote {json_file}", err=True)
    if snapshot_file is not None:
        merged = kept.replaced(reports, {each: op_cases(each) for each in OPS})
        with atomic_write(snapshot_file) as file:
            file.write(merged.text().encode())
        typer.echo(f"wrote {snapshot_file}: {len(merged.entries)} kernels", err=True)
    worse = _compare(before, reports) if before is not None else 0
    typer.echo(f"{len(reports)} kernels, {len(bad)} with problems", err=True)
    if bad or worse:
        raise typer.Exit(EXIT_FAILED)


def _compare(before: "Snapshot", reports: "list[Report]") -> int:
    """Prints what became worse; how many kernels did."""
    from ganfuse.kernels.inspection_snapshot import versions

    if before.compiled_by != versions():
        typer.echo(f"the snapshot was compiled by {before.compiled_by}, this by {versions()}", err=True)
    new = {(r.op, r.case, r.target) for r in reports if not before.has(r.op, r.case, r.target)}
    if new:
        typer.echo(f"{len(new)} cases are not in the snapshot", err=True)
    worse = before.worse(reports)
    for each in worse:
        typer.echo(f"worse: {each}")
    typer.echo(f"{len(worse)} kernels worse than in the snapshot", err=True)
    return len(worse)


def _chosen(what: str, wanted: list[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    for name in wanted or ():
        if name not in known:
            raise CommandError(f"unknown {what} {name!r}", f"known: {', '.join(known)}")
    return tuple(wanted) if wanted else known


def _versions() -> dict[str, str]:
    import torch
    import triton

    return {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}


def _print(reports: "list[Report]") -> None:
    from rich.console import Console
    from rich.table import Table

    from ganfuse.kernels.inspection import problems

    header = (
        "case",
        "GPU",
        "kernel",
        "D×E×N×M tile",
        "registers",
        "spills",
        "shared KiB",
        "dot",
        "load",
        "store",
        "warps",
        "",
    )
    table = Table(*header, box=None, pad_edge=False, header_style="bold")
    for report in reports:
        wrong = "; ".join(problems(report))
        table.add_row(
            report.case,
            report.target,
            f"{report.kernel} {report.flags}".strip(),
            report.config,
            str(report.registers),
            str(report.spills),
            f"{report.shared / 1024:.0f} of {report.shared_limit // 1024}",
            report.matrix_instruction,
            str(report.widest_load),
            str(report.widest_store),
            f"{report.occupancy:.0%}",
            f"[red]{wrong}[/red]" if wrong else "ok",
        )
    console = Console()
    Console(width=260).print(table) if not console.is_terminal else console.print(table)
