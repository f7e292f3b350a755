"""Result files: JSON lines, the first of which says what was measured on. Whatever is in the file is complete.

Every line is written and flushed when it is known, so that a run that is stopped loses what it was doing and no more;
the next one with the same command goes on where it stopped. It refuses to if the device, the versions or the kernels'
source are others.
"""

import datetime
import hashlib
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

# Of the checkout, or the folder that the package is installed in.
ROOT = Path(__file__).resolve().parents[2]
# A file is continued only where all of these are the same.
IDENTITY = ("benchmark", "device", "torch", "triton", "source")


class OtherRunError(ValueError):
    """The file holds results of another device, version or source."""


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with the number of threads that PyTorch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{model}, {torch.get_num_threads()} threads"


def result_path(out: Path, benchmark: str, device: torch.device) -> Path:
    """Where results go: `out` itself if it is a .jsonl file, else a file in that folder, named after the device."""
    if out.suffix == ".jsonl":
        return out
    slug = "cpu" if device.type == "cpu" else re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower())
    return out / f"{benchmark}-{slug.strip('-')}.jsonl"


def source_digest(folder: str = "kernels") -> str:
    """Short hash of everything under ganfuse/`folder`: what the numbers are numbers of."""
    digest = hashlib.sha256()
    root = ROOT / "ganfuse" / folder
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".json"):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def commit() -> str:
    """The commit checked out, ``+`` behind it if files differ from it; ``GANFUSE_COMMIT`` where there is no git."""
    try:
        # An environment may lie within somebody else's checkout, whose commit says nothing about us.
        command = ["git", "-C", str(ROOT), "ls-files", "--error-unmatch", "ganfuse/version.py"]
        subprocess.run(command, capture_output=True, text=True, check=True)
        command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        head = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        command = ["git", "-C", str(ROOT), "status", "--porcelain"]
        changed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        return head + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GANFUSE_COMMIT", "unknown")


def header(benchmark: str, device: torch.device, command: str, *, folder: str = "kernels") -> dict[str, Any]:
    """The first line of a result file; `folder` of ganfuse holds what is measured."""
    cpu_clock = "process" if torch.get_num_threads() == 1 else "wall"
    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    about: dict[str, Any] = {
        "kind": "header",
        "benchmark": benchmark,
        "device": device_name(device),
        "torch": torch.__version__,
        "triton": triton_version,
        "python": platform.python_version(),
        "commit": commit(),
        "source": source_digest(folder),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        about |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "l2_bytes": properties.L2_cache_size,
            "memory_bytes": properties.total_memory,
        }
    else:
        about |= {
            "threads": torch.get_num_threads(),
            "clock": cpu_clock,
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
    return about


def joined_rows(all_records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measured rows, each with what the line of its case says."""
    cases = {record["case"]: record for record in all_records if record["kind"] == "case"}
    return [cases.get(record.get("case"), {}) | record for record in all_records if record["kind"] == "row"]


def rounded(value: Any, digits: int = 4) -> Any:
    """`value` with its floats, however deep, cut to significant digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(part, digits) for key, part in value.items()}
    return [rounded(part, digits) for part in value] if isinstance(value, list) else value


def read(path: Path) -> list[dict[str, Any]]:
    """All complete lines of a result file."""
    return list(_lines(path.read_bytes()))


def _lines(content: bytes) -> Iterator[dict[str, Any]]:
    for line in content.split(b"\n")[:-1]:
        if line.strip():
            yield json.loads(line)


class ResultFile:
    """A result file, new or continued.

    Args:
        path: of the file; its folder is made.
        about: from `header`.
        restart: begin anew whatever is there.

    Raises:
        OtherRunError: the file is there and holds results of something else.
    """

    def __init__(self, path: Path, about: dict[str, Any], *, restart: bool = False) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if restart or not path.exists():
            path.write_bytes(b"")
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:
            # The line that a killed run was writing.
            path.write_bytes(complete)
        self.records = list(_lines(complete))
        if not self.records:
            self.append(about)
            return
        first = self.records[0]
        others = [f"{k} {first.get(k)!r} there, {about[k]!r} now" for k in IDENTITY if first.get(k) != about[k]]
        if others:
            raise OtherRunError(
                f"{path} holds another run's results ({'; '.join(others)}): --restart, or another --out"
            )

    def append(self, record: dict[str, Any]) -> None:
        """Write one line, for good."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded(record), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(rounded(record))

    def rows(self) -> list[dict[str, Any]]:
        """The measured rows, each with what the line of its case says."""
        return joined_rows(self.records)
