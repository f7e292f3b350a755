"""Files that appear when they are whole and checked."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["staged"]


@contextmanager
def staged(target: Path, overwrite: bool) -> Iterator[Path]:
    """A path of the same name in a new folder beside, whose files move to the target's folder when the block ends.

    If it raises, they are removed. (A graph with more than 2 GB of weights is two files that know each other's names.)

    Raises:
        FileExistsError: the target is there, and is not to be replaced, or is a folder.
    """
    if target.is_dir():
        raise FileExistsError(f"path: {target} is a folder, expected the name of a file")
    if target.exists() and not overwrite:
        raise FileExistsError(f"path: {target} is already there; overwrite=True (--overwrite) replaces it")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder / target.name
        # What the file refers to first.
        for file in sorted(folder.iterdir(), key=lambda file: file.name == target.name):
            file.chmod(_permissions())
            os.replace(file, target.with_name(file.name))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _permissions() -> int:
    """Those of a new file of this process. Some libraries make files that only their owner reads."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
