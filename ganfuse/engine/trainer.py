"""The trainer: plays a game on a data set, and keeps the run alive, on record and resumable."""

import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.activation_checkpointing import checkpoint_activations
from ganfuse.engine.batches import BatchSource, ImageData, check_image_data, dead_workers_named
from ganfuse.engine.determinism import deterministic_algorithms
from ganfuse.engine.ema import EMA
from ganfuse.engine.fit_summary import FitSummary
from ganfuse.engine.game import Game, Stage
from ganfuse.engine.game_data import image_dtype, open_for
from ganfuse.engine.gpu_readings import GPUReadings
from ganfuse.engine.host_memory import keep_freed_memory
from ganfuse.engine.idle_steps import warn_of_idle_steps
from ganfuse.engine.interrupt import StopSignals
from ganfuse.engine.layers.fuse_spectral_norms import fuse_networks
from ganfuse.engine.loss_record import LossRecord, NonFiniteError, require_finite_weights
from ganfuse.engine.metrics_log import MetricsLog
from ganfuse.engine.options import TrainerOptions, resolve_device
from ganfuse.engine.precision import Precision, slow_type
from ganfuse.engine.processes import Processes, synchronise_statistics
from ganfuse.engine.progress import TrainingProgress
from ganfuse.engine.run_config import describe_run
from ganfuse.engine.run_folder import RunFolder
from ganfuse.engine.run_state import load_run_state, save_run_state
from ganfuse.engine.sample_grids import draw_samples
from ganfuse.engine.seeding import GlobalRandomness
from ganfuse.engine.sharded_networks import ShardedNetworks, check_shardable, whole_networks
from ganfuse.engine.stability import install_stability_tools
from ganfuse.engine.stages import check_stages, warn_of_early_end
from ganfuse.engine.training_step import play_step
from ganfuse.engine.turn_runner import TurnRunner
from ganfuse.engine.watching import split_held_out, watching_hooks

__all__ = ["FitSummary", "Trainer"]

# A run that becomes NaN again and again does so for a reason that other random numbers do not cure.
MAX_ROLLBACKS = 3


