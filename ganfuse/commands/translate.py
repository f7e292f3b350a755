"""`ganfuse translate`: pictures of one domain to the other, by a run of a model that translates or imported weights."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganfuse.commands._errors import EXIT_FAILED, CommandError
from ganfuse.commands._importing import FromOption, PartOption, SettingsOption, load_imported, require_one
from ganfuse.commands._sampling import Weights, load_for_sampling, refuse_of_runs

if TYPE_CHECKING:
    from torch import Tensor

    from ganfuse.engine.translation import TranslationGame

logger = logging.getLogger("ganfuse.translate")

EXAMPLE = "ganfuse translate runs/cyclegan-horse2zebra photos/horses translated --direction ab"

# Of lossy formats. Pillow's own default is made for thumbnails.
_QUALITY = {"JPEG": {"quality": 95}, "WEBP": {"quality": 95}, "AVIF": {"quality": 95}}


class Direction(str, Enum):
    """From which domain to which."""

    ab = "ab"
    ba = "ba"


class Resize(str, Enum):
    """At which size pictures are translated."""

    keep = "keep"
    train = "train"


class OnBadImage(str, Enum):
    """What a file that cannot be read does."""

    error = "error"
    skip = "skip"


def translate(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN] IN OUT",
            help="Folder of the run (not with --from); a picture, or a folder of pictures and folders; a folder to "
            "write to, under the names in IN, or one picture.",
        ),
    ],
    direction: Annotated[Direction, typer.Option(help="ab: from domain A to B; ba: from B to A.")] = Direction.ab,
    resize: Annotated[
        Resize,
        typer.Option(
            help="keep the size of each picture, or bring all to the size of training, as there; of a run that crops, "
            "whole pictures to the size of its crops."
        ),
    ] = Resize.keep,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures of equal size at a time.")] = 1,
    weights: Annotated[Weights, typer.Option(help="Moving averages, or the weights as trained.")] = Weights.ema,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or the step of a checkpoint.")] = "latest",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1...")] = "auto",
    on_bad_image: Annotated[
        OnBadImage, typer.Option(help="A file that cannot be read stops with its name, or is left out.")
    ] = OnBadImage.error,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace pictures that are there already.")] = False,
    heat_map: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pictures of where the network looks, under the same names (ugatit).", show_default="none"
        ),
    ] = None,
    cycle: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the translations translated back, under the same names: what was lost on the way.",
            show_default="none",
        ),
    ] = None,
    from_: FromOption = None,
    part: PartOption = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="With --from: a further network, such as generator_ba=FILE for --cycle. May be repeated."),
    ] = None,
    set_: SettingsOption = None,
) -> None:
    """Translate pictures to the other domain.

    Any size will do: where the network takes only multiples of some number, a picture is continued at its borders as in
    a mirror, translated, and cropped back. Gray or colour is what the run was trained on. Names and folders are kept;
    what is written has the ending, and so the format, of what was read.

    With other weights: ganfuse translate --from cyclegan-pix2pix:latest_net_G_A.pth photos translated
    """
    from ganfuse.engine.data.progress import progress_bar
    from ganfuse.engine.translation import TranslationGame

    run, source, out = _arguments(paths, from_)
    require_one(run, from_, part=part, also=also, set=set_)
    jobs = _jobs(source, out)
    if heat_map is not None:
        jobs = [replace(job, heat=heat_map / _name(job, out)) for job in jobs]
    if cycle is not None:
        jobs = [replace(job, cycle=cycle / _name(job, out)) for job in jobs]
    _require_apart(source, {"--heat-map": heat_map, "--cycle": cycle})
    _require_vacant(jobs, overwrite)
    if from_ is not None:
        refuse_of_runs(weights, checkpoint)
        place = f"generator_{direction.value}"
        game, held = load_imported(
            from_, part=part, also=also or (), assignments=set_ or (), device=device, place=place
        )
        _require_generators(from_, held, ("generator_ab", "generator_ba") if cycle is not None else (place,))
    else:
        assert run is not None
        game = load_for_sampling(run, weights, checkpoint, device)
    if not isinstance(game, TranslationGame):
        given = f"{run} is a run of" if from_ is None else f"{from_} is a checkpoint of"
        raise CommandError(
            f"{given} {game.name}, which does not translate pictures",
            hint=f"ganfuse sample {run or f'--from {from_}'} --out grid.png draws from it",
        )
    if heat_map is not None and not hasattr(game, "heat_map"):
        raise CommandError(f"--heat-map: {game.name} does not say where it looks; ugatit does")
    report = _Report()
    reading = _pictures(jobs, run, game, resize, on_bad_image, report)
    with progress_bar("Translating", len(jobs)) as advance:
        for batch in _batches(reading, batch_size):
            _translate(game, [pixels for _, pixels in batch], [job for job, _ in batch], direction.value, report)
            advance(len(batch))
    report.tell(game, out, of=len(jobs))


def _arguments(paths: list[Path], from_: str | None) -> tuple[Path | None, Path, Path]:
    """Run, IN and OUT; of two paths with --from there is no run."""
    if from_ is not None and len(paths) == 2:
        return None, paths[0], paths[1]
    if from_ is None and len(paths) == 3:
        return paths[0], paths[1], paths[2]
    expected = "RUN IN OUT" if from_ is None else "IN OUT with --from"
    raise CommandError(f"expected {expected}, got {len(paths)} path{'' if len(paths) == 1 else 's'}")


def _require_generators(from_: str, held: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Raises CommandError where a translator is wanted that is not among the networks of a checkpoint."""
    for name in wanted:
        if held != ("generator",) and name not in held:
            why = "--cycle needs both" if len(wanted) > 1 else "--direction asks for it"
            raise CommandError(
                f"--from: {from_} holds {', '.join(held)}, but no {name}, and {why}", f"--also {name}=FILE adds it"
            )


