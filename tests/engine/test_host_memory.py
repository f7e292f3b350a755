"""Freed memory that stays with a process: looked for in a process of its own, whose size is read."""

import os
import platform
import subprocess
import sys

import pytest

from ganfuse.engine import host_memory

GLIBC = platform.libc_ver()[0] == "glibc"
SCRIPT = """
import resource
import torch
from ganfuse.engine import host_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def step():
    return [torch.ones(20 * 2**18) for _ in range(10)]  # 20 MiB each

print(host_memory.keep_freed_memory())
step()
before = faults()
for _ in range(5):
    step()
print((faults() - before) / 5)
"""
PAGES = 200 * 2**20 // 4096


def _run(**environment: str) -> tuple[bool, float]:
    """What the function said, and how many pages a step of 200 MiB got from the system that it had had before."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))} | environment
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True, timeout=120
    )
    said, pages = done.stdout.splitlines()
    return said == "True", float(pages)


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_memory_is_kept():
    said, pages = _run()
    assert said
    assert pages < 0.3 * PAGES


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_where_the_environment_hands_memory_back_it_is_not():
    said, pages = _run(MALLOC_MMAP_THRESHOLD_="131072")
    assert not said
    # Fewer faults than pages where the system has large ones.
    assert pages > 50


@pytest.mark.parametrize(
    "environment",
    [{"MALLOC_TRIM_THRESHOLD_": "1000"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=1000"}],
    ids=lambda environment: next(iter(environment)),
)
def test_settings_of_the_environment_stand(environment, monkeypatch):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(host_memory, "_set_thresholds", lambda trim: pytest.fail("set all the same"))
    assert not host_memory.keep_freed_memory()
    assert not host_memory.hand_back_memory()


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert not host_memory.keep_freed_memory()
