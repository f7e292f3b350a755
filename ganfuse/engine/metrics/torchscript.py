"""A TorchScript file as an extractor, with what must be known of it in a JSON file beside it."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from ganfuse.engine.metrics.extractor import ModuleExtractor

__all__ = ["SETTINGS", "load_torchscript"]

#: Keys of the JSON file, arguments of `ModuleExtractor`.
SETTINGS = ("input", "channels", "resolution", "arguments")


def load_torchscript(path: str | os.PathLike[str]) -> ModuleExtractor:
    """The network in a TorchScript file, with the settings in a JSON file of the same name (``x.pt``, ``x.json``).

    Without settings it is called with uint8 (B, 3, H, W). For the Inception-v3 that NVIDIA's code bases use, the
    settings are ``{"arguments": {"return_features": true}}``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not TorchScript, or wrong settings.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"extractor: there is no file {file}")
    settings = _read_settings(file.with_suffix(".json"))
    try:
        module = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"extractor: {file} is not a TorchScript file") from error
    return ModuleExtractor(module, name=file.name, **{"input": "uint8", **settings})


def _read_settings(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error})") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file}: expected an object of settings, got {type(settings).__name__}")
    for key in settings:
        if key not in SETTINGS:
            raise ValueError(f"{file}: unknown setting {key!r}; known: {', '.join(SETTINGS)}")
    return settings
