"""The check at the first use: a replacement beside what it stands for, on the call's own inputs."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ganfuse.interop.patches.comparing import compare, copied, released
from ganfuse.interop.patches.report import PatchError
from ganfuse.interop.patches.swapping import Site, adopt, release, site_of

__all__ = ["adopt_checked", "checked_methods", "fail"]

_log = logging.getLogger("ganfuse")


def adopt_checked(module: nn.Module, methods: Mapping[str, Callable[..., Any]], site: Site) -> None:
    """`swapping.adopt`, with methods that check themselves at their first call if the site says so."""
    adopt(module, checked_methods(methods) if site.check else methods, site)


def checked_methods(methods: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Methods that are compared at their first call with those of the original class."""
    return {name: _checked(name, method) for name, method in methods.items()}


def _checked(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def first_checked(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        site = site_of(self)
        if site is not None and site.check:
            how, site.check = site.check, ""
            # The module's own call is under way, so this is of the method alone: hooks to it run once.
            wrong = compare(released(self), copied(self), args, kwargs, call=name)
            if wrong is not None:
                release(self)
                site.report.withdraw(site.entries, fail(site.where, wrong, how))
                return getattr(self, name)(*args, **kwargs)
        return method(self, *args, **kwargs)

    return first_checked


def fail(where: str, wrong: str, how: str) -> str:
    """The reason for the report, after a warning; with ``how="raise"`` PatchError."""
    message = f"{where}: the replacement computes something else than the original ({wrong})"
    if how == "raise":
        raise PatchError(f"{message}; unpatch, or patch with check=True to leave it as it was")
    _log.warning("%s; left as it was", message)
    return f"it computed something else at its first use ({wrong})"
