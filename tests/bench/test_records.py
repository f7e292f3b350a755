import json

import pytest
import torch

from ganfuse.bench import records


@pytest.fixture
def about():
    return records.header("attention", torch.device("cpu"), "python benchmarks/attention.py")


def test_the_first_line_says_what_was_measured_on(tmp_path, about):
    path = tmp_path / "new" / "results.jsonl"
    records.ResultFile(path, about)
    first = json.loads(path.read_text().splitlines()[0])
    assert first["kind"] == "header"
    assert first["torch"] == torch.__version__
    for key in (*records.IDENTITY, "commit", "date", "command", "python", "threads"):
        assert key in first


def test_a_file_is_continued_without_the_line_that_was_cut_off(tmp_path, about):
    path = tmp_path / "results.jsonl"
    records.ResultFile(path, about).append({"kind": "row", "case": "a", "n": 1})
    with path.open("a") as file:
        file.write('{"kind": "row", "n": ')
    again = records.ResultFile(path, about | {"date": "later"})
    assert again.rows() == [{"kind": "row", "case": "a", "n": 1}]
    again.append({"kind": "row", "case": "a", "n": 2})
    assert [r.get("n") for r in records.read(path)] == [None, 1, 2]


@pytest.mark.parametrize("key", records.IDENTITY)
def test_results_of_another_device_version_or_source_are_not_mixed(tmp_path, about, key):
    path = tmp_path / "results.jsonl"
    records.ResultFile(path, about).append({"kind": "row", "case": "a"})
    with pytest.raises(records.OtherRunError, match=f"{key}.*other.*--restart"):
        records.ResultFile(path, about | {key: "other"})
    assert records.ResultFile(path, about | {key: "other"}, restart=True).rows() == []


def test_the_digest_is_of_the_kernels(tmp_path, monkeypatch):
    kernels = tmp_path / "ganfuse" / "kernels"
    kernels.mkdir(parents=True)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    (kernels / "a.py").write_text("1")
    before = records.source_digest()
    (kernels / "notes.txt").write_text("not code")
    assert records.source_digest() == before
    (kernels / "tiles.json").write_text("{}")
    assert records.source_digest() != before


def test_rows_carry_what_their_case_says(tmp_path, about):
    file = records.ResultFile(tmp_path / "results.jsonl", about)
    file.append({"kind": "case", "case": "a", "shape": {"d": 8}})
    file.append({"kind": "row", "case": "a", "ms": 1.23456789, "errors": {"x": 1e-7 / 3}})
    assert file.rows() == [{"kind": "row", "case": "a", "shape": {"d": 8}, "ms": 1.235, "errors": {"x": 3.333e-8}}]
    assert records.joined_rows(records.read(file.path)) == file.rows()


def test_numbers_that_json_does_not_have_are_refused(tmp_path, about):
    file = records.ResultFile(tmp_path / "results.jsonl", about)
    with pytest.raises(ValueError, match="JSON"):
        file.append({"kind": "row", "ms": float("nan")})
