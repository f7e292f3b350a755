"""Settings of a training run: read from YAML files and ``key=value``, checked, and sorted by who takes them."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ganfuse.commands._errors import CommandError

#: What names the run rather than tuning it.
SUBJECTS = ("model", "data", "out")
#: Passed to `open_dataset`.
DATA_KEYS = ("resolution", "channels", "on_bad_image", "cache", "split", "resize", "max_images")
# Of the trainer's options these belong to one call, not to the run; a configuration does not set them.
PER_CALL = ("resume", "overwrite", "progress")


@dataclass
class Settings:
    """Settings by their receiver."""

    subjects: dict[str, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    game: dict[str, Any] = field(default_factory=dict)


def sort_settings(settings: Mapping[str, Any], *, trainer_keys: Iterable[str], game_keys: Iterable[str]) -> Settings:
    """Sorts flat settings by their receiver.

    Raises:
        CommandError: a key that nobody takes; the message has the nearest one.
    """
    trainer_keys = [key for key in trainer_keys if key not in PER_CALL]
    game_keys = list(game_keys)
    known = [*SUBJECTS, *DATA_KEYS, *trainer_keys, *game_keys]
    result = Settings()
    for key, value in settings.items():
        if key in SUBJECTS:
            result.subjects[key] = str(value)
        elif key in DATA_KEYS:
            result.data[key] = value
        elif key in trainer_keys:
            result.trainer[key] = parse_duration(value) if key == "time_limit" and isinstance(value, str) else value
        elif key in game_keys:
            result.game[key] = value
        else:
            near = difflib.get_close_matches(key, known, n=1)
            names = ", ".join(sorted(set(known) - set(SUBJECTS)))
            raise CommandError(
                f"unknown setting {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
                hint=f"settings of this model: {names}",
            )
    return result


def with_none(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values with None for "none", which is not YAML's word for it, unless the key's default is a word as well."""
    words = [key for key, default in defaults.items() if isinstance(default, str)]
    return {
        key: None if isinstance(value, str) and value.lower() == "none" and key not in words else value
        for key, value in values.items()
    }


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """``["width=32", "betas=[0, 0.9]"]`` to a dict; values are YAML.

    Raises:
        CommandError: no ``=``, or a key twice.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = _normalised(key)
        if not equals or not key:
            raise CommandError(f"--set expects key=value, got {assignment!r}", hint="for example --set width=32")
        if key in settings:
            raise CommandError(f"--set gives {key} twice")
        settings[key] = _parse_value(text, f"--set {key}")
    return settings


def read_settings_file(path: Path) -> dict[str, Any]:
    """Flat settings of a YAML file, which may be the ``config.yaml`` of a run.

    Raises:
        FileNotFoundError: no such file.
        CommandError: not YAML, or not a mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise CommandError(f"{path}: expected a mapping of settings (key: value), got {type(content).__name__}")
    if isinstance(content.get("game"), dict):
        return _flat_run_config(content, path)
    return {_normalised(str(key)): _number(value) for key, value in content.items()}


def _flat_run_config(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    game, data, trainer = (config.get(section) or {} for section in ("game", "data", "trainer"))
    try:
        settings = {"model": game["name"], "data": data["name"], **(game["config"] or {})}
    except KeyError as error:
        if not data and not trainer:
            raise CommandError(
                f"{path}: this run was imported, not trained, so it does not say on which data to go on",
                hint=f"ganfuse train --from {path.parent} --data SOURCE --out RUN begins with its weights",
            ) from error
        raise CommandError(f"{path}: not the configuration of a complete run (it has no {error})") from error
    settings |= {key: data[key] for key in DATA_KEYS if key in data}
    # A number of classes that came from the data is not a choice of the user's: other data bring their own.
    if settings.get("num_classes") == classes_of(data.get("num_classes", 0)):
        settings.pop("num_classes", None)
    # A time limit is for one call, though the trainer records it.
    return settings | {key: value for key, value in trainer.items() if key not in (*PER_CALL, "time_limit")}


def classes_of(num_classes: int) -> int | None:
    """The ``num_classes`` of a game for data with that many: a single class is none."""
    return num_classes if num_classes > 1 else None


def parse_duration(text: str) -> float:
    """Seconds from ``90``, ``90s``, ``10m``, ``1h30m`` or ``2d``.

    Raises:
        CommandError: anything else, or zero.
    """
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1, "": 1}
    match = re.fullmatch(r"(?:\d+(?:\.\d+)?[dhms])+|\d+(?:\.\d+)?", text.strip().lower())
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms]?)", match.group()) if match else []
    seconds = sum(float(number) * units[unit] for number, unit in parts)
    if seconds <= 0:
        raise CommandError(f"--time-limit expects a duration such as 90s, 10m or 1h30m, got {text!r}")
    return float(seconds)


def _normalised(key: str) -> str:
    return key.strip().replace("-", "_")


def _parse_value(text: str, where: str) -> Any:
    import yaml

    try:
        return _number(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise CommandError(f"{where}: cannot read the value {text!r}") from error


def _number(value: Any) -> Any:
    # YAML 1.1 takes 1e-4 for a string, since it has no dot. Nobody means that; and by 1e6 steps a whole number.
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    if isinstance(value, dict):
        return {key: _number(entry) for key, entry in value.items()}
    return [_number(entry) for entry in value] if isinstance(value, list) else value
