"""The folder of a run: where things are, whether there is a run in it, and its configuration.

RUN/config.yaml, RUN/metrics.jsonl, RUN/evaluations.jsonl, RUN/samples/step_000500.png,
RUN/checkpoints/step_00001000/, RUN/tensorboard/.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganfuse.engine.atomic_file import atomic_write
from ganfuse.engine.checkpoint import Checkpoint, CheckpointError, list_checkpoints, remove_leftovers

__all__ = ["RunFolder"]


class RunFolder:
    """Paths of a run.

    Raises:
        FileExistsError: `path` is a file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"out: {self.path} is a file, expected a folder for the run")
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.evaluations_file = self.path / "evaluations.jsonl"
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"

    def __str__(self) -> str:
        return str(self.path)

    def holds_run(self) -> bool:
        """Whether a run was begun here."""
        return self.config_file.exists() or bool(list_checkpoints(self.checkpoints))

    def require_vacant(self) -> None:
        """Raises FileExistsError if there is a run in the folder."""
        if self.holds_run():
            saved = list_checkpoints(self.checkpoints)
            state = f"saved at step {saved[-1].step}" if saved else "without a checkpoint"
            raise FileExistsError(
                f"out: {self.path} already holds a run, {state}; resume it (resume=True), replace it (overwrite=True) "
                "or choose another folder"
            )

    def create(self) -> None:
        """Makes the folders."""
        for folder in (self.path, self.samples, self.checkpoints):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError as error:
                raise FileExistsError(f"out: {folder} is a file, expected a folder") from error
            if not os.access(folder, os.W_OK):
                raise PermissionError(f"out: {folder} is not writable")
        remove_leftovers(self.checkpoints)

    def clear(self) -> None:
        """Removes the run, and nothing else that may lie in the folder."""
        for file in (self.config_file, self.metrics_file, self.evaluations_file):
            file.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.samples, self.tensorboard):
            if folder.is_dir():
                shutil.rmtree(folder)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.yaml, atomically."""
        import yaml

        text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
        with atomic_write(self.config_file) as file:
            file.write(text.encode())

    def read_config(self) -> dict[str, Any]:
        """What `write_config` wrote.

        Raises:
            FileNotFoundError: there is no such folder, or no run in it.
            ValueError: the file is not a configuration of a run.
        """
        import yaml

        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: there is no such folder")
        if not self.config_file.exists():
            raise FileNotFoundError(f"{self.path}: not the folder of a run (it has no {self.config_file.name})")
        try:
            config = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.config_file}: not readable as YAML ({error})") from error
        if not isinstance(config, dict) or not isinstance(config.get("game"), dict) or "name" not in config["game"]:
            raise ValueError(f"{self.config_file}: not the configuration of a run (it has no entry game: name)")
        return config

    def checkpoint(self, which: str | int = "latest") -> Checkpoint:
        """The newest checkpoint, the one that scored best while training, or the one of a step.

        Raises:
            CheckpointError: the run has no checkpoint yet, no scores, or no checkpoint of that step.
            ValueError: `which` is neither "latest" nor "best" nor a step.
        """
        if which not in ("latest", "best") and (isinstance(which, bool) or not isinstance(which, int)):
            raise ValueError(f"checkpoint: expected 'latest', 'best' or a step, got {which!r}")
        found = list_checkpoints(self.checkpoints)
        if not found:
            raise CheckpointError(f"{self.checkpoints}: the run has no checkpoint yet")
        if which == "latest":
            return found[-1]
        step = found[-1].read_state().get("best_step") if which == "best" else which
        if step is None:
            raise CheckpointError(f"{self.checkpoints}: the run was not scored while training (evaluate_every)")
        for checkpoint in found:
            if checkpoint.step == step:
                return checkpoint
        steps = ", ".join(str(checkpoint.step) for checkpoint in found)
        raise CheckpointError(f"{self.checkpoints}: there is no checkpoint of step {step}; there are: {steps}")

    def drop_metrics_after(self, step: int) -> None:
        """Removes lines that a run wrote after the checkpoint that it now resumes from, and a line half written."""
        if not self.metrics_file.exists():
            return
        kept = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        with atomic_write(self.metrics_file) as file:
            file.write("".join(kept).encode())


def plain(value: Any) -> Any:
    """The value as YAML and JSON can hold it: mappings, lists, strings, numbers, booleans, None.

    Raises:
        ValueError: it contains anything else.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence):
        return [plain(entry) for entry in value]
    raise ValueError(f"config: expected numbers, strings, lists and mappings, got {type(value).__name__} ({value!r})")
