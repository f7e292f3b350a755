"""`ganfuse evaluate`: FID and its kin of a run."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ganfuse.commands._errors import CommandError
from ganfuse.commands._sampling import Weights

if TYPE_CHECKING:
    from ganfuse.engine import Game
    from ganfuse.engine.data.sources import AnyDataset, DataKind
    from ganfuse.engine.run_folder import RunFolder

logger = logging.getLogger("ganfuse.evaluate")

EXAMPLE = "ganfuse evaluate runs/sagan-digits --metrics fid,kid,pr --num 1000 --json scores.json"

MOST_IMAGES = 10_000
_DATA_OPTIONS = ("resize", "on_bad_image", "max_images", "split")


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Of fid, kid, is, pr, dc, with commas.",
            show_default="all that the extractor can serve; of two domains fid,kid",
        ),
    ] = None,
    num: Annotated[
        int | None,
        typer.Option(min=2, help="Images of each kind.", show_default="as many as the data has, at most 10000"),
    ] = None,
    extractor: Annotated[
        str,
        typer.Option(help="classifier, random, inception, inception:FILE, or a TorchScript file; auto: by the data."),
    ] = "auto",
    data: Annotated[
        str | None, typer.Option(help="Real images to compare with.", show_default="the run's own data set")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of the real images, where the data set has several.", show_default="train")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of latents, classes and the choice of real images.")] = 0,
    weights: Annotated[Weights, typer.Option(help="Moving averages, or the weights as trained.")] = Weights.ema,
    checkpoint: Annotated[str, typer.Option(help="latest, best, the step of a checkpoint, or all.")] = "latest",
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time; the latents depend on it.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1...")] = "auto",
    standing_statistics: Annotated[
        int,
        typer.Option(min=0, help="Batches from which batch normalisation takes its statistics; 0: those of training."),
    ] = 0,
    truncation: Annotated[
        float | None, typer.Option(help="Of the latents, for models that know how.", show_default="none")
    ] = None,
    paired: Annotated[
        bool,
        typer.Option("--paired", help="Of two domains: compare translations with the images that belong to them."),
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the records to this JSON file.")] = None,
) -> None:
    """Score a trained run: FID, KID, Inception Score, precision and recall, density and coverage.

    Compare scores with equal extractor and equal --num only; both are printed, and stored beside the scores in
    RUN/evaluations.jsonl. The classifier is trained once on the labels of the run's data set, and kept.

    Of a model of two domains, each domain's images are scored (fid_ab: translations from A against B), "fid" is the
    mean; translations there and back are compared with where they began (cycle_a, cycle_b), and with --paired, or a
    model that is trained on pairs, translations with the images that belong to them (paired_ab, paired_ba). These are
    mean absolute differences of images in [-1, 1].
    """
    from ganfuse.engine.metrics.domain_evaluation import has_domains
    from ganfuse.engine.metrics.drawn_images import require_drawable
    from ganfuse.engine.metrics.evaluation_log import append_evaluation
    from ganfuse.engine.metrics.evaluator_choice import make_evaluator
    from ganfuse.engine.metrics.scores import check_metrics
    from ganfuse.engine.options import resolve_device
    from ganfuse.engine.run_folder import RunFolder
    from ganfuse.engine.translation import TranslationGame

    chosen = None if metrics is None else check_metrics([name.strip() for name in metrics.split(",") if name.strip()])
    target = resolve_device(device)
    folder = RunFolder(run)
    steps = _steps(folder, checkpoint)
    game = _load(run, steps[0], weights.value, str(target))
    if paired and not has_domains(game):
        raise CommandError(f"--paired: {game.name} has one domain only")
    if not isinstance(game, TranslationGame):
        # Before a classifier is trained in vain.
        require_drawable(game, truncation=truncation, standing_statistics=standing_statistics)
    own_data, real_data = _open_data(folder, game, data, split, "paired" if paired else game.data_kind)
    # Without averages those that were trained are all there are.
    kept = weights.value if game.ema_targets() else Weights.raw.value
    try:
        evaluator = make_evaluator(
            game,
            extractor,
            own_data,
            real_data,
            chosen,
            device=target,
            num=num or min(len(real_data), MOST_IMAGES),
            batch_size=batch_size,
            seed=seed,
            progress=True,
        )
    except ModuleNotFoundError as error:
        raise CommandError(str(error)) from error
    records = []
    for step in steps:
        if step != steps[0]:
            game = _load(run, step, weights.value, str(target))
        scores = evaluator.evaluate(game, truncation=truncation, standing_statistics=standing_statistics)
        record = {
            "step": step,
            "during": "evaluate",
            "scores": scores,
            "weights": kept,
            "standing_statistics": standing_statistics,
            "truncation": truncation,
            "split": split,
            **evaluator.describe(),
        }
        try:
            append_evaluation(folder, record)
        except OSError as error:
            # Somebody else's run; its scores are wanted all the same.
            logger.warning("not stored: %s", error)
        records.append(record)
    if json_file is not None:
        from ganfuse.engine.atomic_file import atomic_write

        with atomic_write(json_file) as file:
            file.write(json.dumps(records, indent=1, ensure_ascii=False).encode())
        typer.echo(f"wrote {json_file}", err=True)
    _print(records)


def _steps(folder: "RunFolder", checkpoint: str) -> list[int]:
    from ganfuse.engine import CheckpointError
    from ganfuse.engine.checkpoint import list_checkpoints

    folder.read_config()
    if checkpoint not in ("latest", "best", "all") and not checkpoint.isdecimal():
        raise CommandError(f"--checkpoint expects 'latest', 'best', 'all' or a step, got {checkpoint!r}")
    try:
        if checkpoint == "all":
            folder.checkpoint()  # says so if there is none
            return [found.step for found in list_checkpoints(folder.checkpoints)]
        return [folder.checkpoint(int(checkpoint) if checkpoint.isdecimal() else checkpoint).step]
    except CheckpointError as error:
        raise CommandError(str(error)) from error


def _open_data(
    folder: "RunFolder", game: "Game", source: str | None, split: str | None, kind: str
) -> "tuple[AnyDataset, AnyDataset]":
    """The data set that the run was trained on, and the one to compare with, which may be opened as another kind."""
    from ganfuse.engine.data import open_dataset
    from ganfuse.engine.game_data import open_for

    described = folder.read_config().get("data") or {}
    missing = [key for key in ("name", "resolution", "channels") if key not in described]
    if missing and source is not None:
        # Of weights that were trained elsewhere; the features are learnt on what they are compared with.
        data = open_for(game, source, kind=kind, split=split)
        return data, data
    if missing:
        raise CommandError(
            f"{folder.config_file} does not say which data the run was trained on (it has no {missing[0]})",
            "score it from Python, where ganfuse.engine.metrics.Evaluator takes any data set, or name some by --data",
        )
    own_kind = game.data_kind
    # What is at its default is not recorded.
    recorded: dict[str, Any] = {
        key: described[key] for key in ("resolution", "channels", *_DATA_OPTIONS) if key in described
    }
    try:
        own = open_dataset(described["name"], kind=cast("DataKind", own_kind), **recorded)
    except FileNotFoundError as error:
        raise CommandError(f"the data that the run was trained on: {error}") from error
    if len(own) != described.get("length", len(own)):
        logger.warning(
            "the run was trained on %d images of %s; now there are %d, and scores are of these",
            described["length"],
            described["name"],
            len(own),
        )
    if source is None and split is None and kind == own_kind:
        return own, own
    # Other pictures are to be framed alike; how many were taken, and from which split, belongs to the run's own.
    framing: dict[str, Any] = {key: recorded[key] for key in ("resolution", "channels", "resize") if key in recorded}
    options = framing if split is None else {**framing, "split": split}
    return own, open_dataset(source or described["name"], kind=cast("DataKind", kind), **options)


def _load(run: Path, step: int, weights: str, device: str) -> "Game":
    from ganfuse.engine import CheckpointError, load_run

    try:
        return load_run(run, weights=weights, checkpoint=step, device=device)
    except CheckpointError as error:
        raise CommandError(str(error)) from error


def _print(records: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    names = list(records[0]["scores"])
    shown = [name for name in names if not name.endswith("_std")]
    table = Table("step", *shown, box=None, pad_edge=False, header_style="bold")
    for record in records:
        table.add_row(str(record["step"]), *(_cell(record["scores"], name) for name in shown))
    console = Console()
    Console(width=160).print(table) if not console.is_terminal else console.print(table)
    about = records[0]
    extractor = about["extractor"]
    accuracy = extractor.get("accuracy", [])
    accuracies = accuracy if isinstance(accuracy, list) else [accuracy]
    told = f", accuracy {' and '.join(f'{value:.3f}' for value in accuracies)}" if accuracies else ""
    kind = "pairs" if about.get("paired") else "images"
    typer.echo(
        f"{about['num_fake']:,} {about['weights']} samples against {about['num_real']:,} {kind} of {about['data']}; "
        f"features: {extractor['name']}{told}, {extractor['resolution'] or 'any'} px ({extractor['resize']})"
    )


def _cell(scores: dict[str, float], name: str) -> str:
    spread = scores.get(f"{name}_std")
    return f"{scores[name]:.4g}" + (f" ± {spread:.2g}" if spread is not None else "")
