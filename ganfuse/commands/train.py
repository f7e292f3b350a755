"""`ganfuse train`: from a model's name and a data source to a run folder."""

import re
import shlex
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ganfuse.commands._beginnings import Beginning, beginning_of
from ganfuse.commands._errors import EXIT_INTERRUPTED, CommandError
from ganfuse.commands._output import print_result
from ganfuse.commands._settings import (
    Settings,
    classes_of,
    parse_assignments,
    parse_duration,
    read_settings_file,
    sort_settings,
    with_none,
)

if TYPE_CHECKING:
    from ganfuse.engine import FitSummary, Game
    from ganfuse.engine.data.sources import AnyDataset, DataKind

EXAMPLE = "ganfuse train sagan --data fashion-mnist --resolution 32 --steps 5000 --set width=32"

DEFAULT_MODEL = "sagan"
#: Unless --data says otherwise, by the kind of data that the model is trained on.
DEFAULT_DATA = {
    "images": "digits",
    "unpaired": "digits-thick",
    "paired": "digits-thick",
    "embedded": "captioned:digits",
}


class Precision(str, Enum):
    """Arithmetic of the losses."""

    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def train(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="Name of the model (see: ganfuse models).", show_default="sagan"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="digits, fashion-mnist, a folder or zip of images (class = sub-folder), a packed set (ganfuse pack), "
            "hf:owner/name. Two domains: digits-thick, fashion-edges, a folder with trainA and trainB, a=X,b=Y. "
            "Captions: captioned:digits, captioned:SOURCE, a folder with embeddings.npy.",
            show_default="digits; digits-thick for translation; captioned:digits for text",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/MODEL-DATA")] = None,
    steps: Annotated[int | None, typer.Option(help="Train up to this step.", show_default="10000")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Real images per batch.", show_default="64")] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Side of the images in pixels.", show_default="32; 64 for a folder")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, data order, latents and samples.", show_default="0")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1...", show_default="auto")] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            help="Of the losses; weights stay fp32. On CPUs fp32 is the fastest unless they have AMX or AVX512-BF16.",
            show_default="fp32",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the arithmetic.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that read images.", show_default="0")] = None,
    time_limit: Annotated[str | None, typer.Option(help="Stop and save after this time, such as 90s or 10m.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the run in --out, with its settings; with MODEL, begin it if there is none."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of trainer or model; may be repeated."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file of settings, also a run's config.yaml. Options go before it.")
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SOURCE:FILE|RUN",
            help="Begin with another codebase's weights, such as biggan-pytorch:G_ema.pth (ganfuse import --help lists "
            "the sources), or a run's. MODEL and what the weights determine are theirs.",
            show_default="new weights",
        ),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(help="With --from SOURCE:FILE: which network, where it holds several.", show_default="all"),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="With --from SOURCE:FILE: a further part of the model, PART=FILE. May be repeated."),
    ] = None,
) -> None:
    """Train a model.

    Settings for --set and --config: those of the trainer (checkpoint_every, sample_every, log_every, num_samples, flip,
    kimg, accumulation, channels_last, on_nonfinite, deterministic, tensorboard...), of the data (channels,
    on_bad_image) and of the model (width, generator_lr...; ganfuse models MODEL lists them). An unknown one is answered
    with all.

    On several GPUs or machines: torchrun --nproc-per-node 8 -m ganfuse train ... . The batch is divided among them.

    --from begins with weights that are there, at step 0: to fine-tune on other data. Parts that have none, such as the
    discriminator of a generator alone, begin anew. ganfuse train --from stylegan2-ada:ffhq.pkl --data photos --out RUN

    Ctrl-C saves and stops; --resume goes on from there, with the same result as if nothing had happened.
    """
    given: dict[str, Any] = {
        "model": model,
        "data": data,
        "out": out,
        "steps": steps,
        "batch_size": batch_size,
        "resolution": resolution,
        "seed": seed,
        "device": device,
        "precision": None if precision is None else precision.value,
        "workers": workers,
        "time_limit": None if time_limit is None else parse_duration(time_limit),
    }
    flags = {key: value for key, value in given.items() if value is not None}
    chosen = _chosen(flags, parse_assignments(assignments or []), config)
    beginning: Beginning | None = None
    if from_ is not None:
        if resume:
            raise CommandError("--from and --resume: a run goes on with its own weights", "--resume alone does that")
        beginning = beginning_of(from_, part=part, also=also or (), settings=chosen)
        chosen = _begun_with(beginning, chosen)
    elif part is not None or also:
        raise CommandError(f"--{'also' if part is None else 'part'} goes with --from")
    _train(_combine(chosen, resume=resume), beginning, threads=threads, resume=resume, overwrite=overwrite)


