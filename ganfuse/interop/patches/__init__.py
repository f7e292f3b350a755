"""One-line patches: other codebases' layers, in place, on ganfuse's kernels.

`entry` has the public functions; `models` goes through a model, with a file for each thing that it finds: `norms` and
`codebase_norms`, `attention`, `spectral` and `torch_spectral`, `containers` (over `tracing` and `convolutions`);
`functions` and `style_ops` replace functions of modules, `classes` patches what is built of a module's classes.
"""

from ganfuse.interop.patches.entry import patch as patch
from ganfuse.interop.patches.entry import unpatch as unpatch
from ganfuse.interop.patches.report import Left as Left
from ganfuse.interop.patches.report import PatchError as PatchError
from ganfuse.interop.patches.report import PatchReport as PatchReport
from ganfuse.interop.patches.report import Replaced as Replaced

__all__ = ["Left", "PatchError", "PatchReport", "Replaced", "patch", "unpatch"]
