"""`ganfuse interpolate`: walks between samples of a run."""

from contextlib import ExitStack
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganfuse.commands._errors import CommandError
from ganfuse.commands._sampling import TruncationCutoff, Weights, chosen_classes, class_names, load_for_sampling
from ganfuse.commands._two_domains import Domain, chosen_domains

if TYPE_CHECKING:
    from ganfuse.engine import Game

EXAMPLE = "ganfuse interpolate runs/sagan-digits --out walk.gif --space class --walks 16 --steps 24"


class Space(str, Enum):
    """Between what to walk."""

    z = "z"
    w = "w"
    classes = "class"


def interpolate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    out: Annotated[
        Path, typer.Option(help="File to write: a picture with a row per walk, or .gif, .webp, .mp4.")
    ] = Path("interpolation.png"),
    space: Annotated[
        Space,
        typer.Option(help="Latents z, styles w (style models), or classes with the same latent (GAN-CLS: texts)."),
    ] = Space.z,
    walks: Annotated[int, typer.Option(min=1, help="How many walks.")] = 8,
    steps: Annotated[int, typer.Option(min=2, help="Images of a walk, both ends included.")] = 10,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Classes of the walks, by number or name; pairs of them for --space class.", show_default="at random"
        ),
    ] = None,
    domain: Annotated[
        Domain | None,
        typer.Option(
            help="Of models that draw pairs (CoGAN): a, b, or both, a walk in A above the same in B.",
            show_default="both",
        ),
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(help="z: redraw latents beyond this; w: draw styles towards their mean, 1 is not at all."),
    ] = None,
    truncation_cutoff: TruncationCutoff = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same images.")] = 0,
    weights: Annotated[Weights, typer.Option(help="Moving averages, or the weights as trained.")] = Weights.ema,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or the step of a checkpoint.")] = "latest",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1...")] = "auto",
    columns: Annotated[int | None, typer.Option(min=1, help="Cells in a row of an animation.")] = None,
    scale: Annotated[int, typer.Option(min=1, help="Enlarge every pixel by this whole factor.")] = 1,
    fps: Annotated[float, typer.Option(min=0.1, help="Frames per second of an animation.")] = 16.0,
) -> None:
    """Walk between samples of a trained run: a picture with a row per walk, or an animation.

    Animations come back to where they began, so that they can run for ever.
    """
    import torch

    from ganfuse.engine.animation import ANIMATED, save_animation
    from ganfuse.engine.grid import require_image_ending, save_grid
    from ganfuse.engine.interpolation import interpolate as walk

    animated = out.suffix.lower() in ANIMATED
    if not animated:
        require_image_ending(out)
    game = load_for_sampling(run, weights, checkpoint, device)
    labels = None
    if classes is not None:
        chosen = chosen_classes(classes, class_names(run, game), each=getattr(game, "drawn_classes", None))
        per_walk = 2 if space is Space.classes else 1
        if len(chosen) % per_walk:
            raise CommandError("--classes: for --space class give pairs, from which to which, such as 0,1,3,8")
        labels = torch.tensor(chosen).view(-1, per_walk)
        labels = labels[torch.arange(walks) % len(labels)]
        labels = labels if per_walk == 2 else labels[:, 0]
    of_domains = []
    with ExitStack() as stack:
        _truncate(game, truncation, truncation_cutoff, stack)
        for options in chosen_domains(game, domain, single=False):
            rng = torch.Generator().manual_seed(seed)
            which: dict[str, Any] = {"space": space.value, "labels": labels, "loop": animated, **options}
            of_domains.append(walk(game, walks=walks, steps=steps, rng=rng, **which))
    images = torch.stack(of_domains, 1).flatten(0, 1)
    if animated:
        typer.echo(str(save_animation(images.cpu(), out, frames_per_second=fps, columns=columns, scale=scale)))
    else:
        typer.echo(str(save_grid(images.flatten(0, 1).cpu(), out, columns=steps, scale=scale)))


def _truncate(game: "Game", truncation: float | None, cutoff: int | None, stack: ExitStack) -> None:
    """Enters what truncates, and what batch normalisation needs then."""
    if truncation is None:
        if cutoff is not None:
            raise CommandError("--truncation-cutoff goes with --truncation")
        return
    able: Any = game
    if not hasattr(game, "truncated"):
        raise CommandError(f"--truncation: {game.name} cannot do that")
    if hasattr(game, "synthesize"):
        stack.enter_context(able.truncated(truncation, cutoff))
        return
    if cutoff is not None:
        raise CommandError(f"--truncation-cutoff: {game.name} cannot do that")
    stack.enter_context(able.truncated(truncation))
    if hasattr(game, "standing_statistics"):
        stack.enter_context(able.standing_statistics())
