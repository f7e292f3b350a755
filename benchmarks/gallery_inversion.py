"""Inversion for docs/gallery/translation.md: latents of real pictures, by an encoder, by optimisation, and by both.

    python benchmarks/gallery_translation.py inversion RUN [--space w+] [--steps 300] [--num 12]

Pictures are of the test split of the run's data, none of which it has seen. All ways get the same pictures; errors are
mean squares of images in [-1, 1]. What `ganfuse invert RUN PICTURE` does for one picture, this does for all at once.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import gallery
from ganfuse.bench import records
from ganfuse.engine import Game, load_run
from ganfuse.engine.data import open_dataset
from ganfuse.engine.grid import save_grid
from ganfuse.engine.inversion import Inversion, invert
from ganfuse.engine.latent_space import latent_space
from ganfuse.engine.run_folder import RunFolder

SEED = 1


def ways(game: Game, spaces: list[str], steps: int) -> dict[str, dict[str, Any]]:
    """Keywords of `invert` by what the way is called."""
    found: dict[str, dict[str, Any]] = {}
    encoder = getattr(game, "encoder", None)
    for name in spaces:
        search = {"space": name, "steps": steps, "restarts": 4}
        if name == "z" and encoder is not None:
            found["encoder"] = {"space": "z", "steps": 0, "restarts": 1, "encoder": encoder}
        found[f"search in {name}"] = search
        if name == "z" and encoder is not None:
            found["search from the encoder's guess"] = {**search, "restarts": 1, "encoder": encoder}
    return found


def run_way(game: Game, images: Tensor, options: dict[str, Any]) -> tuple[Inversion, float]:
    """What is found, and how long it took."""
    options = dict(options)
    space = latent_space(game, options.pop("space"), rng=torch.Generator().manual_seed(SEED))
    start = time.perf_counter()
    found = invert(images, space, rng=torch.Generator().manual_seed(SEED), **options)
    return found, time.perf_counter() - start


def pictures(run: Path, num: int) -> Tensor:
    """Of the test split, (num, C, H, W) in [-1, 1]."""
    described = RunFolder(run).read_config()["data"]
    data = open_dataset(
        described["name"], resolution=described["resolution"], channels=described["channels"], split="test"
    )
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(SEED))[:num].tolist()
    return torch.stack([data[index][0] for index in chosen]) / 127.5 - 1.0


def main(arguments: list[str], out: Path) -> int:
    """Inverts, draws a row for each way below one of the pictures, appends a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run, named after its system")
    parser.add_argument("--space", action="append", choices=("z", "w", "w+"), help="may be repeated (default: z)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--num", type=int, default=12)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--images", type=Path, default=gallery.HERE.parent / gallery.IMAGES)
    given = parser.parse_args(arguments)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    game = load_run(given.run, device="cpu")
    images = pictures(given.run, given.num)
    rows, values = [images], {}
    for name, options in ways(game, given.space or ["z"], given.steps).items():
        found, seconds = run_way(game, images, options)
        rows.append(found.images.clamp(-1, 1))
        values[name] = {
            "error": float(found.errors.mean()),
            "error_at_start": float(found.initial_errors.mean()),
            "starts": options["restarts"],
            "steps": options["steps"],
            "seconds": seconds,
        }
        print(
            f"{name}: {values[name]['error_at_start']:.4f} -> {values[name]['error']:.4f}, {seconds:.1f} s", flush=True
        )
    given.images.mkdir(parents=True, exist_ok=True)
    save_grid(torch.cat(rows), given.images / f"inversion-{game.name}.png", columns=given.num, scale=2)
    about = records.header("gallery", torch.device("cpu"), shlex.join(["python", *sys.argv]), folder="models")
    record = {"kind": "inversion", "system": f"inversion-{game.name}", "num": given.num, "ways": values}
    gallery.store({**about, **record}, out)
    return 0
