"""`ganfuse invert`: the latent with which a run's generator comes nearest to a picture."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ganfuse.commands._errors import CommandError
from ganfuse.commands._output import print_result
from ganfuse.commands._sampling import Weights, chosen_classes, class_names, load_for_sampling

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from ganfuse.engine import Game
    from ganfuse.engine.inversion import Inversion, OnStep
    from ganfuse.engine.latent_space import LatentSpace

EXAMPLE = "ganfuse invert runs/stylegan2-faces photo.png --out inverted --space w+ --steps 1000"


class Space(str, Enum):
    """Where to look for the latent."""

    z = "z"
    w = "w"
    w_plus = "w+"


def invert(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("inverted"),
    space: Annotated[
        Space, typer.Option(help="z; of style models also w, or w+: a w for each layer, which comes nearest.")
    ] = Space.z,
    steps: Annotated[int, typer.Option(min=0, help="Steps of the search; 0: the best start.")] = 500,
    restarts: Annotated[int, typer.Option(min=1, help="Starts; the best one wins.")] = 4,
    lr: Annotated[float, typer.Option(help="Learning rate of the search.")] = 0.1,
    noise_strength: Annotated[
        float, typer.Option(min=0.0, help="Of the noise that explores and fades, as a share of the latents' spread.")
    ] = 0.05,
    encoder_steps: Annotated[
        int,
        typer.Option(min=0, help="Train an encoder on the run's own images for so many steps; its guess is a start."),
    ] = 0,
    encoder_weight: Annotated[
        float, typer.Option(min=0.0, help="Weight of the loss that keeps the latent where the encoder sees it.")
    ] = 0.0,
    fine_tune_steps: Annotated[
        int, typer.Option(min=0, help="Afterwards train the generator on the picture alone for so many steps.")
    ] = 0,
    features: Annotated[
        Path | None,
        typer.Option(
            help="TorchScript network, called with images in [-1, 1]: what it sees shall be alike, too.",
            show_default="pixels only",
        ),
    ] = None,
    feature_weight: Annotated[float | None, typer.Option(min=0.0, help="Weight of that.", show_default="1")] = None,
    class_: Annotated[
        str | None, typer.Option("--class", help="Class, by number or name.", show_default="starts try them in turn")
    ] = None,
    domain: Annotated[str, typer.Option(help="a or b: of models that draw a picture of each domain (CoGAN).")] = "a",
    seed: Annotated[int, typer.Option(min=0, help="The same seed finds the same latent.")] = 0,
    weights: Annotated[Weights, typer.Option(help="Moving averages, or the weights as trained.")] = Weights.ema,
    checkpoint: Annotated[str, typer.Option(help="latest, best, or the step of a checkpoint.")] = "latest",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1...")] = "auto",
) -> None:
    """Find the latent whose image is nearest to a picture.

    Writes reconstruction.png, comparison.png (the picture beside it), and latent.safetensors with "latents" and, where
    there are classes, "labels" (of text-to-image models "embeddings", the best of some of the data's texts);
    generator.safetensors too if that was trained on the picture. The run itself stays as
    it is. The picture is brought to the size of the run's images as its data were. A run with an encoder of its own,
    such as BiGAN's, begins at that one's guess.
    """
    import torch

    from ganfuse.engine.inversion import fine_tune, invert
    from ganfuse.engine.latent_space import latent_space

    if feature_weight is not None and features is None:
        raise CommandError("--feature-weight goes with --features")
    game = load_for_sampling(run, weights, checkpoint, device)
    rng = torch.Generator().manual_seed(seed)
    found_space = latent_space(game, space.value, domain=domain, rng=rng)
    label = _label(class_, run, game)
    target = _read(image, run, found_space)
    options: dict[str, Any] = {"features": _load_features(features, found_space)}
    options["feature_weight"] = 1.0 if feature_weight is None else feature_weight
    encoder = _encoder(game, found_space, target, encoder_steps, rng)
    if encoder_weight and encoder is None:
        raise CommandError(
            f"--encoder-weight needs an encoder, and {game.name} has none of its own for {space.value}",
            hint="--encoder-steps 2000 trains one",
        )
    with _progress("Searching", steps) as advance:
        found = invert(
            target,
            found_space,
            labels=label,
            steps=steps,
            restarts=restarts,
            lr=lr,
            noise_strength=noise_strength,
            encoder=encoder,
            encoder_weight=encoder_weight,
            rng=rng,
            on_step=advance,
            **options,
        )
    searched = float(found.errors[0])
    if fine_tune_steps:
        with _progress("Training the generator", fine_tune_steps) as advance:
            found = fine_tune(target, found_space, found, steps=fine_tune_steps, on_step=advance, **options)
    about = {"space": space.value, "run": str(run), "game": game.name, "seed": str(seed)}
    texts = getattr(game, "texts", None)
    _write(out, found, target, about, texts)
    if fine_tune_steps:
        _write_tensors(out / "generator.safetensors", found_space.generator.state_dict(), about)
    rows = [("at the start", _described(float(found.initial_errors[0]))), ("found", _described(searched))]
    if fine_tune_steps:
        rows.append(("fine-tuned", _described(float(found.errors[0]))))
    if texts is not None and found.labels is not None:
        rows.append(("text", f"number {int(found.labels[0])} of {len(texts)} of the data"))
    elif found.labels is not None:
        rows.append(("class", class_names(run, game)[int(found.labels[0])]))
    print_result(*rows, ("written", out))


def _described(error: float) -> str:
    """Mean squares are of images in [-1, 1], whose range of 2 is the peak of the PSNR."""
    ratio = math.inf if error == 0 else 10.0 * math.log10(4.0 / error)
    return f"mean square error {error:.3g}, PSNR {ratio:.1f} dB"


def _label(text: str | None, run: Path, game: "Game") -> "Tensor | None":
    if text is None:
        return None
    import torch

    chosen = chosen_classes(text, class_names(run, game), option="--class")
    if len(chosen) != 1:
        raise CommandError(f"--class expects one class, got {text!r}")
    return torch.tensor(chosen, device=next(game.parameters()).device)


def _read(image: Path, run: Path, space: "LatentSpace") -> "Tensor":
    """(1, C, H, W) in [-1, 1], of the size and kind that the generator makes."""
    import torch

    from ganfuse.engine.data.image_decoding import decode_image
    from ganfuse.engine.latent_space import frozen
    from ganfuse.engine.noise import Noise
    from ganfuse.engine.run_folder import RunFolder

    with frozen(space.generator), torch.no_grad():
        labels = None if space.num_classes is None else torch.zeros(1, dtype=torch.int64, device=space.device)
        example = space.render(space.draw(1, Noise(torch.Generator().manual_seed(0)), labels), labels)
    _, channels, height, width = example.shape
    if height != width:
        raise CommandError(f"{run} makes images of {width}×{height}; only square ones can be inverted here")
    # How pictures became square for training; the default is not recorded.
    fit = (RunFolder(run).read_config().get("data") or {}).get("resize", "crop")
    pixels = decode_image(image, resolution=height, channels=channels, resize=fit)
    return pixels.unsqueeze(0).to(example).div_(127.5).sub_(1.0)


def _load_features(file: Path | None, space: "LatentSpace") -> "nn.Module | None":
    if file is None:
        return None
    import torch

    if not file.is_file():
        raise FileNotFoundError(f"--features: there is no file {file}")
    try:
        return torch.jit.load(str(file), map_location=space.device)  # type: ignore[no-any-return, no-untyped-call]
    except (RuntimeError, ValueError) as error:
        raise CommandError(f"--features: {file} is not a TorchScript file") from error


def _encoder(game: "Game", space: "LatentSpace", target: "Tensor", steps: int, rng: "Generator") -> "nn.Module | None":
    """One trained for this call, or else the game's own where it has one for this space."""
    import torch
    from torch import nn

    if not steps:
        own = getattr(game, "encoder", None)
        return own if isinstance(own, nn.Module) and space.name == "z" else None
    from ganfuse.engine.latent_encoder import LatentEncoder, train_encoder
    from ganfuse.engine.noise import Noise

    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))
        labels = None if space.num_classes is None else torch.zeros(1, dtype=torch.int64, device=space.device)
        shape = space.draw(1, Noise(rng), labels).shape[1:]
        encoder = LatentEncoder(target.shape[1:], shape).to(target)
    with _progress("Training the encoder", steps) as advance:
        train_encoder(encoder, space, steps=steps, rng=rng, on_step=advance)
    return encoder


@contextmanager
def _progress(what: str, steps: int) -> "Iterator[OnStep]":
    from ganfuse.engine.data.progress import progress_bar

    with progress_bar(what, steps) as advance:

        def on_step(step: int, loss: float) -> None:
            advance(1)

        yield on_step


def _write(out: Path, found: "Inversion", target: "Tensor", metadata: dict[str, str], texts: "Tensor | None") -> None:
    import torch

    from ganfuse.engine.grid import save_grid

    images = found.images.float().clamp(-1.0, 1.0)
    save_grid(images, out / "reconstruction.png", padding=0)
    save_grid(torch.cat([target.float(), images]), out / "comparison.png", columns=2)
    tensors = {"latents": found.latents}
    if found.labels is not None:
        tensors["labels"] = found.labels
        if texts is not None:
            tensors["embeddings"] = texts[found.labels]
    _write_tensors(out / "latent.safetensors", tensors, {**metadata, "error": repr(float(found.errors[0]))})


def _write_tensors(path: Path, tensors: "Mapping[str, Tensor]", metadata: dict[str, str]) -> None:
    from safetensors.torch import save

    from ganfuse.engine.atomic_file import atomic_write

    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(whole, metadata=metadata))
