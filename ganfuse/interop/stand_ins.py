"""Inert classes in place of those whose objects training scripts save beside their weights.

Settings and statistics of a training are no business of an importer, but a file that has them could not be read at all
with ``weights_only=True``. An object of one of these classes keeps what it was made of and does nothing. Every other
class is refused as before.
"""

from typing import Any

__all__ = ["STAND_INS"]


class _Inert:
    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _stand_in(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return type(name, (_Inert,), {"__module__": module, "__qualname__": name})


#: For `torch.serialization.safe_globals`, which looks classes up by their full names.
STAND_INS = [
    _stand_in(path)
    for path in (
        # The command line, of stylegan2-pytorch.
        "argparse.Namespace",
        # pytorch_GAN_zoo's settings.
        "models.utils.config.BaseConfig",
        # Single numbers, such as the best FID so far.
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "numpy.dtypes.Float32DType",
        "numpy.dtypes.Float64DType",
        "numpy.dtypes.Int64DType",
    )
]
