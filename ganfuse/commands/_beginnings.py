"""What a training begins with that is no new weights: a run, or another codebase's checkpoint."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganfuse.commands._errors import CommandError
from ganfuse.commands._importing import parse_from, parse_parts
from ganfuse.commands._settings import DATA_KEYS

if TYPE_CHECKING:
    from ganfuse.engine import Game

__all__ = ["Beginning", "beginning_of"]


@dataclass(frozen=True)
class Beginning:
    """Weights to begin with.

    Attributes:
        of: where they are, for messages.
        model: the registered model that they are of.
        config: what they determine of its configuration.
        make: the model with them, from what else there is to configure.
        keywords: settings that were meant for the reading of the weights alone.
    """

    of: str
    model: str
    config: dict[str, Any]
    make: Callable[..., "Game"]
    keywords: frozenset[str] = frozenset()


def beginning_of(text: str, *, part: str | None, also: Iterable[str], settings: Mapping[str, Any]) -> Beginning:
    """The beginning that ``--from`` says: SOURCE:FILE, or the folder of a run.

    Args:
        text: see above.
        part, also: of a checkpoint, as `ganfuse import` takes them.
        settings: of the training, among which may be the source's keywords.

    Raises:
        CommandError: it is neither.
        FileNotFoundError, ValueError: as `ganfuse.interop.load_game` and `load_run`.
    """
    from ganfuse.interop import sources

    if Path(text).is_dir() or text.partition(":")[0] not in sources():
        if not Path(text).exists() and ":" in text:
            parse_from(text)  # says which sources there are
        others = list(also)
        if part is not None or others:
            raise CommandError(f"--{'also' if part is None else 'part'} is of checkpoints, and --from {text} of runs")
        return _of_run(Path(text))
    return _of_checkpoint(text, part, also, settings)


def _of_checkpoint(text: str, part: str | None, also: Iterable[str], settings: Mapping[str, Any]) -> Beginning:
    from ganfuse.interop import source_info
    from ganfuse.interop.games import common_config, game_of, read_networks
    from ganfuse.models import model_info

    source, file = parse_from(text)
    own = {key: value for key, value in settings.items() if key in source_info(source).keywords}
    networks = read_networks(source, file, part, also=parse_parts(also), **own)
    model, config = common_config(source, networks)

    def make(**further: Any) -> "Game":
        return game_of(source, networks, **further)

    kept = {*model_info(model).config, *DATA_KEYS}
    return Beginning(text, model, config, make, frozenset(key for key in own if key not in kept))


def _of_run(run: Path) -> Beginning:
    from ganfuse.engine import CheckpointError, load_run
    from ganfuse.engine.checkpoint import load_tensors
    from ganfuse.models import create

    try:
        begun = load_run(run, weights="raw")
    except CheckpointError as error:
        raise CommandError(str(error)) from error
    parts = dict(begun.named_children())
    known = dict(begun.config or {})
    growth: Any = getattr(begun, "growth", None)
    if growth is not None:
        # From its smallest images on it would forget the layers that it has.
        known["start"] = growth.reached

    def make(**further: Any) -> "Game":
        game = create(begun.name, **{**known, **further})
        for name, child in game.named_children():
            # What the run had not, such as the state of an augmentation, begins anew.
            if name in parts:
                try:
                    load_tensors(child, parts[name].state_dict(), what=f"--from {run}: its {name}")
                except CheckpointError as error:
                    raise CommandError(str(error)) from error
        return game

    return Beginning(str(run), begun.name, known, make)
