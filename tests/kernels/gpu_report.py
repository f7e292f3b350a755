"""The outcomes of the tests marked ``gpu``, as a JSON file that can be committed beside benchmark results."""

import importlib.metadata
import json
import platform
import time
from pathlib import Path
from typing import Any

import pytest
import torch


def _device() -> dict[str, Any]:
    try:
        triton = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        triton = None
    facts: dict[str, Any] = {
        "device": None,
        "torch": torch.__version__,
        "triton": triton,
        "cuda": torch.version.cuda or torch.version.hip,
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        facts["device"] = torch.cuda.get_device_name()
        facts["capability"] = list(torch.cuda.get_device_capability())
    return facts


class GpuReport:
    """A pytest plugin that gathers outcomes and writes them when the session ends."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.tests: dict[str, dict[str, Any]] = {}
        self.started = time.time()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if "gpu" not in report.keywords:
            return
        test = self.tests.setdefault(report.nodeid, {"name": report.nodeid, "outcome": "passed", "seconds": 0.0})
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        if hasattr(report, "wasxfail"):
            test["outcome"] = "xpassed" if report.passed else "xfailed"
            test["message"] = report.wasxfail
        elif report.skipped:
            test["outcome"] = "skipped"
            test["message"] = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        elif report.failed:
            test["outcome"] = "failed" if report.when == "call" else "error"
            crash = getattr(report.longrepr, "reprcrash", None)
            test["message"] = (crash.message if crash is not None else report.longreprtext)[-2000:]

    def pytest_sessionfinish(self) -> None:
        counts: dict[str, int] = {}
        for test in self.tests.values():
            counts[test["outcome"]] = counts.get(test["outcome"], 0) + 1
        seconds = round(time.time() - self.started, 1)
        content = {**_device(), "counts": counts, "seconds": seconds, "tests": list(self.tests.values())}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(content, indent=2) + "\n")
