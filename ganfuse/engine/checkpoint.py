"""Checkpoints: one folder each, which is either complete or not there.

    checkpoints/step_00001000/
        weights.safetensors   the game's tensors under "game.", averages under "ema.<module>.", metadata
        state.pt              optimisers, random states, data position; loads with weights_only=True

A checkpoint is written under a temporary name, flushed to the disk and renamed. Whatever happens meanwhile (a killed
process, a full disk), the checkpoints that were there stay as they were.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.sharded_tensors import shard_like

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "checkpoint_path",
    "list_checkpoints",
    "load_tensors",
    "prune_checkpoints",
    "remove_leftovers",
    "save_checkpoint",
    "unshared",
]

FORMAT = "1"
_WEIGHTS, _STATE = "weights.safetensors", "state.pt"
_COMPLETE = re.compile(r"step_(\d{8,})")
_LEFTOVER = re.compile(r"\.step_\d{8,}\.(writing|replaced)")


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, read, or does not fit. The message names the file."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    step: int

    def read_weights(self) -> dict[str, Tensor]:
        """All tensors of the weights file, on the CPU.

        Raises:
            CheckpointError: the file is truncated, damaged or of an unknown format.
        """
        from safetensors import SafetensorError, safe_open

        file = self.path / _WEIGHTS
        try:
            with safe_open(file, framework="pt", device="cpu") as opened:
                found = (opened.metadata() or {}).get("format_version")
                if found != FORMAT:
                    raise CheckpointError(f"{file}: expected a checkpoint of format {FORMAT}, found {found!r}")
                return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # not a mapping
        except (SafetensorError, OSError) as error:
            raise _damaged(file, str(error)) from error

    def read_state(self) -> dict[str, Any]:
        """What is needed to go on with training, on the CPU.

        Raises:
            CheckpointError: the file is truncated or damaged.
        """
        file = self.path / _STATE
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged zip or pickle makes the reader raise
            # Without PyTorch's own text, which advises to load untrusted files with weights_only=False.
            raise _damaged(file, type(error).__name__) from error
        if not isinstance(state, dict):
            raise _damaged(file, f"it holds a {type(state).__name__}")
        return state


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is, or will be."""
    return folder / f"step_{step:08d}"


def save_checkpoint(
    folder: Path, step: int, *, game: str, weights: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Checkpoint:
    """Writes `folder/step_<step>`, atomically.

    Args:
        folder: of the run's checkpoints; it exists.
        game: the game's name, stored beside the weights.
        weights: tensors by name, on any device. Tensors that share memory are stored separately.
        state: nested dicts, lists, numbers, strings and tensors.

    Raises:
        CheckpointError: it could not be written. What was there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    final = checkpoint_path(folder, step)
    temporary = folder / f".{final.name}.writing"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        metadata = {"format_version": FORMAT, "game": game, "step": str(step)}
        save_file(unshared(weights), temporary / _WEIGHTS, metadata=metadata)
        torch.save(dict(state), temporary / _STATE)
        for name in (_WEIGHTS, _STATE):
            _flush(temporary / name)
        _flush(temporary)
        _publish(temporary, final)
        _flush(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"{final}: the checkpoint could not be written ({error}); earlier ones are intact"
        ) from error
    return Checkpoint(final, step)


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """The complete checkpoints in the folder, oldest first. Empty if there is no such folder."""
    if not folder.is_dir():
        return []
    found = []
    for path in folder.iterdir():
        match = _COMPLETE.fullmatch(path.name)
        if match and (path / _WEIGHTS).is_file() and (path / _STATE).is_file():
            found.append(Checkpoint(path, int(match[1])))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def prune_checkpoints(folder: Path, keep: int, *, spare: int | None = None) -> None:
    """Removes all but the newest `keep` checkpoints and that of the step `spare`."""
    others = [checkpoint for checkpoint in list_checkpoints(folder) if checkpoint.step != spare]
    for checkpoint in others[:-keep]:
        # Renamed first: a folder that is half removed must not look like a checkpoint.
        discarded = folder / f".{checkpoint.path.name}.replaced"
        shutil.rmtree(discarded, ignore_errors=True)
        checkpoint.path.rename(discarded)
        shutil.rmtree(discarded, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what processes that were killed while writing have left."""
    if folder.is_dir():
        for path in folder.iterdir():
            if _LEFTOVER.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)


def load_tensors(module: nn.Module, tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Loads a state that must fit exactly.

    Args:
        module: keeps what it has for those of its `newer_tensors` that are not there (checkpoints of earlier versions).
        what: names the module and the file in errors.

    Raises:
        CheckpointError: keys are missing, unknown or of another shape; the message names the first few.
    """
    own = module.state_dict()
    newer: tuple[str, ...] = getattr(module, "newer_tensors", ())
    tensors = {**{key: own[key] for key in newer if key in own}, **tensors}
    problems = []
    missing = [key for key in own if key not in tensors]
    unknown = [key for key in tensors if key not in own]
    wrong = [
        f"{key} (file {tuple(tensors[key].shape)}, network {tuple(own[key].shape)})"
        for key in own
        if key in tensors and own[key].shape != tensors[key].shape
    ]
    for label, keys in (("not in the file", missing), ("not in the network", unknown), ("of another shape", wrong)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            problems.append(f"{label}: {', '.join(keys[:3])}{more}")
    if problems:
        raise CheckpointError(f"{what}: the weights do not fit; {'; '.join(problems)}")
    module.load_state_dict({key: shard_like(tensor, own[key]) for key, tensor in tensors.items()})


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, none of which shares its memory with another: safetensors refuses those that do."""
    result: dict[str, Tensor] = {}
    taken: set[int] = set()
    for key, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in taken or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        taken.add(plain.untyped_storage().data_ptr())
        result[key] = plain
    return result


def _publish(temporary: Path, final: Path) -> None:
    if not final.exists():
        temporary.rename(final)
        return
    # A folder cannot be renamed over one that is not empty. What is in the way is incomplete: a run goes on from its
    # newest checkpoint, so it never comes to a step that it has saved.
    replaced = final.with_name(f".{final.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    final.rename(replaced)
    temporary.rename(final)
    shutil.rmtree(replaced, ignore_errors=True)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders, and writes their entries through by itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(file: Path, detail: str) -> CheckpointError:
    if not file.exists():
        return CheckpointError(f"{file}: the file is missing")
    size = file.stat().st_size
    return CheckpointError(
        f"{file}: the file ({size:,} bytes) is truncated or damaged ({detail}); "
        f"remove the folder {file.parent.name} to use the checkpoint before it"
    )