def _chosen(flags: dict[str, Any], assigned: dict[str, Any], config: Path | None) -> dict[str, Any]:
    """Options and --set before the file."""
    for key in flags.keys() & assigned.keys():
        raise CommandError(f"{key} is given both as an option and by --set")
    return (read_settings_file(config) if config is not None else {}) | assigned | flags


def _begun_with(beginning: Beginning, chosen: dict[str, Any]) -> dict[str, Any]:
    """The settings with what the weights determine, which others must not contradict."""
    fixed = {"model": beginning.model}
    fixed |= {key: beginning.config[key] for key in ("resolution", "channels") if key in beginning.config}
    for key, value in fixed.items():
        # Translators take images of any size.
        free = key == "resolution" and default_data(beginning.model) != DEFAULT_DATA["images"]
        if chosen.setdefault(key, value) != value and not free:
            raise CommandError(f"{key}: {beginning.of} has the weights of {value}, got {chosen[key]}")
    chosen.setdefault("data", default_data(beginning.model))
    chosen.setdefault("out", _default_out(f"{beginning.model}-finetuned", str(chosen["data"])))
    return {key: value for key, value in chosen.items() if key not in beginning.keywords}


def _combine(chosen: dict[str, Any], *, resume: bool) -> dict[str, Any]:
    """What was chosen before what the run that is resumed was begun with, or the defaults."""
    subject = {"model": DEFAULT_MODEL} | chosen
    subject.setdefault("data", default_data(str(subject["model"])))
    out = Path(chosen.get("out") or _default_out(subject["model"], subject["data"]))
    stored_config = out / "config.yaml"
    if resume and stored_config.is_file():
        stored = read_settings_file(stored_config)
        for key in ("model", "data"):
            if key in chosen and str(chosen[key]) != stored[key]:
                raise CommandError(
                    f"{out} is a run of {stored['model']} on {stored['data']}, but {key} is {chosen[key]}",
                    hint=f"to go on with it: ganfuse train --out {_quoted(out)} --resume",
                )
        subject = stored | chosen
    elif resume and "model" not in chosen:
        raise CommandError(
            f"--resume: there is no run in {out}",
            hint="where there may be none yet, name the model, too: ganfuse train MODEL --out RUN --resume",
        )
    return subject | {"out": out}


def default_data(model: str) -> str:
    """The source that the model is trained on unless told."""
    from ganfuse.models import model_info

    return DEFAULT_DATA[model_info(model).data_kind]


def _default_out(model: str, data: str) -> Path:
    name = Path(data).resolve().name if Path(data).is_dir() else data
    # Sources such as a=x,b=y or hf:owner/name have signs that folder names should not have.
    return Path("runs") / re.sub(r"[^\w.-]+", "-", f"{model}-{name}")


def _train(
    flat: dict[str, Any], beginning: Beginning | None, *, threads: int | None, resume: bool, overwrite: bool
) -> None:
    import torch

    from ganfuse.engine import Trainer
    from ganfuse.engine.data import default_resolution, open_dataset
    from ganfuse.engine.options import option_names
    from ganfuse.engine.processes import Processes
    from ganfuse.models import model_info

    info = model_info(str(flat["model"]))
    settings = sort_settings(flat, trainer_keys=option_names(), game_keys=info.config)
    settings.game = with_none(settings.game, info.config)
    if threads is not None:
        torch.set_num_threads(threads)
    source, out = settings.subjects["data"], Path(settings.subjects["out"])
    settings.data.setdefault("resolution", supported_resolution(default_resolution(source), info.resolutions))
    processes = Processes.join(settings.trainer.get("device", "auto"))
    with processes.first_one_first():
        data = open_dataset(source, kind=cast("DataKind", info.data_kind), **settings.data)
    torch.manual_seed(_seed(settings))
    game = create_game(info.name, info.config, settings, data, beginning)
    try:
        trainer = Trainer(game, data, out=out, resume=resume, overwrite=overwrite, **settings.trainer)
    except FileExistsError as error:
        raise CommandError(
            f"{out} already holds a run" if out.is_dir() else f"{out} is a file",
            hint="--resume goes on with it, --overwrite replaces it, --out chooses another folder",
        ) from error
    if processes.is_first:
        where = f"{trainer.device}" if processes.count == 1 else f"{processes.count} processes"
        typer.echo(f"Training {info.name} on {source}: {_describe(data, game)}, on {where}", err=True)
    summary = trainer.fit()
    processes.leave()
    if processes.is_first:
        _conclude(summary, game, source, total=trainer.options.steps)


