"""`ganfuse sample`: images from a run, as a grid or as an archive."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganfuse.commands._data_images import draw_reconstructions
from ganfuse.commands._errors import CommandError
from ganfuse.commands._importing import (
    FromOption,
    PartOption,
    SettingsOption,
    has_keyword,
    load_imported,
    require_one,
)
from ganfuse.commands._sampling import (
    StandingStatistics,
    TruncationCutoff,
    Weights,
    chosen_classes,
    class_names,
    load_for_sampling,
    refuse_of_runs,
)
from ganfuse.commands._texts import chosen_embeddings
from ganfuse.commands._two_domains import (
    FEW_TRANSLATED,
    Domain,
    alternate_rows,
    chosen_domains,
    draw_translations,
    refuse_given,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ganfuse.engine import Game

EXAMPLE = "ganfuse sample runs/sagan-digits --out grid.png --classes each --columns 10 --seed 1"

DEFAULT_NUM = 64
DEFAULT_PER_CLASS = 8
DEFAULT_NPZ = 50_000
# Bounds the memory. Fixed, since the random numbers, and with them the images, depend on it.
_BATCH = 64


def sample(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Folder of the run; not with --from.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Picture to write; its ending gives the format.", show_default="grid.png")
    ] = None,
    npz: Annotated[
        Path | None,
        typer.Option(
            help="Archive to write instead: arr_0, uint8 (N, H, W, C), and labels, as evaluation suites read it."
        ),
    ] = None,
    num: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="How many images; of a translator, how many to translate of each domain.",
            show_default=f"{DEFAULT_NUM}; {DEFAULT_PER_CLASS} per class; {DEFAULT_NPZ} for --npz; {FEW_TRANSLATED}",
        ),
    ] = None,
    columns: Annotated[
        int | None, typer.Option(min=1, help="Images in a row.", show_default="about square; a row per class")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
    classes: Annotated[
        str | None,
        typer.Option(help='Classes to draw, by number or name, such as "0,1,2", or "each".', show_default="at random"),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="Of models of texts (GAN-CLS) trained on captioned:SOURCE: a sentence to draw; may be repeated, a row "
            "for each. Or each: the names of the data's classes.",
            show_default="texts of the data",
        ),
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="Of models of texts: embeddings to draw, .npy or .safetensors, (N, features). A row each."),
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="z: redraw latents beyond this; w: draw styles towards their mean, 1 is not at all."),
    ] = None,
    truncation_cutoff: TruncationCutoff = None,
    standing_statistics: StandingStatistics = None,
    domain: Annotated[
        Domain | None,
        typer.Option(
            help="Of models that draw pairs (CoGAN): a, b, or both, rows of A above rows of B.",
            show_default="both; a for --npz",
        ),
    ] = None,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Rows of images of the data above their reconstructions (BiGAN).")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(help="What to translate or reconstruct.", show_default="the run's own data set"),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of that, where it has several: train, test.", show_default="train")
    ] = None,
    weights: Annotated[Weights, typer.Option(help="Moving averages, or the weights as trained.")] = Weights.ema,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or the step of a checkpoint.")] = "latest",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1...")] = "auto",
    scale: Annotated[int, typer.Option(min=1, help="Enlarge every pixel by this whole factor.")] = 1,
    from_: FromOption = None,
    part: PartOption = None,
    set_: SettingsOption = None,
) -> None:
    """Draw images from a trained run, or with another codebase's weights: a grid, or an archive of many.

    With --classes each class gets a row (or as many as --columns makes of it) of equally many images, and so does each
    --text.

    With other weights: ganfuse sample --from biggan-pytorch:G_ema.pth --out grid.png --truncation 0.5

    A translator has nothing to draw from noise. It translates images of its data set, taken at random: rows of an image
    of A, its translation, that translated back, and the same from B (with where the network looks, if it says so).
    """
    import torch

    from ganfuse.engine.grid import require_image_ending, save_grid
    from ganfuse.engine.noise import Noise
    from ganfuse.engine.translation import TranslationGame

    if out is not None and npz is not None:
        raise CommandError("--out and --npz: give one of the two")
    picture = out or Path("grid.png")
    if npz is None:
        require_image_ending(picture)
    require_one(run, from_, part=part, set=set_)
    if from_ is not None:
        refuse_of_runs(weights, checkpoint, data=data, split=split, reconstruct=reconstruct, text=text)
        tabulated = truncation is not None and has_keyword(from_, "truncation")
        if tabulated and standing_statistics is None:
            # Such checkpoints have statistics for each truncation.
            standing_statistics = 0
        keywords = {"truncation": truncation} if tabulated else None
        game, _ = load_imported(from_, part=part, assignments=set_ or (), device=device, keywords=keywords)
        if isinstance(game, TranslationGame):
            raise CommandError(
                f"--from: {game.name} draws nothing from noise", f"ganfuse translate --from {from_} IN OUT"
            )
    else:
        assert run is not None
        game = load_for_sampling(run, weights, checkpoint, device)
    if run is not None and (reconstruct or isinstance(game, TranslationGame)):
        given: dict[str, Any] = {"--npz": npz, "--classes": classes, "--truncation": truncation, "--domain": domain}
        given |= {"--truncation-cutoff": truncation_cutoff, "--standing-statistics": standing_statistics}
        given |= {"--text": text or None, "--embeddings": embeddings}
        refuse_given(given, "nothing is drawn from noise here, images are reconstructed or translated")
        chosen_data: dict[str, Any] = {"seed": seed, "source": data, "split": split}
        if reconstruct:
            both = draw_reconstructions(run, game, num, **chosen_data)
            images, columns = alternate_rows(*both, columns=columns)
        else:
            assert isinstance(game, TranslationGame)
            rows = draw_translations(run, game, num, **chosen_data)
            images, columns = rows.flatten(0, 1), columns or rows.shape[1]
        typer.echo(str(save_grid(images, picture, columns=columns, scale=scale)))
        return
    refuse_given({"--data": data, "--split": split}, f"{game.name} draws from noise, it takes no images")
    usual = DEFAULT_NUM if npz is None else DEFAULT_NPZ

    def per_row(rows: int) -> int:
        return -(-(num or (usual if npz is not None else 0)) // rows) or DEFAULT_PER_CLASS

    labels = None
    wanted = chosen_embeddings(run, game, text, embeddings)
    if classes is not None:
        chosen = chosen_classes(classes, class_names(run, game), each=getattr(game, "drawn_classes", None))
        labels = torch.tensor(chosen).repeat_interleave(per_row(len(chosen)))
        columns = columns or per_row(len(chosen))
    elif wanted is not None:
        columns = columns or per_row(len(wanted))
        wanted = wanted.repeat_interleave(per_row(len(wanted)), 0)
    elif npz is not None and getattr(game, "num_classes", None):
        # Drawn here, so that the archive can say what each image is of.
        drawing: Any = game
        labels = drawing.draw_labels(num or usual, Noise(torch.Generator().manual_seed(seed))).cpu()
    per_image = {key: value for key, value in (("labels", labels), ("embeddings", wanted)) if value is not None}
    count = len(next(iter(per_image.values()))) if per_image else num or usual
    domains = chosen_domains(game, domain, single=npz is not None)
    drawn = []
    with ExitStack() as stack:
        options = _prepared(game, truncation, truncation_cutoff, standing_statistics, stack)
        for which in domains:
            rng = torch.Generator().manual_seed(seed)
            drawn.append(_draw(game, count, per_image, rng, options | which, as_bytes=npz is not None))
    images, columns = (drawn[0], columns) if len(drawn) == 1 else alternate_rows(*drawn, columns=columns)
    if npz is not None:
        typer.echo(str(_save_npz(images, labels, npz)))
    else:
        typer.echo(str(save_grid(images, picture, columns=columns, scale=scale)))


def _prepared(
    game: "Game", truncation: float | None, cutoff: int | None, statistics: int | None, stack: ExitStack
) -> dict[str, Any]:
    """What `game.sample` is to be called with; what holds for all its calls is done once.

    Raises:
        CommandError: the game has no such thing.
    """
    import inspect

    known = inspect.signature(game.sample).parameters
    wanted = {
        "truncation": truncation,
        "truncation_cutoff": cutoff,
        "standing_statistics": statistics,
    }
    options = {name: value for name, value in wanted.items() if value is not None}
    for name in options:
        if name not in known:
            raise CommandError(f"--{name.replace('_', '-')}: {game.name} cannot do that")
    several_batches: Any = game
    if "standing_statistics" in known and hasattr(game, "standing_statistics") and hasattr(game, "truncated"):
        if truncation is not None:
            stack.enter_context(several_batches.truncated(options.pop("truncation")))
        batches = options.pop("standing_statistics", None if truncation is None else 16)
        if batches:
            stack.enter_context(several_batches.standing_statistics(batches))
        options["standing_statistics"] = 0
    return options


def _draw(
    game: "Game", count: int, per_image: "dict[str, Tensor]", rng: Any, options: dict[str, Any], *, as_bytes: bool
) -> "Tensor":
    import torch

    from ganfuse.engine.data.progress import optional_bar

    parts = []
    with optional_bar("drawing", count, count > 10 * _BATCH) as advance:
        for start in range(0, count, _BATCH):
            n = min(_BATCH, count - start)
            own = {key: value[start : start + n] for key, value in per_image.items()}
            images = game.sample(n, rng=rng, **own, **options).float().cpu()
            if as_bytes:
                images = images.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
            parts.append(images)
            advance(n)
    return torch.cat(parts)


def _save_npz(images: "Tensor", labels: "Tensor | None", path: Path) -> Path:
    import numpy as np

    from ganfuse.engine.atomic_file import atomic_write

    arrays = {"arr_0": images.permute(0, 2, 3, 1).contiguous().numpy()}
    if labels is not None:
        arrays["labels"] = labels.numpy()
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # numpy takes open files
    return path
