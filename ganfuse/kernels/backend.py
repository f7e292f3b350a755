"""Which implementation of an op runs.

``"reference"``  the definition in plain PyTorch; runs anywhere, differentiable to any order.
``"eager"``      the fast form in plain PyTorch, where an op has one (CPU).
``"triton"``     our kernels: GPU tensors, or any tensor when the process was started with ``TRITON_INTERPRET=1``.
``"auto"``       triton for GPU tensors where the kernel supports them, else eager, else reference.

The choice is, from weak to strong: the environment variable ``GANFUSE_BACKEND``, `use_backend`, the ``backend=``
argument of a call. It is made once, in the forward, and kept by the backwards of that call.
"""

import difflib
import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import torch

BACKENDS = ("auto", "reference", "eager", "triton")

_log = logging.getLogger("ganfuse")
_already_logged: set[tuple[str, str]] = set()


class BackendUnavailableError(ValueError):
    """A backend was asked for by name where it cannot run; the message says why."""


def _checked(name: str, origin: str) -> str:
    if name not in BACKENDS:
        near = difflib.get_close_matches(str(name), BACKENDS, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"{origin} must be one of {', '.join(map(repr, BACKENDS))}, got {name!r}{hint}")
    return name


# A plain global: reading a ContextVar inside a compiled function breaks Dynamo's graph.
_choice = _checked(os.environ.get("GANFUSE_BACKEND", "auto").strip().lower() or "auto", "GANFUSE_BACKEND")
_recording = False

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")
_TRITON_MISSING = importlib.util.find_spec("triton") is None
# Triton builds its launcher with a C compiler at the first launch, hours into some container's life: look now.
_COMPILER_MISSING = os.environ.get("CC") is None and not any(map(shutil.which, ("cc", "gcc", "clang")))


class use_backend:
    """Choose the backend of all ganfuse ops, from now on or for a ``with`` block.

    Args:
        name: one of ``"auto"``, ``"reference"``, ``"eager"``, ``"triton"``.

    Raises:
        ValueError: for any other name.

    Example::

        ganfuse.use_backend("reference")          # from now on
        with ganfuse.use_backend("triton"):       # in this block
            out = layer(x)
    """

    def __init__(self, name: str) -> None:
        global _choice
        self._previous = _choice
        _choice = _checked(name, "backend")

    def __enter__(self) -> "use_backend":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _choice
        _choice = self._previous


def current_backend() -> str:
    """The name that `use_backend` or ``GANFUSE_BACKEND`` chose last."""
    return _choice


def triton_unavailable(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on tensors of `device` in this process; None where they can."""
    if _TRITON_MISSING:
        return "Triton is not installed (pip install triton, Linux only)"
    if INTERPRETED:
        return None
    if device.type != "cuda":
        return f"Triton kernels need a GPU tensor, or TRITON_INTERPRET=1 in the environment at start; got {device.type}"
    if _COMPILER_MISSING:
        return "Triton needs a C compiler for its launcher (none of cc, gcc, clang on PATH, and CC is not set)"
    if torch.version.hip is None and torch.cuda.get_device_properties(device).major < 8:
        return "the kernels are built for compute capability 8.0 or newer"
    return None


@contextmanager
def recording_export() -> Iterator[None]:
    """Inside, ops take the form for graphs that leave Python. For exporters of PyTorch versions that do not tell."""
    global _recording
    before, _recording = _recording, True
    try:
        yield
    finally:
        _recording = before


def exporting() -> bool:
    """Whether the call is being recorded by `torch.export`, or by what traces for TorchScript and ONNX."""
    told = getattr(torch.compiler, "is_exporting", None)
    tracing = bool(torch.jit.is_tracing())  # type: ignore[no-untyped-call]
    return _recording or (told is not None and bool(told())) or tracing


def resolve_backend(
    op: str,
    requested: str | None,
    device: torch.device,
    *,
    triton: Callable[[], str | None],
    eager: Callable[[], str | None] | None = None,
) -> str:
    """The backend that a call of `op` takes: ``"reference"``, ``"eager"`` or ``"triton"``.

    Args:
        op: name for messages.
        requested: the call's ``backend=`` argument; None follows `use_backend`.
        device: of the inputs.
        triton: gives the reason why the op's kernels do not take this call's shapes and types, or None.
        eager: likewise for its eager form; None if the op has none.

    Raises:
        BackendUnavailableError: ``"triton"`` or ``"eager"`` was asked for and cannot run.
        ValueError: unknown name.
    """
    name = _choice if requested is None else _checked(requested, "backend")
    if name == "reference" or exporting():
        return "reference"
    if name == "triton":
        reason = triton_unavailable(device) or triton()
        if reason is not None:
            raise BackendUnavailableError(f"{op}: backend 'triton' cannot run here: {reason}")
        return "triton"
    if name == "auto" and device.type == "cuda":
        reason = triton_unavailable(device) or triton()
        if reason is None:
            return "triton"
        if not torch.compiler.is_compiling():
            _log_fallback(op, reason)
    no_eager = "the op has no eager form" if eager is None else eager()
    if no_eager is None:
        return "eager"
    if name == "eager":
        raise BackendUnavailableError(f"{op}: backend 'eager' cannot run here: {no_eager}")
    return "reference"


def resolve_native_backend(op: str, requested: str | None) -> str:
    """``"reference"`` or ``"eager"``, for an op that is made of PyTorch's own kernels and has none in Triton.

    Args:
        op: name for messages.
        requested: the call's ``backend=`` argument; None follows `use_backend`, where ``"triton"`` means kernels for
            the ops that have them.

    Raises:
        BackendUnavailableError: the call asks for ``"triton"``.
        ValueError: unknown name.
    """
    if requested == "triton":
        raise BackendUnavailableError(
            f"{op}: backend 'triton' cannot run here: the op is made of PyTorch's convolutions and has no kernels"
        )
    name = _choice if requested is None else _checked(requested, "backend")
    return "reference" if name == "reference" or exporting() else "eager"


def _log_fallback(op: str, reason: str) -> None:
    if (op, reason) not in _already_logged:
        _already_logged.add((op, reason))
        _log.warning("%s: falling back to plain PyTorch on a GPU tensor: %s", op, reason)
