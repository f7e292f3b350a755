"""Into existing work: other codebases' checkpoints as networks of ganfuse."""

from ganfuse.interop.importing import load as load
from ganfuse.interop.importing import sources as sources

__all__ = ["load", "sources"]
