"""Where ganfuse keeps what it can make or fetch again."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder(*parts: str) -> Path:
    """A folder, not made here, of ``$GANFUSE_CACHE``, else ``$XDG_CACHE_HOME/ganfuse``, else ``~/.cache/ganfuse``."""
    if chosen := os.environ.get("GANFUSE_CACHE"):
        return Path(chosen).expanduser().joinpath(*parts)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").joinpath("ganfuse", *parts)
