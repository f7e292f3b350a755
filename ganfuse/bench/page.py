"""One self-contained HTML page about a result file: roofline or a step's parts, bars against peers, memory, numbers."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ganfuse.bench import plots, table, training_table
from ganfuse.bench.records import joined_rows
from ganfuse.engine.atomic_file import atomic_write
from ganfuse.engine.html_page import html_page


def write_page(records: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Writes the page.

    Args:
        records: all records of a result file, the header first.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    rows = joined_rows(list(map(dict, records)))
    lines = table.headline(records)
    parts = [f"<h1>ganfuse bench</h1><p>{'<br>'.join(map(html.escape, lines))}</p>", _about(records[0])]
    ceilings = next((record for record in reversed(records) if record["kind"] == "ceilings"), None)
    if ceilings is not None and any(row["status"] == "ok" for row in rows):
        parts.append("<h2>Under the measured ceilings</h2>" + _drawing(plots.roofline(rows, ceilings)))
    curve = [record for record in records if record["kind"] == "memory"]
    if curve:
        text = "Most memory that attention holds at once, forward and backward, for one sample."
        parts.append(f"<h2>Memory of attention</h2><p>{text}</p>" + _drawing(plots.memory_curve(curve), "640px"))
    by_op: dict[str, list[Any]] = {}
    for row in rows:
        by_op.setdefault(row["op"], []).append(row)
    for op, of_op in by_op.items():
        parts.append(f"<h2>{html.escape(op)}</h2>")
        for name in dict.fromkeys(row["case"] for row in of_op):
            parts.append(_case([row for row in of_op if row["case"] == name]))
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        file.write(html_page("ganfuse bench", "".join(parts)).encode())


def write_training_page(records: Sequence[Mapping[str, Any]], target: Path) -> None:
    """Writes the page of a result file of whole training steps; otherwise as `write_page`."""
    header = records[0]
    rows = joined_rows(list(map(dict, records)))
    lines = [table.device_line(header), *training_table.notes(header)]
    parts = [f"<h1>ganfuse bench --train</h1><p>{'<br>'.join(map(html.escape, lines))}</p>", _about(header)]
    for name in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == name]
        parts.append(f"<h2>{html.escape(training_table.title(of_case[0]))}</h2>")
        if any(row.get("groups") for row in of_case):
            parts.append(_drawing(plots.training_bars(of_case)))
        parts.append(_table(*training_table.filled(of_case)))
        parts += [f"<p>{html.escape(text)}</p>" for text in training_table.reasons(of_case)]
        variants, groups = training_table.group_rows(of_case)
        parts.append("<h3>Share of the time, by group of operations</h3>" + _table(("group", *variants), groups))
        parts.append("<h3>Turns: plays in a step, and what one takes in the profile</h3>")
        parts += [f"<p>{html.escape(text)}</p>" for text in training_table.turn_lines(of_case)]
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(target) as file:
        file.write(html_page("ganfuse bench --train", "".join(parts)).encode())


def _table(columns: Iterable[str], lines: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in line)}</tr>" for line in lines)
    return f"<table><tr>{head}</tr>{body}</table>"


def _drawing(svg: str, width: str = "100%") -> str:
    return f"<div class='curves' style='display:block;max-width:{width}'>{svg}</div>"


def _case(rows: Sequence[Mapping[str, Any]]) -> str:
    numbers = _table(table.COLUMNS, map(table.cells, rows))
    return (
        f"<h3>{html.escape(table.title(rows[0]))}</h3>{_drawing(plots.bars(rows), '640px')}"
        f"<details><summary>numbers</summary>{numbers}</details>"
    )


def _about(header: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(key)}</th><td>{html.escape(str(value))}</td></tr>"
        for key, value in header.items()
        if key != "kind"
    )
    return f"<details><summary>device, versions, command</summary><table>{rows}</table></details>"
