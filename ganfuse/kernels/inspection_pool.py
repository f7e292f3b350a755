"""Inspecting many kernels, in processes of their own: a compiler that aborts takes down one job, not the caller.

python -m ganfuse.kernels.inspection_pool     # a worker: one "op<TAB>case<TAB>target" a line in, JSON out
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TextIO, cast

from ganfuse.kernels.inspection import Report, inspect_case

Job = tuple[str, str, str]


def inspect_jobs(jobs: Sequence[Job], *, workers: int | None = None) -> Iterator[list[Report]]:
    """Reports of (op, case, target) jobs, as they are done.

    Args:
        workers: processes at a time; None: one per CPU core.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    done: queue.SimpleQueue[list[Report]] = queue.SimpleQueue()
    count = min(len(jobs), workers or os.cpu_count() or 1)
    for _ in range(count):
        threading.Thread(target=_serve, args=(waiting, done), daemon=True).start()
    for _ in jobs:
        yield done.get()


def _start() -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def _serve(waiting: "queue.SimpleQueue[Job]", done: "queue.SimpleQueue[list[Report]]") -> None:
    worker = _start()
    while True:
        try:
            job = waiting.get_nowait()
        except queue.Empty:
            break
        line = _ask(worker, job)
        if line:
            done.put([_report(fields) for fields in json.loads(line)])
        else:
            code = worker.wait()
            done.put([Report(*job, kernel="", error=f"the compiler ended its process with exit code {code}")])
            worker = _start()
    cast(TextIO, worker.stdin).close()
    worker.wait()


def _ask(worker: "subprocess.Popen[str]", job: Job) -> str:
    try:
        pipe = cast(TextIO, worker.stdin)
        pipe.write("\t".join(job) + "\n")
        pipe.flush()
    except BrokenPipeError:
        return ""
    return cast(TextIO, worker.stdout).readline()


def _report(fields: dict[str, object]) -> Report:
    # JSON has no integer keys.
    for name in ("loads", "stores"):
        fields[name] = {int(k): v for k, v in cast(dict[str, int], fields[name]).items()}
    return Report(**fields)  # type: ignore[arg-type]


def _work() -> None:
    for line in sys.stdin:
        op, case, target = line.rstrip("\n").split("\t")
        try:
            reports = inspect_case(op, case, target)
        except Exception as error:
            reports = [Report(op, case, target, kernel="", error=f"{type(error).__name__}: {error}")]
        print(json.dumps([asdict(report) for report in reports]), flush=True)


if __name__ == "__main__":
    _work()
