"""One file from the first of several addresses that has it: checked, and written so that no half file ever stays."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from ganfuse.engine.atomic_file import atomic_write
from ganfuse.engine.data.progress import progress_bar

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = 30


class DownloadError(OSError):
    """No address gave the file; the message has each one's reason."""


def download(urls: Sequence[str], target: Path, *, check: Callable[[bytes], str | None]) -> None:
    """Fetches a file of moderate size (it is held in memory) to ``target``.

    Args:
        urls: tried in turn.
        target: written under a temporary name in the same folder, then renamed. Its folder is made.
        check: gets the content; returns what is wrong with it, or None.

    Raises:
        DownloadError: none of the addresses gave a file that passes ``check``.
        OSError: the folder cannot be written.
    """
    failures = []
    for url in urls:
        try:
            content = _read(url, target.name)
        except (urllib.error.URLError, OSError, ValueError) as error:
            failures.append(f"{url}: {getattr(error, 'reason', None) or error}")
            continue
        problem = check(content)
        if problem is None:
            with atomic_write(target) as file:
                file.write(content)
            return
        failures.append(f"{url}: {problem}")
    raise DownloadError(f"could not download {target.name}: " + "; ".join(failures))


def sha256_problem(content: bytes, expected: str) -> str | None:
    """What is wrong with ``content`` if its SHA-256 is not ``expected``, else None."""
    found = hashlib.sha256(content).hexdigest()
    return None if found == expected else f"SHA-256 is {found}, expected {expected} (damaged, or another file)"


def _read(url: str, name: str) -> bytes:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
        size = int(response.headers.get("Content-Length") or 0)
        chunks = []
        with progress_bar(f"Downloading {name}", size, of_bytes=True) as advance:
            while chunk := response.read(_CHUNK):
                chunks.append(chunk)
                advance(len(chunk))
    content = b"".join(chunks)
    if size and len(content) != size:
        raise OSError(f"the connection ended after {len(content):,} of {size:,} bytes")
    return content
