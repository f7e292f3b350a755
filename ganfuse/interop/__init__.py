"""Into existing work: other codebases' checkpoints as networks and games of ganfuse, and their code on its kernels."""

from ganfuse.interop.export import ExportError as ExportError
from ganfuse.interop.export import export_onnx as export_onnx
from ganfuse.interop.export import export_program as export_program
from ganfuse.interop.export import exportable_parts as exportable_parts
from ganfuse.interop.games import load_game as load_game
from ganfuse.interop.games import write_run as write_run
from ganfuse.interop.hub import from_pretrained as from_pretrained
from ganfuse.interop.hub import push_to_hub as push_to_hub
from ganfuse.interop.hub import save_pretrained as save_pretrained
from ganfuse.interop.importing import load as load
from ganfuse.interop.importing import source_info as source_info
from ganfuse.interop.importing import sources as sources
from ganfuse.interop.patches import PatchError as PatchError
from ganfuse.interop.patches import PatchReport as PatchReport
from ganfuse.interop.patches import patch as patch
from ganfuse.interop.patches import unpatch as unpatch

__all__ = [
    "ExportError",
    "PatchError",
    "PatchReport",
    "export_onnx",
    "export_program",
    "exportable_parts",
    "from_pretrained",
    "load",
    "load_game",
    "patch",
    "push_to_hub",
    "save_pretrained",
    "source_info",
    "sources",
    "unpatch",
    "write_run",
]