@dataclass(frozen=True)
class _Job:
    source: Path
    target: Path
    heat: Path | None = None
    cycle: Path | None = None

    def results(self) -> list[tuple[str, Path]]:
        """What is written, and by which argument."""
        named = {"OUT": self.target, "--heat-map": self.heat, "--cycle": self.cycle}
        return [(name, path) for name, path in named.items() if path is not None]


@dataclass
class _Report:
    written: int = 0
    padded: int = 0
    skipped: list[str] = field(default_factory=list)

    def tell(self, game: "TranslationGame", out: Path, of: int) -> None:
        if self.padded:
            takes = f"sides that are multiples of {game.size_multiple} and at least {game.least_size}"
            if game.one_size:
                takes = f"{game.least_size}×{game.least_size} alone"
            done = f"{self.padded} of {of} pictures were padded as in a mirror and cropped back"
            typer.echo(f"{done}: {game.name} takes {takes}", err=True)
        if self.skipped and not self.written:
            raise CommandError(f"none of the {of} pictures can be read", code=EXIT_FAILED)
        skipped = f", skipped {len(self.skipped)} that cannot be read" if self.skipped else ""
        typer.echo(f"Translated {self.written} {'picture' if self.written == 1 else 'pictures'} to {out}{skipped}")


def _jobs(source: Path, out: Path) -> list[_Job]:
    from ganfuse.engine.data.image_store import FolderStore, is_image_name
    from ganfuse.engine.grid import require_image_ending

    if not source.is_dir():
        if not source.exists():
            raise FileNotFoundError(f"IN: {source}: no such file or folder")
        target = out if is_image_name(out.name) and not out.is_dir() else out / source.name
        jobs = [_Job(source, target)]
    else:
        _require_apart(source, {"OUT": out})
        if out.exists() and not out.is_dir():
            raise NotADirectoryError(f"OUT: {out} is a file, expected a folder")
        store = FolderStore(source)
        if not store.names:
            raise CommandError(f"IN: there is no picture in {source}")
        jobs = [_Job(source / name, out / name) for name in store.names]
    for job in jobs:
        require_image_ending(job.target)
    return jobs


def _require_apart(source: Path, folders: Mapping[str, Path | None]) -> None:
    """Raises CommandError for a folder of results in the folder of pictures."""
    folder = source.resolve()
    for name, wanted in folders.items():
        inside = None if wanted is None else wanted.resolve()
        if source.is_dir() and inside is not None and (inside == folder or folder in inside.parents):
            raise CommandError(
                f"{name}: {wanted} lies in IN, {source}", "another call would translate the results; choose a folder"
            )


def _name(job: _Job, out: Path) -> Path:
    """What the result is called in the folder of results."""
    return job.target.relative_to(out) if out in job.target.parents else Path(job.target.name)


