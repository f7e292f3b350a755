"""Patching classes of a codebase's module: what is built of them is patched when it is first called."""

import contextlib
import weakref
from collections.abc import Callable, Collection, Iterator
from types import ModuleType
from typing import Any

from torch import nn

from ganfuse.interop.patches.models import Session, is_patched, unpatch_model
from ganfuse.interop.patches.swapping import Patched

__all__ = ["PatchedClasses"]


class PatchedClasses:
    """The layers' classes of some modules, whose forward looks at an instance before it runs for the first time.

    The first to be called is patched as a whole model, with all that is in it.

    Attributes:
        roots: what was patched so.
    """

    def __init__(self, modules: Collection[ModuleType], session: Session, leave: Collection[str]) -> None:
        self.session = session
        self.roots: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._seen: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._originals: dict[type[nn.Module], Callable[..., Any]] = {}
        self._looks: dict[type[nn.Module], Callable[..., Any]] = {}
        names = {module.__name__ for module in modules}
        for module in modules:
            for name, kind in list(vars(module).items()):
                own = vars(kind).get("forward") if isinstance(kind, type) and issubclass(kind, nn.Module) else None
                if own is not None and kind.__module__ in names and name not in leave:
                    self._originals[kind] = own
                    self._looks[kind] = self._looking(kind, own)
        self._set(self._looks)

    @property
    def classes(self) -> list[type[nn.Module]]:
        """Those that look."""
        return list(self._originals)

    def undo(self) -> None:
        """Put the forwards back, and unpatch what was called since."""
        self._set(self._originals)
        for root in self.roots:
            unpatch_model(root)

    def _set(self, forwards: dict[type[nn.Module], Callable[..., Any]]) -> None:
        for kind, forward in forwards.items():
            kind.forward = forward

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Inside, the classes have the forwards that they were written with."""
        self._set(self._originals)
        try:
            yield
        finally:
            self._set(self._looks)

    def _looking(self, kind: type[nn.Module], own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            # DataParallel makes its replicas anew for each call.
            if type(module) is kind and module not in self._seen and not getattr(module, "_is_replica", False):
                self._seen.update(module.modules())
                with self._paused():
                    if not is_patched(module):
                        self.session.patch_model(module, kind.__name__)
                        self.roots.add(module)
                if isinstance(module, Patched):
                    return module.forward(*args, **kwargs)
            return own(module, *args, **kwargs)

        return forward
