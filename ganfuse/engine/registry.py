"""Names of games to the functions that build them, so that a run folder can be turned back into a game.

The engine imports no model. Packages of models announce themselves by their module's name with `register_source`;
that module is imported when a name is first looked up, and calls `register` for each game that it offers.
"""

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganfuse.engine.game import Game

__all__ = ["create", "names", "register", "register_source"]

Builder = Callable[..., "Game"]

_builders: dict[str, Builder] = {}
_sources: list[str] = []


def register(name: str, builder: Builder) -> None:
    """Makes `create(name, **config)` call `builder(**config)`.

    Raises:
        ValueError: the name is already taken by another function.
    """
    known = _builders.get(name)
    if known is not None and _identity(known) != _identity(builder):
        raise ValueError(f"name: the game {name!r} is already registered, by {known.__module__}.{known.__qualname__}")
    _builders[name] = builder


def register_source(module: str) -> None:
    """Announces a module, by its name, whose import registers games. It is imported at the first look-up."""
    if module not in _sources:
        _sources.append(module)


def names() -> list[str]:
    """The names of all games that can be created, sorted."""
    _import_sources()
    return sorted(_builders)


def create(name: str, **config: Any) -> "Game":
    """Builds a game by its name.

    Raises:
        ValueError: no game has that name; or the builder refused the configuration.
    """
    _import_sources()
    if name not in _builders:
        near = difflib.get_close_matches(name, _builders, n=3)
        hint = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else f"known names: {', '.join(names()) or 'none'}"
        )
        raise ValueError(f"name: there is no game called {name!r}; {hint}")
    return _builders[name](**config)


def _import_sources() -> None:
    for module in _sources:
        importlib.import_module(module)


def _identity(builder: Builder) -> tuple[str, str]:
    # Not `is`: a module that is reloaded registers new function objects for the same names.
    return builder.__module__, builder.__qualname__
