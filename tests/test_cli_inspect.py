"""`ganfuse inspect` with a snapshot, as its users run it; the compiler's part is played by made-up reports."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("triton")

from ganfuse.cli import app
from ganfuse.kernels import inspection, inspection_pool

OP, CASE = "minibatch_stddev", "stylegan2 4² (512) nhwc"
ONE = ["inspect", "--op", OP, "--target", "sm90", "--case", CASE]
GOOD = inspection.Report(
    OP, CASE, "sm90", "stddev_forward", num_warps=4, registers=40, shared_limit=1000, loads={128: 2}, stores={128: 1},
    expects_matrix_instruction=False,
)  # fmt: skip


@pytest.fixture
def compiler(monkeypatch):
    """Change its ``report`` to what the next run is to find."""
    made = type("Compiler", (), {"report": GOOD})
    monkeypatch.setattr(inspection_pool, "inspect_jobs", lambda jobs, workers: [[made.report] for _ in jobs])
    monkeypatch.setattr("ganfuse.kernels.backend.INTERPRETED", False)
    return made


def ganfuse(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_kernel_that_became_worse_fails_and_an_updated_snapshot_takes_it(tmp_path, compiler):
    snapshot, table = tmp_path / "snapshot.json", tmp_path / "table.json"
    assert ganfuse(*ONE, "--snapshot", snapshot, "--json", table).exit_code == 0
    assert json.loads(table.read_text())["kernels"][0]["occupancy"] == 0.75
    assert ganfuse(*ONE, "--compare", snapshot).exit_code == 0

    compiler.report = dataclasses.replace(GOOD, registers=64)
    worse = ganfuse(*ONE, "--compare", snapshot)
    assert worse.exit_code == 1
    assert f"worse: sm90 {OP} {CASE} stddev_forward: registers 40 → 64; occupancy 75% → 50%" in worse.output
    assert "1 kernels worse" in worse.output

    # A change that is meant: what is new is compared with what was, and taken.
    assert ganfuse(*ONE, "--snapshot", snapshot).exit_code == 0
    assert ganfuse(*ONE, "--compare", snapshot).exit_code == 0

    compiler.report = dataclasses.replace(GOOD, target="sm80", registers=200)
    new = ganfuse("inspect", "--op", OP, "--target", "sm80", "--case", CASE, "--compare", snapshot)
    assert new.exit_code == 0
    assert "1 cases are not in the snapshot" in new.output


def test_a_snapshot_that_is_none_is_refused(tmp_path, compiler):
    other = tmp_path / "other.json"
    other.write_text("{}")
    result = ganfuse(*ONE, "--compare", other)
    assert result.exit_code == 2
    assert "no snapshot of ganfuse inspect" in " ".join(result.output.split())
