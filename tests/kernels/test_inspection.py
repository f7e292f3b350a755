"""Compiling without a GPU: that the inspection sees what is wrong, and survives a compiler that dies."""

import pytest
import torch

pytest.importorskip("triton")

from ganfuse.kernels import inspection, inspection_pool
from ganfuse.kernels.launch import launch, record_launches, target_of

pytestmark = pytest.mark.compiled


def _report(**changes):
    good = {
        "registers": 100,
        "shared": 1024,
        "shared_limit": 99 * 1024,
        "matrix_instruction": "HMMA",
        "loads": {128: 4, 32: 1},
        "stores": {128: 2},
    }
    return inspection.Report("op", "case", "sm89", "kernel", **{**good, **changes})


def test_a_good_kernel_has_no_problems():
    assert inspection.problems(_report()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spills": 8}, "spills 8"),
        ({"shared": 100 * 1024}, "shared memory 102400 over 101376"),
        ({"tensor_memory": 1024}, "tensor memory 1024 over 512 columns"),
        ({"matrix_instruction": ""}, "no tensor-core instruction"),
        ({"loads": {128: 4, 16: 8}}, "scalar loads of half types"),
        ({"loads": {64: 4}}, "widest load 64 bits"),
        ({"stores": {32: 4}}, "widest store 32 bits"),
        ({"error": "CompilationError: no"}, "CompilationError: no"),
    ],
)
def test_each_defect_is_named(changes, said):
    assert inspection.problems(_report(**changes)) == [said]


def test_narrow_accesses_are_fine_where_addresses_allow_no_more():
    assert inspection.problems(_report(loads={64: 4}, stores={64: 2}, alignment=64)) == []


def test_launches_are_recorded_and_not_run():
    def kernel(*args, **constants):
        raise AssertionError("a recorded kernel must not run")

    with record_launches("sm90") as launches:
        assert target_of(torch.device("cpu")) == "sm90"
        launch(kernel, (2, 1), torch.device("cpu"), [1, 2.0], {"BLOCK": 16}, num_warps=8, num_stages=2)
    (recorded,) = launches
    assert recorded.grid == (2, 1)
    assert recorded.args == (1, 2.0)
    assert recorded.constants == {"BLOCK": 16}
    assert (recorded.num_warps, recorded.num_stages) == (8, 2)


def test_a_job_that_fails_is_reported_and_the_next_one_runs():
    jobs = [("feature_attention", "no such case", "sm80"), ("feature_attention", "(8,32) nhwc", "sm80")]
    reports = {some[0].case: some for some in inspection_pool.inspect_jobs(jobs, workers=1)}
    assert "KeyError" in reports["no such case"][0].error
    good = reports["(8,32) nhwc"]
    assert {report.kernel for report in good} >= {"attention_forward", "attention_backward_query"}
    assert all(report.registers > 0 for report in good)


def test_a_compiler_that_aborts_takes_down_one_job(monkeypatch):
    # The worker of the first job ends at once, as an aborting compiler would make it; the second gets a new one.
    start, started = inspection_pool._start, []

    def start_badly_once():
        worker = start()
        if not started:
            worker.kill()
            worker.wait()
        started.append(worker)
        return worker

    monkeypatch.setattr(inspection_pool, "_start", start_badly_once)
    jobs = [("feature_attention", "(8,32) nhwc", "sm80"), ("feature_attention", "nothing", "sm80")]
    errors = [some[0].error for some in inspection_pool.inspect_jobs(jobs, workers=1)]
    assert "exit code -9" in errors[0]
    assert "KeyError" in errors[1]
    assert len(started) == 2
