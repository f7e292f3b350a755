"""config.yaml of a run: what was played on what and how; and whether a run that goes on is still the same one."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from ganfuse.engine.batches import ImageData
from ganfuse.engine.game import Game
from ganfuse.engine.options import FIXED_BY_RUN, TrainerOptions
from ganfuse.engine.run_folder import plain
from ganfuse.version import __version__

__all__ = ["describe_run", "require_same_run"]

FORMAT = 1
_DATA_ATTRIBUTES = ("name", "resolution", "channels", "num_classes", "class_names")
# Of the data these must stay; what is at its default is not recorded.
_FIXED_BY_DATA = ("length", "resolution", "channels", "num_classes", "resize", "max_images", "split")
# How fit was called, not what the run is.
_NOT_RECORDED = ("resume", "overwrite")


def describe_run(game: Game, data: ImageData, options: TrainerOptions) -> dict[str, Any]:
    """The content of config.yaml.

    Raises:
        ValueError: the game's config, or an attribute of the data, is not plain.
    """
    described: dict[str, Any] = {
        key: getattr(data, key) for key in _DATA_ATTRIBUTES if getattr(data, key, None) is not None
    }
    if hasattr(data, "domains"):
        # `length` is that of the larger one; each has an order of its own.
        described["domain_lengths"] = [len(domain) for domain in data.domains]
    return {
        "format": FORMAT,
        "game": {"name": game.name, "config": None if game.config is None else plain(game.config)},
        "data": plain({**described, **getattr(data, "options", {}), "length": len(data)}),
        "trainer": plain({key: value for key, value in asdict(options).items() if key not in _NOT_RECORDED}),
        "versions": {"ganfuse": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
    }


def require_same_run(stored: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Checks that a run that goes on plays the same game on the same data in the same order.

    The data may have another name: folders are moved.

    Raises:
        ValueError: lists what differs.
    """
    differences = []
    for name, was, now in _comparable(stored, current):
        if was != now:
            differences.append(f"{name} was {was!r}, now {now!r}")
    if differences:
        raise ValueError(f"resume: the run was begun with other settings: {'; '.join(differences)}")


def _comparable(stored: Mapping[str, Any], current: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    rows = [("game", stored["game"].get("name"), current["game"]["name"])]
    old_config, new_config = stored["game"].get("config") or {}, current["game"]["config"] or {}
    rows += [(key, old_config.get(key), new_config.get(key)) for key in sorted({*old_config, *new_config})]
    for section, keys in (("data", _FIXED_BY_DATA), ("trainer", FIXED_BY_RUN)):
        old, new = stored.get(section) or {}, current[section]
        label = "data " if section == "data" else ""
        rows += [(f"{label}{key}", old.get(key), new.get(key)) for key in keys]
    # Runs of before do not tell.
    was, now = ((described.get("data") or {}).get("domain_lengths") for described in (stored, current))
    if was is not None:
        rows.append(("data domain_lengths", was, now))
    return rows