def supported_resolution(wanted: int, supported: tuple[int, ...]) -> int:
    """`wanted` where a model of these resolutions takes it, else the smallest that it takes."""
    return wanted if not supported or wanted in supported else min(supported)


def _seed(settings: Settings) -> int:
    # The trainer checks it too, but the weights are drawn before there is a trainer.
    seed = settings.trainer.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise CommandError(f"seed: expected a whole number of at least 0, got {seed!r}")
    return seed


def create_game(
    name: str, known: dict[str, Any], settings: Settings, data: "AnyDataset", beginning: Beginning | None = None
) -> "Game":
    """The game for this data set: what the data and the trainer determine is not asked of the user."""
    from ganfuse.engine.options import TrainerOptions
    from ganfuse.models import create

    determined = {
        "resolution": data.resolution,
        "channels": data.channels,
        "num_classes": classes_of(getattr(data, "num_classes", 1)),
        # Some hyperparameters scale with it.
        "batch_size": settings.trainer.get("batch_size", TrainerOptions.batch_size),
    }
    if "batch_size" in settings.trainer:
        # Who chooses a batch means that one, and not a paper's for each resolution.
        determined["batch_sizes"] = None
    if hasattr(data, "features"):
        determined["embedding_dim"] = data.features
    if beginning is not None and "num_classes" in beginning.config:
        # The data may have fewer.
        del determined["num_classes"]
    config = {key: value for key, value in determined.items() if key in known} | settings.game
    try:
        return create(name, **config) if beginning is None else beginning.make(**config)
    except TypeError as error:
        # What Python says of a value of the wrong type, such as width: wide.
        raise CommandError(f"cannot build {name} with {config}: {error}") from error


def _describe(data: "AnyDataset", game: "Game") -> str:
    num_classes = getattr(data, "num_classes", 1)
    classes = f", {num_classes} classes" if num_classes > 1 else ""
    parameters = sum(parameter.numel() for parameter in game.parameters())
    size = f"{data.channels}×{data.resolution}×{data.resolution}"
    return f"{_counted(data)} of {size}{classes}; {parameters / 1e6:.1f} million parameters"


def _counted(data: "AnyDataset") -> str:
    domains = getattr(data, "domains", None)
    if domains is None:
        return f"{len(data):,} images"
    if getattr(data, "paired", False):
        return f"{len(data):,} pairs"
    return " and ".join(f"{len(domain):,}" for domain in domains) + " images"


def _conclude(summary: "FitSummary", game: "Game", source: str, *, total: int) -> None:
    from ganfuse.engine.translation import TranslationGame

    clock = f"{summary.seconds:.{0 if summary.seconds >= 10 else 1}f} s ({summary.images_per_second:.0f} images/s)"
    endings = {"steps": "Trained", "time_limit": "Reached the time limit:", "interrupt": "Interrupted and saved:"}
    ending = endings.get(summary.stopped_by, f"Stopped by {summary.stopped_by}:")
    typer.echo(f"{ending} {game.name} on {source}, step {summary.steps:,} of {total:,}, in {clock}")
    grids = sorted((summary.out / "samples").glob("step_*.png"))
    rows = [("samples", grids[-1])] if grids else []
    print_result(*rows, ("checkpoint", summary.checkpoint), ("metrics", summary.out / "metrics.jsonl"))
    typer.echo("Next:")
    run = _quoted(summary.out)
    next_steps = [("go on", f"ganfuse train --out {run} --resume")] if summary.steps < total else []
    if isinstance(game, TranslationGame):
        use = ("translate", f"ganfuse translate {run} IN OUT")
    else:
        use = ("draw", f"ganfuse sample {run} --out grid.png")
    print_result(*next_steps, use)
    if summary.stopped_by == "interrupt":
        raise typer.Exit(EXIT_INTERRUPTED)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
