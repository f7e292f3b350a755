"""The trainer: plays a game on a data set, and keeps the run alive, on record and resumable."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ganfuse.engine.batches import BatchSource, ImageData, check_image_data
from ganfuse.engine.determinism import deterministic_algorithms
from ganfuse.engine.ema import EMA, averaged_weights
from ganfuse.engine.game import Game, evaluation_mode
from ganfuse.engine.interrupt import StopSignals
from ganfuse.engine.loss_record import LossRecord, require_finite_weights
from ganfuse.engine.metrics_log import MetricsLog
from ganfuse.engine.options import TrainerOptions, option_names, resolve_device, unknown_option
from ganfuse.engine.progress import TrainingProgress
from ganfuse.engine.run_config import describe_run
from ganfuse.engine.run_folder import RunFolder
from ganfuse.engine.run_state import load_run_state, save_run_state
from ganfuse.engine.seeding import GlobalRandomness, derive_seed, make_generator
from ganfuse.engine.turn_runner import TurnRunner

__all__ = ["FitSummary", "Trainer"]


@dataclass(frozen=True)
class FitSummary:
    """What one call of `Trainer.fit` did.

    Attributes:
        steps: the step that the run has reached.
        images: real images drawn since the run began.
        seconds: that this call took.
        images_per_second: real images drawn per second in this call.
        losses: the latest ones, by "turn/entry".
        stopped_by: "steps" (the run is complete), "interrupt" (Ctrl-C or SIGTERM), "time_limit", or what was given
            to `Trainer.stop`.
        out: the run's folder.
        checkpoint: the checkpoint written last.
    """

    steps: int
    images: int
    seconds: float
    images_per_second: float
    losses: dict[str, float]
    stopped_by: str
    out: Path
    checkpoint: Path


class Trainer:
    """Plays a game for a number of steps.

    A step draws one batch and plays every turn of the game once (see `Turn` for exceptions). The folder `out` receives
    config.yaml, metrics.jsonl, sample grids and checkpoints. Ctrl-C and SIGTERM let the step finish and save first.
    On the CPU a run that was stopped anywhere and resumed gives the same bits as one that was not.

    Args:
        game: moved to the device.
        data: map-style data set of (uint8 image (C, H, W), label), or a source that `open_dataset` knows ("digits", a
            folder), opened at the size and with the channels of the game's own images.
        out: the run's folder.
        steps: at which step the run is complete.
        batch_size: real images per batch; every repetition of a turn after the first draws a further batch.
        seed: of data order, latents, dropout and samples. (Not of the initial weights: the game has them already.)
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        precision: "fp32", or "bf16": losses are computed under autocast, weights stay float32.
        flip: mirror real images left to right at random.
        checkpoint_every: steps between checkpoints; 0 saves only at the end. There is always one at the end.
        sample_every: steps between sample grids; 0 draws one only at the end.
        log_every: steps between lines in metrics.jsonl.
        keep_checkpoints: how many of the newest stay.
        num_samples: about how many images a grid has.
        workers: processes that read images; 0 reads them in this one.
        resume: go on from the newest checkpoint in `out`; begins anew, and says so, if there is none.
        overwrite: remove a run that is in `out`.
        time_limit: seconds after which `fit` stops and saves.
        deterministic: only deterministic algorithms (`torch.use_deterministic_algorithms`) while fitting.
        progress: show progress on stderr.
        tensorboard: also write scalars and grids to `out`/tensorboard.
        hooks: each is called with the trainer after every step; see also `stop`.

    Attributes:
        game, step, device.
        averages: the game's moving averages, by module name.

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
        steps: int = 10_000,
        batch_size: int = 64,
        seed: int = 0,
        device: str | torch.device = "auto",
        precision: str = "fp32",
        flip: bool = False,
        checkpoint_every: int = 1000,
        sample_every: int = 500,
        log_every: int = 10,
        keep_checkpoints: int = 2,
        num_samples: int = 64,
        workers: int = 0,
        resume: bool = False,
        overwrite: bool = False,
        time_limit: float | None = None,
        deterministic: bool = False,
        progress: bool = True,
        tensorboard: bool = False,
        hooks: Sequence[Callable[["Trainer"], None]] = (),
        **unknown: object,
    ) -> None:
        if unknown:
            raise unknown_option(unknown, [*option_names(), "out", "hooks"])
        self.options = TrainerOptions(
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            device=str(device),
            precision=precision,
            flip=flip,
            checkpoint_every=checkpoint_every,
            sample_every=sample_every,
            log_every=log_every,
            keep_checkpoints=keep_checkpoints,
            num_samples=num_samples,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            time_limit=time_limit,
            deterministic=deterministic,
            progress=progress,
            tensorboard=tensorboard,
        )
        self.device = resolve_device(device)
        if isinstance(data, str | os.PathLike):
            data = _open_for(game, data)
        self.run = RunFolder(out)
        if not (resume or overwrite):
            self.run.require_vacant()
        check_image_data(data)
        game.check_data(data)
        self.game = game.to(self.device)
        self.data = data
        self.step = 0
        self.seconds = 0.0
        self.hooks = tuple(hooks)
        self.rng = make_generator(self.device, seed, "noise")
        self.global_randomness = GlobalRandomness(seed, self.device)
        self.record = LossRecord(self.device)
        self.turn_runner = TurnRunner(game, self.device, precision, self.record)
        self.averages = {
            target.module: EMA(game.get_submodule(target.module), target.decay, warmup=target.warmup)
            for target in game.ema_targets()
        }
        self.batches = BatchSource(
            data,
            batch_size=batch_size,
            seed=seed,
            device=self.device,
            dtype=_image_dtype(game),
            workers=workers,
            flip=flip,
        )
        self._config = describe_run(game, data, self.options)
        self._opened = False
        self._saved_at = self._sampled_at = -1
        self._stop_reason = ""

    @property
    def images(self) -> int:
        """Real images drawn since the run began."""
        return self.batches.drawn * self.options.batch_size

    def stop(self, reason: str) -> None:
        """Makes `fit` save and return after the present step. For hooks."""
        self._stop_reason = reason

    def fit(self) -> FitSummary:
        """Trains until the run is complete or stopped. May be called again to go on.

        Raises:
            NonFiniteError: a loss or a weight is NaN or infinite; nothing of that state is saved.
            CheckpointError: a checkpoint cannot be written, or the one to resume from is damaged or does not fit.
        """
        notice = self._open()
        began, first = time.monotonic(), self.images
        self._stop_reason = ""
        with ExitStack() as stack:
            stack.callback(self.batches.close)
            if self.options.deterministic:
                stack.enter_context(deterministic_algorithms())
            stack.enter_context(self.global_randomness.active())
            log = stack.enter_context(MetricsLog(self.run, self.step, tensorboard=self.options.tensorboard))
            progress = stack.enter_context(
                TrainingProgress(self.options.steps, self.step, enabled=self.options.progress)
            )
            signals = stack.enter_context(StopSignals())
            if notice:
                progress.say(notice)
            self.game.train()
            # Gradients that the caller, or an earlier fit that raised, has left.
            self.game.zero_grad(set_to_none=True)
            stopped_by = self._loop(began, signals, progress, log)
            self.record.flush()
            rate = (self.images - first) / max(time.monotonic() - began, 1e-9)
            progress.report(self.step, self.record.latest, rate, last=True)
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
        while self.step < options.steps:
            self._play_step()
            self.seconds = seconds_before + time.monotonic() - began
            progress.advance(self.step)
            if self.step % options.log_every == 0:
                self.record.flush()
                now = time.monotonic()
                rate = (self.images - window_images) / max(now - window_began, 1e-9)
                window_began, window_images = now, self.images
                losses = self.record.latest
                log.write(
                    step=self.step, images=self.images, seconds=self.seconds, losses=losses, images_per_second=rate
                )
                progress.report(self.step, losses, rate)
            if options.checkpoint_every and self.step % options.checkpoint_every == 0:
                self._save()
            if options.sample_every and self.step % options.sample_every == 0:
                self._sample(log)
            for hook in self.hooks:
                hook(self)
            if self.step >= options.steps:
                break
            if signals.received is not None:
                progress.say(f"{signals.received.name}: saving at step {self.step}")
                return "interrupt"
            if options.time_limit is not None and time.monotonic() - began >= options.time_limit:
                return "time_limit"
            if self._stop_reason:
                return self._stop_reason
        return "steps"

    def _play_step(self) -> None:
        self.step += 1
        shared = None
        for turn in self.turn_runner.turns:
            if self.step % turn.every:
                continue
            for repetition in range(turn.repeats):
                if shared is None:
                    batch = shared = self.batches.next(self.rng)
                else:
                    batch = shared if repetition == 0 else self.batches.next(self.rng)
                self.turn_runner.play(turn, batch, self.rng, self.step)
        for name, average in self.averages.items():
            average.update(self.game.get_submodule(name))

    def _open(self) -> str:
        """Prepares the folder, or goes on from what is there. Returns what to tell about it."""
        if self._opened:
            return ""
        notice = ""
        if self.options.overwrite:
            self.run.clear()
        self.run.create()
        if self.options.resume:
            notice = load_run_state(self, self._config)
            self._saved_at = self.step if self.record.checkpoint else -1
        self.run.write_config(self._config)
        self._opened = True
        return notice

    def _save(self) -> Path:
        checkpoint = self.record.checkpoint
        if checkpoint is None or self._saved_at != self.step:
            self.record.flush()
            require_finite_weights(self.game, self.step, checkpoint)
            self.record.checkpoint = checkpoint = save_run_state(self).path
            self._saved_at = self.step
        return checkpoint

    def _sample(self, log: MetricsLog) -> None:
        """Writes the grid of the same latents as ever, drawn with the averaged weights where there are any."""
        if self._sampled_at == self.step:
            return
        from ganfuse.engine.grid import save_grid

        seed = self.options.seed
        rng = make_generator(self.device, seed, "samples")
        with (
            self.global_randomness.aside(derive_seed(seed, "samples", "global")),
            averaged_weights(self.game, self.averages),
            evaluation_mode(self.game),
        ):
            images, columns = self.game.preview(self.options.num_samples, rng=rng)
        save_grid(images.float(), self.run.samples / f"step_{self.step:06d}.png", columns=columns)
        log.write_images(images.float(), self.step)
        self._sampled_at = self.step


def _open_for(game: Game, source: str | os.PathLike[str]) -> ImageData:
    from ganfuse.engine.data import open_dataset

    # Its own images say what size it takes, whatever the game is.
    channels, height, width = game.sample(1, rng=make_generator(torch.device("cpu"), 0, "size")).shape[1:]
    if height != width:
        raise ValueError(f"data: {source} can be opened for square images; open it yourself for {height}×{width}")
    return open_dataset(os.fspath(source), resolution=height, channels=channels)


def _image_dtype(game: Game) -> torch.dtype:
    # Images follow a game in double precision, as tests and studies of numerical errors use it.
    doubles = any(parameter.dtype == torch.float64 for parameter in game.parameters())
    return torch.float64 if doubles else torch.float32
