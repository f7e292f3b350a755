"""That a kernel which became worse is found, and one that did not is left alone."""

import dataclasses
import json

import pytest

pytest.importorskip("triton")

from ganfuse.kernels import inspection, inspection_snapshot
from ganfuse.kernels.inspection_snapshot import Snapshot
from tests.kernels.compiled_kernels import SNAPSHOT

GOOD = inspection.Report(
    "op", "a case", "sm90", "kernel", flags="key", config="64×64 w4 s2", num_warps=4, registers=100, shared=32768,
    shared_limit=227 * 1024, matrix_instruction="HGMMA", loads={128: 4, 32: 1}, stores={128: 2},
)  # fmt: skip
BEFORE = Snapshot(inspection_snapshot.digest([GOOD]))


def changed(**changes):
    return dataclasses.replace(GOOD, **changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spills": 8}, ["spills 0 → 8"]),
        ({"registers": 119}, ["registers 100 → 119"]),
        ({"registers": 168}, ["registers 100 → 168", "occupancy 25% → 19%"]),
        ({"shared": 40000}, ["shared 32768 → 40000"]),
        ({"matrix_instruction": "HMMA"}, ["tensor-core instruction HGMMA → HMMA"]),
        ({"matrix_instruction": ""}, ["tensor-core instruction HGMMA → none"]),
        ({"loads": {64: 8, 32: 1}}, ["widest load 128 → 64 bits"]),
        ({"loads": {128: 4, 16: 2}}, ["narrowest load 32 → 16 bits"]),
        ({"stores": {32: 8}}, ["widest store 128 → 32 bits"]),
        ({"error": "CompilationError: no"}, ["CompilationError: no"]),
        ({"kernel": "another"}, ["not in the snapshot"]),
    ],
)
def test_each_way_to_become_worse_is_named(changes, said):
    (worse,) = BEFORE.worse([changed(**changes)])
    assert worse.reasons[: len(said)] == said
    assert str(worse).startswith("sm90 op a case ")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"registers": 108},
        {"registers": 60, "shared": 1024},
        {"loads": {128: 4, 64: 1}},
        {"config": "32×64 w4 s2"},
        {"case": "a shape that is not in the snapshot", "spills": 8},
    ],
)
def test_what_is_no_worse_passes(changes):
    assert BEFORE.worse([changed(**changes)]) == []


def test_what_could_not_be_compiled_before_may_fail_again():
    before = Snapshot(inspection_snapshot.digest([changed(error="no")]))
    assert before.worse([changed(error="still no"), GOOD]) == [
        inspection_snapshot.Worse("op", "a case", "kernel key #2", "sm90", ["not in the snapshot"])
    ]
    assert before.worse([GOOD]) == []


def test_a_file_comes_back_as_it_was_and_what_was_compiled_anew_takes_the_place_of_the_old(tmp_path):
    other = changed(case="another case", registers=50)
    path = tmp_path / "snapshot.json"
    twice = Snapshot().replaced([GOOD, changed(registers=90), other], {"op": ["a case", "another case"]})
    path.write_text(twice.text(), encoding="utf-8")
    again = Snapshot.read(path)
    assert again.entries == twice.entries
    assert set(json.loads(path.read_text())["kernels"]["op"]["a case"]) == {"kernel key", "kernel key #2"}
    anew = again.replaced([changed(registers=80)], {"op": ["a case"]})
    assert {key: entry[1] for key, entry in anew.entries.items()} == {("op", "a case", "kernel key", "sm90"): 80}


@pytest.mark.parametrize("text", ["no JSON", "[]", '{"fields": ["registers"], "kernels": {}, "versions": {}}'])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="no snapshot"):
        Snapshot.read(path)


def test_the_committed_snapshot_has_every_op_on_every_chip():
    committed = Snapshot.read(SNAPSHOT)
    there = {(op, target) for op, _, _, target in committed.entries}
    assert there == {(op, target) for op in inspection.OPS for target in inspection.TARGETS}
    known = {op: set(inspection.op_cases(op)) for op in inspection.OPS}
    assert [key for key in committed.entries if key[1] not in known[key[0]]] == []
    assert [
        key for key, entry in committed.entries.items() if len(entry) not in (1, len(inspection_snapshot.FIELDS))
    ] == []
