"""The trainer's options, checked."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from ganfuse.engine.game import Turn
from ganfuse.engine.precision import PRECISIONS
from ganfuse.engine.stability import StabilityOptions

__all__ = ["TrainerOptions", "option_names", "resolve_device"]

ON_NONFINITE = ("stop", "skip", "rollback")
# Options that decide the course of a run: a resumed run must have the same.
FIXED_BY_RUN = (
    "batch_size",
    "seed",
    "precision",
    "flip",
    "accumulation",
    "held_out",
    "clamp_singular_values",
    "clamp_singular_values_ratio",
    "clamp_players",
    "orthogonal_beta",
    "orthogonal_form",
    "orthogonal_players",
)


@dataclass(frozen=True)
class TrainerOptions(StabilityOptions):
    """The keywords of `ganfuse.engine.Trainer`; those of `StabilityOptions` are among them.

    Attributes:
        steps: at which step the run is complete.
        kimg: after how many thousands of real images it is complete, if that is earlier; None: the steps decide.
        batch_size: real images per batch, of all processes together; every repetition of a turn after the first draws
            a further batch.
        accumulation: into how many micro-batches each batch is cut, whose gradients are added up: one number, or one
            for each player or turn by name. The result is the same but for statistics over the batch.
        seed: of data order, latents, dropout and samples. (Not of the initial weights: the game has them already.)
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1", …
        precision: "fp32"; or "bf16", "fp16": losses are computed under autocast, weights stay float32.
        channels_last: memory format of images and of the convolutions' weights.
        compile: run the networks through `torch.compile`, except in turns whose losses contain gradients.
        cuda_graphs: replay the forward and backward pass of each turn as one CUDA graph, which saves the time of
            launching kernels one by one. For GPUs, batches of one size, fp32 and bf16, without accumulation.
        activation_checkpointing: keep only the inputs of the networks' blocks for the backward pass, which computes the
            rest again: less memory, about a third more time.
        shard_optimizer: in a distributed run, each process keeps the optimiser's state of a part of the parameters and
            updates those (ZeRO-1, Rajbhandari et al. 2020, arXiv 1910.02054).
        shard_networks: names of modules of the game whose parameters, gradients, averages and optimiser's state are
            spread over the processes (`fully_shard`, ZeRO-3), such as "generator" or ["generator", "discriminator"].
            Not for networks that a turn with a gradient penalty moves.
        flip: mirror real images left to right at random.
        checkpoint_every: steps between checkpoints; 0 saves only at the end. There is always one at the end.
        sample_every: steps between sample grids; 0 draws one only at the end.
        log_every: steps between lines in metrics.jsonl.
        keep_checkpoints: how many of the newest stay.
        num_samples: about how many images a grid has.
        workers: processes that read images; 0 reads them in this one.
        prefetch: read the next batch, and send it to a GPU, while the present one is worked on.
        evaluate_every: steps between scores (see `ganfuse.engine.metrics.Evaluate`); 0: none.
        evaluate_metrics: which; the first one says which step is the best, and its checkpoint is kept.
        evaluate_num: images of each kind that are compared.
        held_out: the share of the data that is not trained on, for the collapse monitor; 0: none.
        monitor_every: steps between what the collapse monitor logs: the discriminator's accuracy on held-out images
            against training ones, and top singular values; 0: none.
        on_nonfinite: what a loss or gradient that is NaN or infinite does: "stop" the run with an error, "skip" the
            step of the optimiser, or "rollback" to the newest checkpoint and on with other random numbers.
        resume: go on from the newest checkpoint in `out`; begins anew, and says so, if there is none.
        overwrite: remove a run that is in `out`.
        time_limit: seconds after which `fit` stops and saves.
        deterministic: only deterministic algorithms (`torch.use_deterministic_algorithms`) while fitting.
        progress: show progress on stderr.
        tensorboard: also write scalars and grids to `out`/tensorboard.
        wandb: also write them to this project of Weights & Biases.
    """

    steps: int = 10_000
    kimg: float | None = None
    batch_size: int = 64
    accumulation: int | Mapping[str, int] = 1
    seed: int = 0
    device: str | torch.device = "auto"
    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    cuda_graphs: bool = False
    activation_checkpointing: bool = False
    shard_optimizer: bool = False
    shard_networks: Sequence[str] = ()
    flip: bool = False
    checkpoint_every: int = 1000
    sample_every: int = 500
    log_every: int = 10
    keep_checkpoints: int = 2
    num_samples: int = 64
    workers: int = 0
    prefetch: bool = False
    evaluate_every: int = 0
    evaluate_metrics: Sequence[str] = ("fid",)
    evaluate_num: int = 2000
    held_out: float = 0.0
    monitor_every: int = 0
    on_nonfinite: str = "stop"
    resume: bool = False
    overwrite: bool = False
    time_limit: float | None = None
    deterministic: bool = False
    progress: bool = True
    tensorboard: bool = False
    wandb: str | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], *, also: Collection[str] = ()) -> "TrainerOptions":
        """The options with these names and values, the others at their defaults.

        Raises:
            ValueError: an unknown option (naming the nearest, also among `also`) or a wrong value.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in options if name not in known]
        if unknown:
            names = [*known, *also]
            near = difflib.get_close_matches(unknown[0], names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(names)}"
            raise ValueError(f"{unknown[0]}: the trainer has no such option; {hint}")
        return cls(**options)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_size", "log_every", "keep_checkpoints", "num_samples", "evaluate_num"):
            _require_int(name, getattr(self, name), 1)
        for name in ("seed", "checkpoint_every", "sample_every", "workers", "evaluate_every", "monitor_every"):
            _require_int(name, getattr(self, name), 0)
        if not 0.0 <= self.held_out < 1.0:
            raise ValueError(f"held_out: expected a share of the data, 0 <= held_out < 1, got {self.held_out!r}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, bool) and not isinstance(value, bool):
                raise ValueError(f"{field.name}: expected True or False, got {value!r}")
        for name, choices in (("precision", tuple(PRECISIONS)), ("on_nonfinite", ON_NONFINITE)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name}: expected one of {', '.join(map(repr, choices))}, got {getattr(self, name)!r}"
                )
        for name, what in (("time_limit", "seconds"), ("kimg", "thousands of images")):
            limit = getattr(self, name)
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0):
                raise ValueError(f"{name}: expected {what} above 0 or None, got {limit!r}")
        object.__setattr__(self, "device", str(self.device))
        if self.resume and self.overwrite:
            raise ValueError("resume: cannot be combined with overwrite; give one of the two")
        counts = self.accumulation if isinstance(self.accumulation, Mapping) else {"": self.accumulation}
        for name, count in counts.items():
            _require_int(f"accumulation{f' of {name}' if name else ''}", count, 1)
        for option in ("shard_networks", "evaluate_metrics"):
            object.__setattr__(self, option, _names(option, getattr(self, option)))
        self._check_sharding()
        if self.cuda_graphs and (self.precision == "fp16" or max(counts.values()) > 1):
            raise ValueError("cuda_graphs: cannot be combined with precision='fp16' or accumulation")

    def _check_sharding(self) -> None:
        if not self.shard_networks:
            return
        excluded = {
            "shard_optimizer": self.shard_optimizer,
            "compile": self.compile,
            "cuda_graphs": self.cuda_graphs,
            "precision='fp16'": self.precision == "fp16",
        }
        found = [name for name, given in excluded.items() if given]
        if found:
            raise ValueError(f"shard_networks: cannot be combined with {', '.join(found)}")

    def accumulation_of(self, turn: Turn) -> int:
        """Into how many micro-batches a turn's batch is cut."""
        if isinstance(self.accumulation, int):
            return self.accumulation
        names = [name for name in (turn.name, *turn.players) if name in self.accumulation]
        return self.accumulation[names[0]] if names else 1

    def check_turns(self, turns: Sequence[Turn]) -> None:
        """Raises ValueError if `accumulation` names what the game has not, or cuts one turn's batch in two ways."""
        if isinstance(self.accumulation, int):
            return
        known = list(dict.fromkeys(name for turn in turns for name in (*turn.players, turn.name)))
        for name in self.accumulation:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"its players and turns: {', '.join(known)}"
                raise ValueError(f"accumulation: the game has no player or turn {name!r}; {hint}")
        for turn in turns:
            counts = {name: self.accumulation[name] for name in turn.players if name in self.accumulation}
            if turn.name not in self.accumulation and len(set(counts.values())) > 1:
                raise ValueError(
                    f"accumulation: {' and '.join(counts)} move in one turn, {turn.name!r}, whose batch is cut once; "
                    f"got {counts!r}"
                )

    def check_batch(self, batch_size: int, processes: int) -> None:
        """Raises ValueError if a batch cannot be divided among processes and micro-batches equally."""
        counts = self.accumulation.values() if isinstance(self.accumulation, Mapping) else [self.accumulation]
        for count in counts:
            if batch_size % (count * processes):
                raise ValueError(
                    f"batch_size: {batch_size} images cannot be divided equally into {count} micro-batches "
                    f"in each of {processes} processes"
                )


def _require_int(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")


def _names(option: str, value: object) -> tuple[str, ...]:
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{option}: expected a name or a list of names (also with commas), got {value!r}")
    return tuple(dict.fromkeys(names))


def option_names() -> list[str]:
    """The names of all options."""
    return [field.name for field in fields(TrainerOptions)]


def resolve_device(device: str | torch.device) -> torch.device:
    """The device of that name; "auto" is the current GPU if PyTorch can use one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device: expected 'auto', 'cpu', 'cuda', 'cuda:1' or the like, got {device!r}") from error
    if resolved.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device: {device} was asked for, but PyTorch finds no usable GPU here")
        index = torch.cuda.current_device() if resolved.index is None else resolved.index
        if index >= torch.cuda.device_count():
            raise ValueError(f"device: {device} was asked for, but there are only {torch.cuda.device_count()} GPUs")
        return torch.device("cuda", index)
    try:
        torch.empty(0, device=resolved)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise ValueError(f"device: {device} cannot be used here ({error})") from error
    if resolved.type == "meta":
        raise ValueError("device: nothing can be trained on the meta device")
    return resolved
