"""Models by name: plain functions, registered by a decorator, that return a game."""

import difflib
import fnmatch
import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from ganfuse.engine import registry as games
from ganfuse.engine.game import Game

GameT = TypeVar("GameT", bound=Game)


@dataclass(frozen=True)
class ModelInfo:
    """What the table of models says about one.

    Attributes:
        name: for `create`.
        summary: one line.
        paper: title.
        arxiv: number of the paper on arxiv.org; None where it is not there.
        resolutions: image sizes that it can be built for; empty: any.
        config: names and defaults of the keyword arguments of `create`.
        data_kind: what it is trained on, see `ganfuse.engine.Game`.
    """

    name: str
    summary: str
    paper: str
    arxiv: str | None
    resolutions: tuple[int, ...]
    config: dict[str, Any]
    data_kind: str = "images"

    @property
    def url(self) -> str | None:
        """Where the paper is."""
        return None if self.arxiv is None else f"https://arxiv.org/abs/{self.arxiv}"


_models: dict[str, ModelInfo] = {}
_builders: dict[str, Callable[..., Game]] = {}


def register_model(
    *,
    summary: str,
    paper: str,
    arxiv: str | None = None,
    resolutions: tuple[int, ...] = (),
    data_kind: str = "images",
) -> Callable[[Callable[..., GameT]], Callable[..., GameT]]:
    """Makes a function the model of its name, with - for _. All its arguments are keywords with defaults.

    The game that `create` returns has that `name`, and as `config` all the keyword arguments, defaults included: they
    build it again, even by a later version with other defaults.
    """

    def register(build: Callable[..., GameT]) -> Callable[..., GameT]:
        name = build.__name__.replace("_", "-")
        known = _builders.get(name)
        # The same function once more is a reloaded module.
        if known is not None and (known.__module__, known.__qualname__) != (build.__module__, build.__qualname__):
            raise ValueError(f"{name!r} is registered already, by {known.__module__}.{known.__qualname__}")
        parameters = inspect.signature(build).parameters.values()
        if any(p.kind is not p.KEYWORD_ONLY or p.default is p.empty for p in parameters):
            raise TypeError(f"the arguments of {build.__name__} must all be keywords with defaults")
        config = {p.name: p.default for p in parameters}
        _models[name] = ModelInfo(name, summary, paper, arxiv, resolutions, config, data_kind)
        _builders[name] = build

        @functools.wraps(build)
        def rebuild(**config: Any) -> Game:
            return create(name, **config)

        # For run folders: the engine knows games by name, not models.
        games.register(name, rebuild)
        return build

    return register


def list_models(pattern: str | None = None) -> list[str]:
    """Names of the models, sorted; only those that match `pattern`, such as ``"biggan*"``, if given."""
    return sorted(_models if pattern is None else fnmatch.filter(_models, pattern))


def model_info(name: str) -> ModelInfo:
    """Paper, resolutions and configuration of a model.

    Raises:
        ValueError: no model has that name.
    """
    if name not in _models:
        raise ValueError(f"there is no model named {name!r}{_nearest(name, _models, 'models')}")
    return _models[name]


def create(name: str, **config: Any) -> Game:
    """Builds a model: a game with its networks, losses and optimisers, ready for `ganfuse.engine.Trainer`.

    Args:
        name: one of `list_models()`.
        config: what shall differ from the defaults, ``model_info(name).config``.

    Raises:
        ValueError: for an unknown model or configuration key (naming the nearest), and for values out of range.

    Example::

        game = create("sagan", resolution=64, num_classes=10)
        images = game.generator(torch.randn(8, 128), torch.arange(8))
    """
    info = model_info(name)
    for key in config:
        if key not in info.config:
            raise ValueError(f"{name} has no configuration key {key!r}{_nearest(key, info.config, 'keys')}")
        # A word would count as true, flase too.
        if isinstance(info.config[key], bool) and not isinstance(config[key], bool):
            raise ValueError(f"{key}: expected true or false, got {config[key]!r}")
    complete = {**info.config, **config}
    game = _builders[name](**complete)
    game.name = name
    game.config = complete
    game.data_kind = info.data_kind
    return game


def _nearest(word: str, known: Iterable[str], what: str) -> str:
    known = sorted(known)
    near = difflib.get_close_matches(str(word), known, n=2, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else f"; {what}: {', '.join(known)}"
