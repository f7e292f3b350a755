"""What `ganfuse sample` shows of models of two domains."""

import inspect
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganfuse.commands._data_images import choose_images, open_data
from ganfuse.commands._errors import CommandError

if TYPE_CHECKING:
    from torch import Tensor

    from ganfuse.engine import Game
    from ganfuse.engine.translation import TranslationGame


#: Images of each domain that are translated, unless told how many.
FEW_TRANSLATED = 8


class Domain(str, Enum):
    """Which image of a pair to draw."""

    a = "a"
    b = "b"
    both = "both"


def refuse_given(options: Mapping[str, Any], why: str) -> None:
    """Raises CommandError for the first option that is not None."""
    for name, value in options.items():
        if value is not None:
            raise CommandError(f"{name}: {why}")


def chosen_domains(game: "Game", domain: Domain | None, *, single: bool) -> list[dict[str, str]]:
    """For each domain to draw from what `game.sample` is to be called with besides; one without, of other games.

    Args:
        single: only one of the two can be drawn.

    Raises:
        CommandError: the game has no domains to draw from.
    """
    if "domain" not in inspect.signature(game.sample).parameters:
        refuse_given({"--domain": domain}, f"{game.name} draws images of one domain")
        return [{}]
    if domain is None:
        domain = Domain.a if single else Domain.both
    if domain is Domain.both and single:
        raise CommandError("--domain: an archive holds one domain, a or b")
    return [{"domain": letter} for letter in ("ab" if domain is Domain.both else domain.value)]


def alternate_rows(first: "Tensor", second: "Tensor", *, columns: int | None) -> "tuple[Tensor, int]":
    """A row of the first, below it the same of the second, and so on; and the length of a row.

    Where the last ones do not fill theirs, white images do, as in any grid.
    """
    import torch

    length = min(columns or 8, len(first))
    white = first.new_ones(-len(first) % length, *first.shape[1:])
    rows = zip(torch.split(torch.cat([first, white]), length), torch.split(torch.cat([second, white]), length))
    return torch.cat([row for both in rows for row in both]), length


def draw_translations(
    run: Path, game: "TranslationGame", num: int | None, *, seed: int, source: str | None, split: str | None
) -> "Tensor":
    """Rows of images of the run's data set, or another, and of what becomes of them: see `TranslationGame.compare`.

    Args:
        num: how many of each domain; None: a few.

    Raises:
        CommandError: there are not so many.
    """
    from ganfuse.engine.domains import are_paired, central_square, domains_of

    data = open_data(run, game, source=source, split=split)
    first, second = domains_of(data)
    together = are_paired(data) and len(first) == len(second)
    num = min(FEW_TRANSLATED, len(first), len(second)) if num is None else num
    images_a = choose_images(first, num, seed=seed, name=data.name)
    images_b = choose_images(second, num, seed=seed if together else seed + 1, name=data.name)
    side = game.training_size
    return game.compare(central_square(images_a, side), central_square(images_b, side))
