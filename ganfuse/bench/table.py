"""Results as a table for a terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ganfuse.bench.subject import OURS

Row = Mapping[str, Any]

COLUMNS = (
    "implementation",
    "pass",
    "ms",
    "p20–p80",
    "× ours",
    "GB/s",
    "of copy",
    "TFLOP/s",
    "of matmul",
    "MiB",
    "launches",
    "mJ",
)


def title(row: Row) -> str:
    """What a row's case is, in words."""
    sizes = " ".join(f"{name} {number}" for name, number in row["sizes"].items())
    return f"{row['op']}  {row['shapes']} {row['site']}  {row['dtype']} {row['layout']}  ({sizes})"


def cells(row: Row) -> tuple[str, ...]:
    """A row by `COLUMNS`; what was not measured is empty, what got no time says why."""
    if row["status"] != "ok":
        reason = f"{row['status']}: {row.get('reason', '')}"
        return (
            row["provider"],
            row["pass"],
            reason[:90] + ("…" if len(reason) > 90 else ""),
            *[""] * (len(COLUMNS) - 3),
        )
    peak = row.get("peak_bytes")
    return (
        row["provider"],
        row["pass"],
        f"{row['ms']:.4g}",
        f"{row['p20_ms']:.4g}–{row['p80_ms']:.4g}",
        "" if row["provider"] == OURS else _number(row.get("ratio_to_ganfuse"), "{:.2f}"),
        _number(row.get("gb_s"), "{:.3g}"),
        _number(row.get("copy_share"), "{:.0%}"),
        _number(row.get("tflops") or None, "{:.3g}"),
        _number(row.get("matmul_share") or None, "{:.0%}"),
        "" if peak is None else f"{peak / 2**20:.1f}",
        _number(row.get("launches"), "{}"),
        _number(row.get("energy_mj"), "{:.3g}"),
    )


def _number(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)


def device_name(about: Row) -> str:
    """What was measured on, from the header of a result file."""
    if "cuda" in about:
        return str(about["device"])
    # Processors of one name may differ in their vector instructions.
    return f"{about['device'].replace(', 1 threads', ', 1 thread')} ({about.get('capability')})"


def device_line(about: Row) -> str:
    """What was measured on, with which versions, from the header of a result file."""
    commit = about["commit"][:12] + ("+" if about["commit"].endswith("+") else "")
    versions = f"PyTorch {about['torch']}, Triton {about['triton']}, commit {commit}"
    return f"{device_name(about)}, {versions}, {about['date'][:10]}"


def headline(records: Sequence[Row]) -> list[str]:
    """What was measured on, and against which ceilings, in a few lines."""
    about = records[0]
    lines = [device_line(about)]
    if "cuda" not in about:
        lines.append("No GPU: these are the forms that ganfuse takes on a CPU; no Triton kernel ran.")
    ceilings = next((r for r in reversed(records) if r["kind"] == "ceilings"), None)
    if ceilings is not None:
        rates = ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in ceilings["matmul"].items())
        lines.append(f"measured ceilings: copy {ceilings['copy'] / 1e9:.4g} GB/s, matrix product {rates}")
    lines.append("× ours: its time over ganfuse's within a round; above 1 ganfuse is faster")
    return lines


def print_rows(rows: Sequence[Row], echo: Callable[[str], None]) -> None:
    """Cases one under the other, their rows by pass."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    order = {which: place for place, which in enumerate(dict.fromkeys(row["pass"] for row in rows))}
    for name in dict.fromkeys(row["case"] for row in rows):
        of_case = sorted(
            (r for r in rows if r["case"] == name), key=lambda r: (order[r["pass"]], r["provider"] != OURS)
        )
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in COLUMNS:
            table.add_column(column, justify="left" if column in COLUMNS[:2] else "right", no_wrap=column != "ms")
        for row in of_case:
            table.add_row(*cells(row), style="bold" if row["provider"] == OURS else None)
        echo(f"\n{title(of_case[0])}")
        console.print(table)