def _require_vacant(jobs: list[_Job], overwrite: bool) -> None:
    sources = {job.source.resolve() for job in jobs}
    results = [(name, path) for job in jobs for name, path in job.results()]
    for name, path in results:
        if path.is_dir() or path.resolve() in sources:
            what = "is a folder" if path.is_dir() else "is a picture to translate itself"
            raise CommandError(f"{name}: {path} {what}", "choose another folder")
    wanted = [path for _, path in results]
    if len(set(wanted)) < len(wanted):
        option = "--heat-map" if jobs[0].heat in (jobs[0].target, jobs[0].cycle) else "--cycle"
        raise CommandError(f"{option}: pictures of both kinds would have the same names", "choose another folder")
    there = [(name, path) for name, path in results if path.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise CommandError(f"{there[0][0]}: {there[0][1]}{more} already there", "--overwrite replaces them")


def _pictures(
    jobs: list[_Job],
    run: Path | None,
    game: "TranslationGame",
    resize: Resize,
    on_bad_image: OnBadImage,
    report: _Report,
) -> "Iterator[tuple[_Job, Tensor]]":
    """Each picture that can be read, uint8 (C, H, W)."""
    from ganfuse.engine.data.image_decoding import UnreadableImageError, decode_image, decode_picture
    from ganfuse.engine.run_folder import RunFolder

    # Not `image_shape`: a game that crops has not seen images of that size.
    channels, resolution = game.image_shape[0], game.training_size
    # How pictures became square for training; the default is not recorded.
    described = {} if run is None else RunFolder(run).read_config()
    fit = (described.get("data") or {}).get("resize", "crop")
    for job in jobs:
        try:
            if resize is Resize.keep:
                yield job, decode_picture(job.source, channels=channels)
            else:
                yield job, decode_image(job.source, resolution=resolution, channels=channels, resize=fit)
        except UnreadableImageError as error:
            if on_bad_image is OnBadImage.error:
                raise
            logger.warning("skipped: %s", error)
            report.skipped.append(str(job.source))


def _batches(pictures: "Iterator[tuple[_Job, Tensor]]", size: int) -> "Iterator[list[tuple[_Job, Tensor]]]":
    """As many at a time as follow each other with the same size."""
    waiting: list[tuple[_Job, Tensor]] = []
    for picture in pictures:
        if waiting and (len(waiting) == size or waiting[0][1].shape != picture[1].shape):
            yield waiting
            waiting = []
        waiting.append(picture)
    if waiting:
        yield waiting


def _translate(
    game: "TranslationGame", pictures: "list[Tensor]", jobs: list[_Job], direction: str, report: _Report
) -> None:
    import torch

    from ganfuse.engine.heat_colors import overlay_heat
    from ganfuse.engine.image_padding import crop_to, pad_to_multiple

    parameter = next(game.parameters())
    images = torch.stack(pictures).to(parameter.device, parameter.dtype).div_(127.5).sub_(1.0)
    height, width = images.shape[2:]
    if game.one_size and max(height, width) > game.least_size:
        raise CommandError(
            f"{jobs[0].source} is {width}×{height}, and this {game.name} takes "
            f"{game.least_size}×{game.least_size} alone",
            "--resize train brings pictures to the size of training",
        )
    padded = pad_to_multiple(images, game.size_multiple, game.least_size)
    if padded.shape != images.shape:
        report.padded += len(images)
    translated = game.translate(padded, direction)
    _save([job.target for job in jobs], crop_to(translated, height, width))
    report.written += len(jobs)
    if jobs[0].heat is not None:
        heat = crop_to(game.heat_map(padded, direction), height, width)  # type: ignore[attr-defined, operator]
        _save([job.heat for job in jobs], overlay_heat(images, heat))
    if jobs[0].cycle is not None:
        back = game.translate(translated, direction[::-1])
        _save([job.cycle for job in jobs], crop_to(back, height, width))


def _save(paths: "list[Path] | list[Path | None]", images: "Tensor") -> None:
    from ganfuse.engine.grid import require_image_ending, save_pixels
    from ganfuse.engine.metrics.image_batches import to_uint8

    for path, pixels in zip(paths, to_uint8(images).cpu()):
        assert path is not None
        options: dict[str, Any] = _QUALITY.get(require_image_ending(path), {})
        save_pixels(pixels, path, **options)
