"""Results of whole training steps as tables for a terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ganfuse.bench.op_groups import OURS_PREFIX
from ganfuse.bench.subject import DEFAULT

__all__ = ["COLUMNS", "cells", "filled", "group_rows", "notes", "print_rows", "reasons", "title", "turn_lines"]

Row = Mapping[str, Any]

COLUMNS = (
    "variant",
    "ms/step",
    "p20–p80",
    "× default",
    "images/s",
    "MiB peak",
    "MiB held",
    "in ganfuse",
    "launches",
    "GPU busy",
    "J/step",
)


def title(row: Row) -> str:
    """What was trained, in words."""
    sizes = ", ".join(f"{name} {number}" for name, number in row["sizes"].items())
    return f"{row['model']}: {sizes}"


def cells(row: Row) -> tuple[str, ...]:
    """A row by `COLUMNS`; see `reasons` for what got no time."""
    if row["status"] != "ok":
        return (row["provider"], row["status"], *[""] * (len(COLUMNS) - 2))
    return (
        row["provider"],
        f"{row['ms']:.4g}",
        f"{row['p20_ms']:.4g}–{row['p80_ms']:.4g}",
        "" if row["provider"] == DEFAULT else _number(row.get("ratio_to_default"), "{:.2f}"),
        f"{row['images_per_second']:.4g}",
        "" if row.get("peak_bytes") is None else f"{row['peak_bytes'] / 2**20:.0f}",
        f"{row['held_bytes'] / 2**20:.0f}",
        _number(row.get("ours_share"), "{:.0%}"),
        _number(row.get("launches"), "{}"),
        _number(row.get("busy_share"), "{:.0%}"),
        _number(row.get("energy_j"), "{:.3g}"),
    )


def filled(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """(columns, lines of cells) without the columns that are empty on this device."""
    lines = [cells(row) for row in rows]
    kept = [place for place in range(len(COLUMNS)) if any(line[place] for line in lines)]
    return [COLUMNS[place] for place in kept], [[line[place] for place in kept] for line in lines]


def reasons(rows: Sequence[Row]) -> list[str]:
    """Why some variants got no time, or no profile."""
    found = [f"{row['provider']}: {row['status']}: {row.get('reason', '')}" for row in rows if row["status"] != "ok"]
    return found + [f"{row['provider']}: no profile: {row['profile_error']}" for row in rows if "profile_error" in row]


def _number(value: Any, form: str) -> str:
    return "" if value is None else form.format(value)


def group_rows(rows: Sequence[Row], least: float = 0.01) -> tuple[list[str], list[list[str]]]:
    """Shares of the time by group of operations: (variants, a line for each group: its name and a share by variant).

    Groups that are below `least` everywhere are added up as "the rest".
    """
    measured = [row for row in rows if row.get("groups")]
    shares = [{group: ms / row["profiled_ms"] for group, ms in row["groups"].items()} for row in measured]
    groups = {group for share in shares for group, value in share.items() if value >= least}
    # Ours at the top, then what takes longest.
    ordered = sorted(groups, key=lambda g: (not g.startswith(OURS_PREFIX), -max(s.get(g, 0.0) for s in shares)))
    lines = [[group, *(_share(share.get(group)) for share in shares)] for group in ordered]
    if shares:
        rest = [sum(value for group, value in share.items() if group not in groups) for share in shares]
        if any(rest):
            lines.append(["the rest", *map(_share, rest)])
    return [row["provider"] for row in measured], lines


def _share(value: float | None) -> str:
    return "" if not value else f"{value:.1%}"


def turn_lines(rows: Sequence[Row]) -> list[str]:
    """For each variant its turns: how often each is played in a step, how long one play takes, how many launches."""
    found = []
    for row in rows:
        if row.get("turns"):
            parts = []
            for name, turn in row["turns"].items():
                launches = "" if turn["launches"] is None else f", {turn['launches']} launches"
                parts.append(f"{name} ×{turn['played']:.3g} ({turn['ms']:.3g} ms{launches})")
            found.append(f"{row['provider']}: " + "; ".join(parts))
    return found


def notes(header: Row) -> list[str]:
    """What the columns mean, for the device that was measured."""
    gpu = "cuda" in header
    where = "kernels on the GPU" if gpu else "operators on the CPU, by PyTorch's profiler, which slows small ones down"
    lines = [
        "× default: the default's time over this one's within a round; above 1 this one is faster",
        "MiB peak: weights, optimisers, averages and the most that a step holds at once; held: without the step's own",
        f"in ganfuse: share of the time in ganfuse's {'kernels' if gpu else 'ops'}; shares are of the time of {where}",
    ]
    if not gpu:
        lines.insert(0, "No GPU: these are the forms that ganfuse takes on a CPU; no Triton kernel ran.")
    return lines


def print_rows(rows: Sequence[Row], header: Row, echo: Callable[[str], None]) -> None:
    """Variants side by side, where their time goes, and their turns."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for name in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == name]
        table = Table(box=None, pad_edge=False, header_style="bold")
        columns, lines = filled(of_case)
        for column in columns:
            table.add_column(column, justify="left" if column == "variant" else "right", no_wrap=True)
        for line in lines:
            table.add_row(*line, style="bold" if line[0] == DEFAULT else None)
        echo(f"\n{title(of_case[0])}")
        console.print(table)
        for reason in reasons(of_case):
            echo(f"  {reason}")
        variants, lines = group_rows(of_case)
        groups = Table("share of the time", box=None, pad_edge=False, header_style="bold")
        for variant in variants:
            groups.add_column(variant.replace("+", "\n+"), justify="right")
        for line in lines:
            groups.add_row(*line, style="bold" if line[0].startswith(OURS_PREFIX) else None)
        console.print()
        console.print(groups)
        echo("\nturns (plays in a step, and what one takes in the profile)")
        for text in turn_lines(of_case):
            echo(f"  {text}")
    echo("\n" + "\n".join(notes(header)))