class Trainer:
    """Plays a game for a number of steps.

    A step draws one batch and plays every turn of the game once (see `Turn` for exceptions). The folder `out` receives
    config.yaml, metrics.jsonl, sample grids and checkpoints. Ctrl-C and SIGTERM let the step finish and save first.
    On the CPU a run that was stopped anywhere and resumed gives the same bits as one that was not.

    Under `torchrun` each process takes an equal part of every batch, and they compute what one process would with the
    whole batch.

    Args:
        game: moved to the device.
        data: map-style data set of (uint8 image (C, H, W), label), or a source that `open_dataset` knows ("digits", a
            folder), opened at the size and with the channels of the game's own images. See `ImageData` for domains and
            embeddings.
        out: the run's folder.
        hooks: each is called with the trainer after every step; see also `stop`, `note` and `mark_best`.
        **options: see `ganfuse.engine.options.TrainerOptions`.

    Attributes:
        game, step, device, data, options, processes.
        stage: that of the latest step; without a name before the first.
        averages: the game's moving averages, by module name.
        hooks: those of the options and those that were given.
        best_step: the step that a hook has marked as the best.

    Raises:
        ValueError: names the option, what came and what was expected; unknown options with the nearest known name.
        FileExistsError: `out` holds a run, or is a file.
    """

    def __init__(
        self,
        game: Game,
        data: ImageData | str | os.PathLike[str],
        *,
        out: str | os.PathLike[str],
        hooks: Sequence[Callable[["Trainer"], None]] = (),
        **options: Any,
    ) -> None:
        self.options = TrainerOptions.of(options, also=("out", "hooks"))
        self.processes = Processes.join(self.options.device)
        if self.processes.was_restarted():
            self.options = replace(self.options, resume=True, overwrite=False)
        self.device = resolve_device(self.options.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        if slow := slow_type(self.options.precision, self.device):
            warnings.warn(slow, stacklevel=2)
        if self.options.cuda_graphs and self.device.type != "cuda":
            raise ValueError(f"cuda_graphs: they exist on NVIDIA and AMD GPUs, and the device is {self.device}")
        if isinstance(data, str | os.PathLike):
            data = open_for(game, data)
        self.run = RunFolder(out)
        if not (self.options.resume or self.options.overwrite):
            self.run.require_vacant()
        check_image_data(data)
        game.check_data(data)
        check_shardable(game, self.options.shard_networks)
        data, held_out = split_held_out(data, self.options)
        self.options.check_batch(self.options.batch_size, self.processes.count)
        check_stages(game, self.options, self.processes.count)
        self.game = game.to(self.device)
        synchronise_statistics(self.game)
        self.processes.share(value for value in self.game.state_dict().values() if isinstance(value, Tensor))
        if self.options.channels_last:
            self.game.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.data = data
        self.step = 0
        self.seconds = 0.0
        self.rollbacks = 0
        self.phase: str | int | None = None
        self.stage = Stage()
        self.best_step: int | None = None
        self.hooks = [*watching_hooks(game, self.options, held_out), *hooks]
        self.rng = torch.Generator(self.device)
        self.global_randomness = GlobalRandomness(self.options.seed, self.device)
        self.record = LossRecord(self.device, self.processes.largest)
        self.turn_runner = TurnRunner(
            game,
            Precision(self.options.precision, self.device),
            self.record,
            processes=self.processes,
            compiled=self.options.compile,
            shard_optimizer=self.options.shard_optimizer,
            cuda_graphs=self.options.cuda_graphs,
            skip_nonfinite=self.options.on_nonfinite == "skip",
        )
        self.options.check_turns(self.turn_runner.turns)
        if self.processes.is_first:
            warn_of_early_end(game, self.turn_runner.turns, self.options)
        # On a CPU there is nothing to win; and blocks that compute again must find their weights as they were.
        if self.device.type != "cpu" and not self.options.activation_checkpointing:
            fuse_networks(game, whole_networks(game, self.turn_runner.networks, self.options.shard_networks))
        self.averages = {target.module: EMA.of(target, game) for target in game.ema_targets()}
        # After the averages, which are copies of the networks as they are.
        for name in self.turn_runner.networks:
            if self.options.activation_checkpointing:
                checkpoint_activations(game.get_submodule(name))
            if self.options.compile:
                game.get_submodule(name).compile()
        self.sharded = ShardedNetworks(game, self.options.shard_networks, self.averages, self.processes, self.device)
        if self.sharded:
            self.turn_runner.take_parameters()
        self.hooks += install_stability_tools(game, self.turn_runner.optimizers, self.options)
        self.batches = BatchSource(
            data,
            seed=self.options.seed,
            device=self.device,
            dtype=image_dtype(game),
            workers=self.options.workers,
            flip=self.options.flip,
            channels_last=self.options.channels_last,
            shard=self.processes.shard,
            prefetch=self.options.prefetch,
        )
        self._config = describe_run(game, data, self.options)
        self._gpu = GPUReadings(self.device)
        self._opened = False
        self._saved_at = self._sampled_at = -1
        self._stop_reason = ""
        self._best_marked = False

    @property
    def images(self) -> int:
        """Real images drawn since the run began."""
        return self.batches.drawn

    def stop(self, reason: str) -> None:
        """Makes `fit` save and return after the present step. For hooks."""
        self._stop_reason = reason

    def mark_best(self) -> None:
        """Keeps a checkpoint of the present step until another one is marked. For hooks."""
        self._best_marked = True

    def note(self, name: str, values: Mapping[str, Tensor]) -> None:
        """Adds scalars to the metrics of the next line that is logged, as "name/entry". For hooks."""
        self.record.add(self.step, name, values)

    def fit(self) -> FitSummary:
        """Trains until the run is complete or stopped. May be called again to go on.

        Raises:
            NonFiniteError: a loss, gradient or weight is NaN or infinite; nothing of that state is saved. Option
                `on_nonfinite` can leave out such steps, or go back to the last checkpoint.
            RuntimeError: a process that reads images has died.
            CheckpointError: a checkpoint cannot be written, or the one to resume from is damaged or does not fit.
        """
        notice = self._open()
        began, first = time.monotonic(), self.images
        self._stop_reason = ""
        with ExitStack() as stack:
            stack.enter_context(dead_workers_named())
            stack.callback(self.batches.close)
            if self.options.deterministic:
                stack.enter_context(deterministic_algorithms())
            stack.enter_context(self.global_randomness.active())
            log = stack.enter_context(
                MetricsLog(
                    self.run,
                    self.step,
                    tensorboard=self.options.tensorboard,
                    wandb=self.options.wandb,
                    config=self._config,
                    enabled=self.processes.is_first,
                )
            )
            progress = stack.enter_context(
                TrainingProgress(
                    self.options.steps, self.step, enabled=self.options.progress and self.processes.is_first
                )
            )
            signals = stack.enter_context(StopSignals())
            if notice:
                progress.say(notice)
            if self.processes.is_first:
                warn_of_idle_steps(self)
            self.game.train()
            # Gradients that the caller, or an earlier fit that raised, has left.
            self.game.zero_grad(set_to_none=True)
            if self.options.on_nonfinite == "rollback" and self.record.checkpoint is None:
                self._save()
            stopped_by = self._loop(began, signals, progress, log)
            self.record.flush()
            rate = (self.images - first) / max(time.monotonic() - began, 1e-9)
            progress.report(self.step, self.record.latest, rate, stage=self.stage.name, last=True)
            checkpoint = self._save()
            if stopped_by != "interrupt":
                self._sample(log)
        seconds = time.monotonic() - began
        return FitSummary(
            steps=self.step,
            images=self.images,
            seconds=seconds,
            images_per_second=(self.images - first) / max(seconds, 1e-9),
            losses=dict(self.record.latest),
            stopped_by=stopped_by,
            out=self.run.path,
            checkpoint=checkpoint,
        )

    def _loop(self, began: float, signals: StopSignals, progress: TrainingProgress, log: MetricsLog) -> str:
        options = self.options
        seconds_before, window_began, window_images = self.seconds, began, self.images
        while not self._complete():
            try:
                self.play_step()
            except NonFiniteError as error:
                if options.on_nonfinite != "rollback" or self.rollbacks >= MAX_ROLLBACKS:
                    raise
                progress.say(self._roll_back(error))
                window_images = self.images
                continue
            self.seconds = seconds_before + time.monotonic() - began
            progress.advance(self.step)
            self._run_hooks()
            if self.step % options.log_every == 0:
                self.record.flush()
                now = time.monotonic()
                rate = (self.images - window_images) / max(now - window_began, 1e-9)
                window_began, window_images = now, self.images
                losses = self.record.latest
                log.write(
                    step=self.step,
                    images=self.images,
                    seconds=self.seconds,
                    losses=losses,
                    images_per_second=rate,
                    learning_rates=self.turn_runner.learning_rates(),
                    skipped=self.record.skipped,
                    gpu=self._gpu.read(),
                    stage=self.stage.name,
                )
                progress.report(self.step, losses, rate, stage=self.stage.name)
            if options.checkpoint_every and self.step % options.checkpoint_every == 0:
                self._save()
            if options.sample_every and self.step % options.sample_every == 0:
                self._sample(log)
            if self._complete():
                break
            reason = self._reason_to_stop(began, signals)
            if reason == "interrupt" and signals.received is not None:
                progress.say(f"{signals.received.name}: saving at step {self.step}")
            if reason:
                return reason
        return "steps"

    def _run_hooks(self) -> None:
        # Gathering takes time, and those of our hooks that are not due do not look.
        due = self.sharded and any(_is_due(hook, self.step) for hook in self.hooks)
        with self.sharded.gathered() if due else nullcontext():
            for hook in self.hooks:
                hook(self)
        # Saving is for all processes, and it may be only the first one that scores.
        if self.hooks and self.processes.first_set([self._best_marked], self.device) is not None:
            self.best_step, self._best_marked = self.step, False
            self._save()

    def _complete(self) -> bool:
        kimg = self.options.kimg
        return self.step >= self.options.steps or (kimg is not None and self.images >= 1000 * kimg)

    def _reason_to_stop(self, began: float, signals: StopSignals) -> str:
        limit = self.options.time_limit
        reasons = {
            "interrupt": signals.received is not None,
            "time_limit": limit is not None and time.monotonic() - began >= limit,
            self._stop_reason: bool(self._stop_reason),
        }
        # All processes must stop at the same step, whichever of them has the reason.
        found = self.processes.first_set(list(reasons.values()), self.device)
        return "" if found is None else list(reasons)[found] or "another process"

    def play_step(self) -> None:
        """One step: a batch, every turn that is due, the averages. What `fit` does between steps is not part of it.

        For those who measure or watch steps, inside `global_randomness.active()`; a run is `fit`.
        """
        play_step(self)

    def _open(self) -> str:
        """Prepares the folder, or goes on from what is there. Returns what to tell about it."""
        if self._opened:
            return ""
        notice = ""
        # The others may still be looking whether the folder is vacant.
        self.processes.wait()
        if self.processes.is_first:
            if self.options.overwrite:
                self.run.clear()
            self.run.create()
        self.processes.wait()
        if self.options.resume:
            notice = load_run_state(self, self._config)
            self._saved_at = self.step if self.record.checkpoint else -1
        if self.processes.is_first:
            self.run.write_config(self._config)
        self._opened = True
        return notice

    def _roll_back(self, error: NonFiniteError) -> str:
        """Goes back to the newest checkpoint and on from there with other random numbers. Returns what to tell."""
        self.record.forget_pending()
        rollbacks, seconds = self.rollbacks + 1, self.seconds
        self.batches.close()
        self.game.zero_grad(set_to_none=True)
        load_run_state(self, self._config)
        self.rollbacks, self.seconds = rollbacks, seconds
        self._saved_at = self.step
        return f"{error}: went back to step {self.step} ({rollbacks} of at most {MAX_ROLLBACKS} times)"

    def _save(self) -> Path:
        checkpoint = self.record.checkpoint
        if checkpoint is None or self._saved_at != self.step:
            self.record.flush()
            largest = self._largest_of_all if self.sharded else None
            require_finite_weights(self.game, self.step, checkpoint, largest)
            self.record.checkpoint = checkpoint = save_run_state(self)
            self._saved_at = self.step
        return checkpoint

    def _sample(self, log: MetricsLog) -> None:
        if self._sampled_at == self.step:
            return
        self._sampled_at = self.step
        with self.sharded.gathered():
            if self.processes.is_first:
                draw_samples(self, log)

    def _largest_of_all(self, values: Tensor) -> Tensor:
        return self.processes.largest(values.to(self.device)).cpu()


def _is_due(hook: Callable[[Trainer], None], step: int) -> bool:
    every = getattr(hook, "every", 1)
    return not isinstance(every, int) or every < 1 or step % every == 0
