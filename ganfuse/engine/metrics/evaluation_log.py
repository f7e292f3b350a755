"""RUN/evaluations.jsonl: one line for each evaluation of a run."""

import json
import os
from collections.abc import Mapping
from typing import Any

from ganfuse.engine.run_folder import RunFolder

__all__ = ["append_evaluation", "read_evaluations"]


def append_evaluation(run: RunFolder, record: Mapping[str, Any]) -> None:
    """Appends a record (plain values, finite numbers) to the run's file."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    with open(run.evaluations_file, "ab+") as opened:
        if opened.tell() > 0:
            opened.seek(-1, os.SEEK_END)
            if opened.read(1) != b"\n":
                # What was half written must not spoil this line too.
                line = "\n" + line
        opened.write(line.encode())


def read_evaluations(run: RunFolder) -> list[dict[str, Any]]:
    """The records, oldest first. A line that was half written when a run was killed is left out."""
    file = run.evaluations_file
    if not file.is_file():
        return []
    records = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
