"""Into existing work: other codebases' checkpoints as networks and games of ganfuse."""

from ganfuse.interop.games import load_game as load_game
from ganfuse.interop.games import write_run as write_run
from ganfuse.interop.importing import load as load
from ganfuse.interop.importing import source_info as source_info
from ganfuse.interop.importing import sources as sources

__all__ = ["load", "load_game", "source_info", "sources", "write_run"]
