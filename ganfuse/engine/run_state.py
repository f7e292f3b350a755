"""The whole state of a trainer to a checkpoint and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ganfuse.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    list_checkpoints,
    load_tensors,
    prune_checkpoints,
    save_checkpoint,
)
from ganfuse.engine.run_config import require_same_run
from ganfuse.engine.sharded_optimizer import gathered

if TYPE_CHECKING:
    from ganfuse.engine.trainer import Trainer

__all__ = ["load_run_state", "save_run_state", "split_weights"]


def save_run_state(trainer: "Trainer") -> Path:
    """Writes a checkpoint of the present step and removes the oldest beyond `keep_checkpoints`, but not the best.

    Returns its folder.

    In a distributed run the first process writes, and the others wait for it.

    Raises:
        CheckpointError: it could not be written; the earlier ones are intact.
    """
    weights = {f"game.{key}": value for key, value in trainer.game.state_dict().items()}
    for name, average in trainer.averages.items():
        weights.update((f"ema.{name}.{key}", value) for key, value in average.state_dict().items())
    extra = [key for key, value in weights.items() if not isinstance(value, Tensor)]
    if extra:
        raise CheckpointError(f"{extra[0]}: only tensors can be saved; keep other state in buffers")
    weights = {key: gathered(value, trainer.processes) for key, value in weights.items()}
    state = {
        "step": trainer.step,
        "seconds": trainer.seconds,
        "images_drawn": trainer.batches.drawn,
        "phase": trainer.phase,
        "best_step": trainer.best_step,
        "rollbacks": trainer.rollbacks,
        "skipped": trainer.record.skipped,
        "latest_losses": dict(trainer.record.latest),
        "optimizers": trainer.turn_runner.state_dict(),
        "ema_updates": {name: average.updates for name, average in trainer.averages.items()},
    }
    folder = trainer.run.checkpoints
    if trainer.processes.is_first:
        save_checkpoint(folder, trainer.step, game=trainer.game.name, weights=weights, state=state)
        prune_checkpoints(folder, trainer.options.keep_checkpoints, spare=trainer.best_step)
    trainer.processes.wait()
    return checkpoint_path(folder, trainer.step)


def load_run_state(trainer: "Trainer", config: dict[str, Any]) -> str:
    """Brings the trainer to the newest checkpoint of its folder. Returns a line that says what was done.

    Raises:
        CheckpointError: the checkpoint is damaged or does not fit the game.
        ValueError: the run was begun with other settings.
    """
    if not trainer.run.holds_run():
        return f"nothing to resume in {trainer.run}: beginning at step 0"
    require_same_run(trainer.run.read_config(), config)
    found = list_checkpoints(trainer.run.checkpoints)
    if not found:
        return f"the run in {trainer.run} has no checkpoint yet: beginning at step 0"
    checkpoint = found[-1]
    state = checkpoint.read_state()
    own, averaged = split_weights(checkpoint)
    load_tensors(trainer.game, own, what=str(checkpoint.path))
    for name, average in trainer.averages.items():
        prefix = f"{name}."
        tensors = {key.removeprefix(prefix): value for key, value in averaged.items() if key.startswith(prefix)}
        load_tensors(average.module, tensors, what=f"{checkpoint.path} (average of {name})")
    try:
        for name, average in trainer.averages.items():
            average.updates = state["ema_updates"][name]
        trainer.turn_runner.load_state_dict(state["optimizers"])
        trainer.step = state["step"]
        trainer.seconds = state["seconds"]
        trainer.batches.drawn = state["images_drawn"]
        trainer.phase = state["phase"]
        trainer.best_step = state["best_step"]
        trainer.rollbacks = state["rollbacks"]
        trainer.record.skipped = state["skipped"]
        trainer.record.latest = dict(state["latest_losses"])
        trainer.record.checkpoint = checkpoint.path
    except KeyError as error:
        raise CheckpointError(f"{checkpoint.path}: the training state has no entry {error}") from error
    return f"resumed {trainer.run} at step {trainer.step}"


def split_weights(checkpoint: Checkpoint) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The game's tensors, and the averages of some of them, both by their names in the game.

    Raises:
        CheckpointError: the file is damaged.
    """
    kinds: dict[str, dict[str, Tensor]] = {"game": {}, "ema": {}}
    for key, tensor in checkpoint.read_weights().items():
        kind, _, name = key.partition(".")
        if kind not in kinds:
            raise CheckpointError(f"{checkpoint.path}: the weights have an unknown entry {key!r}")
        kinds[kind][name] = tensor
    return kinds["game"], kinds["ema"]
