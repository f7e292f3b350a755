"""The measurement of the trainer's overhead, on few steps."""

import json
import time

import pytest
import torch

from benchmarks import trainer_overhead


def test_nested_calls_count_once():
    watch = trainer_overhead.Stopwatch(torch.device("cpu"))
    inner = watch.wrap(lambda: time.sleep(0.01))

    def both():
        inner()
        time.sleep(0.01)

    watch.wrap(both)()
    assert watch.seconds == pytest.approx(0.02, abs=0.015)


def test_writes_a_share(tmp_path, capsys):
    trainer_overhead.main(
        ["--steps", "2", "--width", "4", "--batch-size", "4", "--out", str(tmp_path), "--device", "cpu"]
    )
    (file,) = tmp_path.iterdir()
    header, row = [json.loads(line) for line in file.read_text().splitlines()]
    assert header["benchmark"] == "trainer-overhead"
    assert 0.0 < row["overhead_share"] < 1.0
    assert row["work_ms"] < row["step_ms"]
    assert "overhead" in capsys.readouterr().out
