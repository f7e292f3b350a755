"""Short trainings of every system, scored before and after: the runs of docs/gallery/README.md.

    python benchmarks/gallery.py dcgan biggan        # trains, evaluates, draws; appends to benchmarks/results/
    python benchmarks/gallery.py --list
    python benchmarks/gallery.py all --device cuda --steps-factor 10 --runs runs/long --images runs/long
    python benchmarks/gallery.py --page              # writes docs/gallery/README.md from the results

Recipes are in benchmarks/gallery_recipes.py (`--recipes` takes another file of that form). A run is trained for one
step, scored, trained on, and scored again in the same way, with the averaged weights: FID must have fallen by the
recipe's factor. Everything is done by the `ganfuse` commands that are in the record. `seconds` is the clock of the
training, `cpu_seconds` the processor's time, which other programs on the machine lengthen less.
"""

import argparse
import importlib.util
import json
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks import gallery_page
from benchmarks.gallery_recipes import Recipe
from ganfuse.bench import records
from ganfuse.engine.atomic_file import atomic_write

HERE = Path(__file__).resolve().parent
RUNS, IMAGES = Path("runs/gallery"), Path("docs/gallery")
"""Where run folders and pictures go, seen from the repository's folder."""
NUM = 2000
"""Images of each kind to score with."""
GRIDS = 10
"""Grids of samples in a run's folder."""


class Options(NamedTuple):
    """What does not depend on the system."""

    runs: Path
    images: Path
    device: str
    threads: int | None
    steps_factor: float
    num: int


class CommandFailed(RuntimeError):
    """A command of ganfuse ended with an error."""


