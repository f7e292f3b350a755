"""The backends of an op, of which Triton is imported by who launches."""

import importlib
from typing import Any

from ganfuse.kernels.autograd import Implementation


class LazyImplementations(dict[str, Implementation]):
    """Implementations by backend; Triton's is looked for when it is first asked for.

    Importing Triton costs half a second, and is impossible on some machines.

    Args:
        package: of the op; its module ``triton`` has an ``IMPLEMENTATION``.
        **others: what is there from the start.
    """

    def __init__(self, package: str, **others: Implementation) -> None:
        super().__init__(others)
        self._package = package

    def __missing__(self, backend: str) -> Implementation:
        if backend != "triton":
            raise KeyError(backend)
        module: Any = importlib.import_module(f"{self._package}.triton")
        self[backend] = module.IMPLEMENTATION
        return self[backend]
