"""One step of a run: a batch of real images, every turn that is due, the averages."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ganfuse.engine.game import Batch, Stage, Turn
from ganfuse.engine.noise import Noise, Shard
from ganfuse.engine.schedules import Progress
from ganfuse.engine.seeding import derive_seed

if TYPE_CHECKING:
    from ganfuse.engine.trainer import Trainer

__all__ = ["play_step"]


def play_step(trainer: "Trainer") -> None:
    """Moves the trainer on by one step.

    Random numbers are a function of seed, step and turn, drawn for the whole batch: neither processes nor micro-batches
    change them, and there is no state of generators to save.
    """
    options = trainer.options
    progress = Progress(trainer.step + 1, trainer.images, len(trainer.data), options.batch_size, options.steps)
    stage = trainer.game.stage(progress) or Stage()
    batch_size = stage.batch_size or options.batch_size
    options.check_batch(batch_size, trainer.processes.count)
    if trainer.phase is not None and stage.phase != trainer.phase:
        trainer.turn_runner.forget_moments()
        trainer.turn_runner.forget_graphs()
    trainer.phase, trainer.stage = stage.phase, stage
    trainer.step += 1
    trainer.global_randomness.reseed("step", trainer.step, trainer.rollbacks, trainer.processes.rank)
    trainer.game.before_step(progress)
    trainer.turn_runner.schedule(progress)
    shared = None
    for turn in trainer.turn_runner.turns:
        if not turn.is_played(trainer.step):
            continue
        for repetition in range(turn.repeats):
            batch = shared if shared is not None and repetition == 0 else _next_batch(trainer, batch_size)
            shared = batch if shared is None else shared
            trainer.turn_runner.play(turn, _parts(trainer, turn, batch, repetition), trainer.step)
    new = trainer.images - progress.images
    for name, average in trainer.averages.items():
        average.update(trainer.game.get_submodule(name), images=trainer.images, batch_size=new)


def _next_batch(trainer: "Trainer", batch_size: int) -> Batch:
    return trainer.batches.next(batch_size, _noise(trainer, trainer.processes.shard, "batch", trainer.images))


def _parts(trainer: "Trainer", turn: Turn, batch: Batch, repetition: int) -> list[tuple[Batch, Callable[[], Noise]]]:
    count = trainer.options.accumulation_of(turn)

    def make_noise(shard: Shard) -> Callable[[], Noise]:
        return lambda: _noise(trainer, shard, "turn", turn.name, trainer.step, repetition, trainer.rollbacks)

    return [(part, make_noise(s)) for part, s in zip(batch.split(count), trainer.processes.shard.split(count))]


def _noise(trainer: "Trainer", shard: Shard, *purpose: str | int) -> Noise:
    trainer.rng.manual_seed(derive_seed(trainer.options.seed, *purpose))
    return Noise(trainer.rng, shard)
