"""What every test runs under: seeds, one thread, poisoned memory, and skips that say why."""

import importlib.util
import random

import pytest
import torch

from ganfuse.kernels.backend import INTERPRETED, current_backend, use_backend
from tests.kernels.gpu_report import GpuReport
from tests.kernels.poison import poisoned_allocations

# What only the upper floors need; a machine lent for GPU tests may have PyTorch, Triton and pytest alone.
_UPPER_FLOORS = ("PIL", "safetensors", "yaml", "typer", "rich")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu-report", metavar="FILE", help="write the outcomes of the GPU tests to FILE as JSON")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)
    path = config.getoption("--gpu-report")
    # Under xdist the workers' outcomes arrive at the controller, which alone writes.
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(GpuReport(path), "gpu-report")


def _missing() -> list[str]:
    return [name for name in _UPPER_FLOORS if importlib.util.find_spec(name) is None]


def _kernels_only(config: pytest.Config) -> bool:
    return config.getoption("markexpr") == "gpu" and bool(_missing())


def pytest_report_header(config: pytest.Config) -> str | None:
    if _kernels_only(config):
        return f"GPU tests of tests/kernels only: {', '.join(_missing())} not installed"
    return None


def pytest_ignore_collect(collection_path, config: pytest.Config) -> bool | None:
    if collection_path.is_dir() or not collection_path.name.startswith("test_"):
        return None
    return True if _kernels_only(config) and "kernels" not in collection_path.parts else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_triton = importlib.util.find_spec("triton") is not None
    has_gpu = torch.cuda.is_available()
    for item in items:
        needs = {mark.name for mark in item.iter_markers()}
        reason = None
        if "gpu" in needs and not has_gpu:
            reason = "needs a GPU; torch.cuda.is_available() is False"
        elif needs & {"gpu", "compiled"} and INTERPRETED:
            reason = "compiles kernels, which TRITON_INTERPRET=1 forbids in this process"
        elif "interpreter" in needs and not INTERPRETED:
            reason = "interprets kernels: run it with TRITON_INTERPRET=1 in the environment"
        elif needs & {"gpu", "compiled", "interpreter"} and not has_triton:
            reason = "needs Triton (pip install triton, Linux only)"
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _poisoned_allocations():
    with poisoned_allocations():
        yield


@pytest.fixture(autouse=True)
def _fresh_state():
    """The same seeds for every test, and the backend choice of before after it."""
    torch.manual_seed(0)
    random.seed(0)
    before = current_backend()
    yield
    use_backend(before)