def read_recipes(path: Path) -> dict[str, Recipe]:
    """The table RECIPES of a file.

    Raises:
        ValueError: there is none.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"--recipes: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    recipes = getattr(module, "RECIPES", None)
    if not isinstance(recipes, dict):
        raise ValueError(f"--recipes: {path} has no table RECIPES")
    return recipes


def commands(name: str, recipe: Recipe, options: Options) -> dict[str, list[str]]:
    """The command lines of a run, by what they do."""
    out = options.runs / name
    steps = max(1, round(recipe.steps * options.steps_factor))
    threads = [] if options.threads is None else ["--threads", str(options.threads)]
    where = ["--device", options.device]
    # Grids of samples on the way show what `ganfuse report` makes of the run, and a collapse while it can be stopped.
    progress = ["--set", f"checkpoint_every={steps}", "--set", f"sample_every={max(1, steps // GRIDS)}"]
    train = ["train", recipe.model or name, "--data", recipe.data, "--out", str(out)]
    score = ["evaluate", str(out), "--metrics", "fid", "--num", str(options.num), *where]
    return {
        "begin": [*train, "--steps", "1", *where, *threads, *progress, *shlex.split(recipe.train), "--overwrite"],
        "train": [*train, "--steps", str(steps), *where, *threads, *progress, *shlex.split(recipe.train)],
        "resume": ["train", "--out", str(out), "--resume", "--steps", str(steps), *threads],
        "evaluate": [*score, *shlex.split(recipe.evaluate)],
        "sample": ["sample", str(out), *where, *shlex.split(recipe.sample), "--out", str(picture(name, options))],
    }


def picture(name: str, options: Options) -> Path:
    """Where the grid goes."""
    return options.images / f"{name}.png"


def run_system(name: str, recipe: Recipe, options: Options) -> dict[str, Any]:
    """Trains, scores and draws one system; gives back its record.

    Raises:
        CommandFailed: a command did not succeed.
    """
    lines = commands(name, recipe, options)
    run = options.runs / name
    _ganfuse(lines["begin"])
    before = _score(lines["evaluate"], run)
    clock, processor = time.perf_counter(), _cpu_seconds()
    _ganfuse(lines["resume"])
    seconds, cpu_seconds = time.perf_counter() - clock, _cpu_seconds() - processor
    after = _score(lines["evaluate"], run)
    options.images.mkdir(parents=True, exist_ok=True)
    _ganfuse(lines["sample"])
    device = torch.device("cpu" if options.device == "cpu" or not torch.cuda.is_available() else "cuda")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    ours = ["python", script, name, "--device", options.device]
    ours += [] if options.threads is None else ["--threads", str(options.threads)]
    ours += [] if options.steps_factor == 1.0 else ["--steps-factor", f"{options.steps_factor:g}"]
    about = records.header("gallery", device, shlex.join(ours), folder="models")
    # What to type, wherever this run's folders are.
    lines = commands(name, recipe, options._replace(runs=RUNS, images=IMAGES))
    return {
        **about,
        "kind": "run",
        "system": name,
        "train": shlex.join(["ganfuse", *lines["train"]]),
        "evaluate": shlex.join(["ganfuse", *lines["evaluate"]]),
        "sample": shlex.join(["ganfuse", *lines["sample"]]),
        "steps": after["step"],
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "images_per_second": _rate(run),
        "fid_first": before["scores"]["fid"],
        "fid_last": after["scores"]["fid"],
        "ratio": before["scores"]["fid"] / after["scores"]["fid"],
        "scores_first": before["scores"],
        "scores_last": after["scores"],
        "factor": recipe.factor,
        "num": after["num_fake"],
        "extractor": after["extractor"],
    }


def _ganfuse(arguments: Sequence[str]) -> None:
    print("ganfuse", shlex.join(arguments), flush=True)
    result = subprocess.run([sys.executable, "-m", "ganfuse", *arguments], check=False)
    if result.returncode:
        raise CommandFailed(f"ganfuse {shlex.join(arguments)}: exit code {result.returncode}")


def _score(arguments: Sequence[str], run: Path) -> dict[str, Any]:
    _ganfuse(arguments)
    record: dict[str, Any] = json.loads((run / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    return record


def _rate(run: Path) -> float | None:
    """Images per second of the training, the median of what was logged; None if the run is too short for a log."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [json.loads(line)["images_per_second"] for line in lines]
    return statistics.median(rates) if rates else None


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def store(record: Mapping[str, Any], path: Path) -> None:
    """Puts the record in the file, in the place of an earlier one of the same system."""
    kept = [r for r in (records.read(path) if path.exists() else []) if r["system"] != record["system"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        for line in [*kept, record]:
            file.write((json.dumps(records.rounded(dict(line), 5)) + "\n").encode())


def main(arguments: list[str] | None = None) -> int:
    """Runs what is asked for; 1 if a system did not reach its factor or failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", help="names of recipes, or all")
    parser.add_argument("--recipes", type=Path, default=HERE / "gallery_recipes.py")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of the run folders")
    parser.add_argument("--images", type=Path, default=HERE.parent / IMAGES, help="folder of the pictures")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder, or a .jsonl file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--steps-factor", type=float, default=1.0, help="train so many times as long")
    parser.add_argument("--num", type=int, default=NUM, help="images to score with")
    parser.add_argument("--list", action="store_true", help="print the recipes' commands and end")
    parser.add_argument("--page", action="store_true", help="write docs/gallery/README.md from the results and end")
    given = parser.parse_args(arguments)
    recipes = read_recipes(given.recipes)
    options = Options(given.runs, given.images, given.device, given.threads, given.steps_factor, given.num)
    chosen = list(recipes) if given.list or given.systems == ["all"] else given.systems
    for name in chosen:
        if name not in recipes:
            parser.error(f"no recipe {name!r}; there are {', '.join(recipes)}")
    if given.list:
        for name in chosen:
            print(shlex.join(["ganfuse", *commands(name, recipes[name], options)["train"]]))
        return 0
    path = records.result_path(given.out, "gallery", torch.device(given.device))
    if given.page:
        gallery_page.write(recipes, records.read(path), path.name)
        return 0
    failed = False
    for name in chosen:
        try:
            record = run_system(name, recipes[name], options)
        except CommandFailed as error:
            print(f"{name}: {error}", flush=True)
            failed = True
            continue
        store(record, path)
        reached = record["ratio"] >= record["factor"]
        failed |= not reached
        print(
            f"{name}: {record['steps']} steps in {record['seconds']:.0f} s ({record['cpu_seconds']:.0f} s of CPU), FID "
            f"{record['fid_first']:.4g} -> {record['fid_last']:.4g}, x{record['ratio']:.3g} "
            f"({'at least' if reached else 'NOT'} x{record['factor']:g})",
            flush=True,
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
