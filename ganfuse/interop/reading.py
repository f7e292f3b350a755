"""Files to tensors, without executing anything that is in them."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganfuse.interop.network import Source
from ganfuse.interop.stand_ins import STAND_INS
from ganfuse.interop.unpickling import read_pickle

__all__ = ["ignore", "prefixed", "read_file", "renamed", "tensors_of"]


def read_file(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The contents of a file of `torch.save`, safetensors, or an NVIDIA pickle, on the CPU.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it holds something else than tensors and plain values, or is damaged.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"checkpoint: there is no file {file}")
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"checkpoint: {file} is damaged, or no file of safetensors ({error})") from error
    if file.suffix == ".pkl":
        found = read_pickle(file)
    else:
        try:
            with torch.serialization.safe_globals(STAND_INS):
                found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged zip or a refused pickle makes the reader raise
            # Without PyTorch's own text, which advises to load untrusted files with weights_only=False.
            detail = re.search(r"(Unsupported global: GLOBAL [\w.]+)", str(error))
            reason = detail[1] if detail else type(error).__name__
            raise ValueError(
                f"checkpoint: {file} is damaged, or holds more than tensors and plain values ({reason}); "
                "nothing in it was executed"
            ) from error
    if not isinstance(found, Mapping):
        raise ValueError(f"checkpoint: {file} holds a {type(found).__name__}, expected a dict of tensors")
    return found


def tensors_of(found: Mapping[str, Any], source: Source) -> dict[str, Tensor]:
    """The state dict of one network: out of a training script's wrapping, without DataParallel's prefix; on the CPU.

    Raises:
        ValueError: it is not one of tensors.
    """
    while isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(found):
        other = [str(key) for key in found if key not in tensors]
        raise ValueError(
            f"checkpoint: {source.name} expects the state dict of one network; these are no tensors: "
            f"{', '.join(other[:5]) or 'it is empty'}"
        )
    while all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return {key: _plain(value) for key, value in tensors.items()}


def _plain(value: Tensor) -> Tensor:
    """On the CPU, outside any graph, in float32 if it is of a floating type."""
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def ignore(tensors: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
    """Without what is on the source's list."""
    patterns = [
        re.compile(entry.pattern)
        for entry in source.ignored
        if not entry.compared and (entry.beside is None or entry.beside in tensors)
    ]
    return {key: value for key, value in tensors.items() if not any(p.fullmatch(key) for p in patterns)}


def renamed(tensors: Mapping[str, Tensor], rules: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """With each rule, a pattern and what replaces it, applied to each key in turn."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    result = {}
    for key, value in tensors.items():
        name = key
        for pattern, replacement in compiled:
            name = pattern.sub(replacement, name)
        if name in result:
            raise ValueError(f"checkpoint: two tensors have the place of {name}, the second being {key}")
        result[name] = value
    return result


def prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those below a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
