"""What `ganfuse sample` shows of models of two domains."""

import inspect
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganfuse.commands._errors import CommandError

if TYPE_CHECKING:
    from torch import Tensor

    from ganfuse.engine import Game
    from ganfuse.engine.translation import TranslationGame


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
    """A row of the first, below it the same of the second, and so on; and the length of a row."""
    import torch

    length = min(columns or 8, len(first))
    if len(first) % length:
        raise CommandError(f"--columns: {len(first)} pairs do not fill rows of {length}")
    rows = zip(torch.split(first, length), torch.split(second, length))
    return torch.cat([row for both in rows for row in both]), length


def draw_translations(
    run: Path, game: "TranslationGame", num: int, *, seed: int, source: str | None, split: str | None
) -> "Tensor":
    """Rows of images of the run's data set, or another, and of what becomes of them: see `TranslationGame.compare`.

    Raises:
        CommandError: the run does not say which data it was trained on.
    """
    import torch

    from ganfuse.engine.data import open_dataset
    from ganfuse.engine.domains import central_square, domains_of
    from ganfuse.engine.run_folder import RunFolder

    described = RunFolder(run).read_config().get("data") or {}
    if source is None and "name" not in described:
        raise CommandError(f"{run} does not say which data it was trained on", "--data names a source of two domains")
    options: dict[str, Any] = {key: described[key] for key in ("resize", "on_bad_image") if key in described}
    if split is None and source is None:
        split = described.get("split")
    if split is not None:
        options["split"] = split
    channels, resolution, _ = game.image_shape
    kind: Any = game.data_kind
    data = open_dataset(source or described["name"], kind=kind, resolution=resolution, channels=channels, **options)
    domains = domains_of(data)
    if num > min(map(len, domains)):
        raise CommandError(f"--num: {data.name} has {min(map(len, domains))} images of a domain, got {num}")
    rng = torch.Generator().manual_seed(seed)
    chosen = []
    for number, domain in enumerate(domains):
        if number == 0 or not data.paired:
            indices = torch.randperm(len(domain), generator=rng)[:num].tolist()
        images = torch.stack([domain[index][0] for index in indices])
        chosen.append(central_square(images, game.training_size))
    return game.compare(*chosen)
