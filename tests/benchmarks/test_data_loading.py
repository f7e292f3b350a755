"""The benchmark of data loading, at a size at which its numbers mean nothing."""

from pathlib import Path

import pytest
import torch

from benchmarks import data_loading
from ganfuse.bench import records


def test_measures_every_form_and_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "rows.jsonl"
    arguments = ["--images", "6", "--source-size", "32", "--resolution", "16", "--batch-size", "2"]
    arguments += ["--rounds", "2", "--seconds", "0.001", "--out", str(out)]
    assert data_loading.main([*arguments, "--workers", "0"]) == 0
    rows = [row for row in records.read(out) if row["kind"] == "row"]
    assert [row["form"] for row in rows] == list(data_loading.FORMS)
    assert all(row["images_per_second"] > 0 for row in rows)
    assert "| packed | 6 of 32 px | 16 px | 0 |" in capsys.readouterr().out
    before = out.read_bytes()
    assert data_loading.main([*arguments, "--workers", "0"]) == 0
    assert out.read_bytes() == before
    assert data_loading.main(["--report", str(out)]) == 0
    with pytest.raises(SystemExit):
        data_loading.main([*arguments, "--batch-size", "7"])


def test_forms_that_differ_are_not_timed(tmp_path: Path) -> None:
    settings = data_loading.Settings(images=3, source_size=24, resolution=8, batch_size=1)
    sources = data_loading.make_sources(tmp_path, settings)
    data_loading.check_equal(sources)
    images = sources["in memory"].images
    assert images is not None
    images.copy_(255 - images.to(torch.int16))
    with pytest.raises(AssertionError, match="image 0 of in memory differs from that of the folder of PNG"):
        data_loading.check_equal(sources)


def test_workers_stay_for_all_rounds(tmp_path: Path) -> None:
    settings = data_loading.Settings(images=4, source_size=24, resolution=8, batch_size=2)
    sources = {"packed": data_loading.make_sources(tmp_path, settings)["packed"]}
    rows = list(data_loading.measure_all(sources, settings, 1, rounds=2, seconds=0.001))
    assert [(row["form"], row["workers"]) for row in rows] == [("packed", 1)]
