"""docs/gallery/translation.md, written from the recipes and the results of benchmarks/gallery_translation.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import gallery_page
from benchmarks.gallery_recipes import Recipe
from ganfuse.engine.atomic_file import atomic_write

__all__ = ["PAGE", "page", "write"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "gallery" / "translation.md"
_INTRODUCTION = """# Gallery of translations, pairs and encoders

What minutes on one CPU core give, with narrow networks, 32 px and large learning rates: that all of it works, not what
a system can do. Written by `python benchmarks/gallery_translation.py --page` from
`benchmarks/results/gallery-translation-cpu.jsonl`; `python benchmarks/gallery_translation.py cyclegan` repeats a run,
and `--steps-factor 10 --device cuda` makes a longer one of it. Nothing is picked: pictures are the first of a seed, and
of the test split wherever there is one. In the grids of translators six pictures belong together, a photograph, its
translation, that translated back, and then the same from the other domain (U-GAT-IT: eight, the second of each half
says where it looks).

The domains are made from Fashion-MNIST and from the embedded digits ([data.md](../data.md#two-domains)), so the image
that belongs to each is known: *paired* is the mean absolute difference between a translation and that image, *cycle*
between an image and itself after both translations (images in [-1, 1]). Only CSGAN is shown pairs in training. FID is
that of a classifier's features ([metrics.md](../metrics.md)) on {num:,} images of each domain, the mean of both; not
to be compared with FID by Inception. Each number after the first step → after the last. Minutes are the processor's
time, on {device}, with PyTorch {torch}.
"""
_COLUMNS = (
    ("FID", ("fid",)),
    ("cycle", ("cycle_a", "cycle_b")),
    ("paired A→B", ("paired_ab",)),
    ("paired B→A", ("paired_ba",)),
    ("reconstruction", ("reconstruction",)),
    ("accuracy on A", ("accuracy_a",)),
    ("accuracy on B", ("accuracy_b",)),
)


def page(recipes: Mapping[str, Recipe], found: Sequence[Mapping[str, Any]]) -> str:
    """The page as Markdown; systems without a result are left out.

    Raises:
        ValueError: there are no results.
    """
    rows = {row["system"]: row for row in found}
    chosen = [name for name in recipes if name in rows]
    if not chosen:
        raise ValueError("there are no results of these recipes")
    columns = [(title, keys) for title, keys in _COLUMNS if any(keys[0] in rows[n]["scores_last"] for n in chosen)]
    about = rows[chosen[0]]
    lines = [_INTRODUCTION.format(**{key: about[key] for key in ("device", "torch", "num")})]
    lines += [f"| system | steps | minutes | {' | '.join(title for title, _ in columns)} |"]
    lines += ["| --- " * (3 + len(columns)) + "|"]
    for name in chosen:
        row, title = rows[name], recipes[name].title
        cells = [_fall(row, keys) for _, keys in columns]
        minutes = f"{row['cpu_seconds'] / 60:.1f}"
        link = f"[{title}](#{gallery_page.anchor(title)})"
        lines.append(f"| {link} | {row['steps']:,} | {minutes} | {' | '.join(cells)} |")
    for name in chosen:
        lines += ["", *_section(name, recipes[name], rows[name])]
    inversions = [row for row in found if row.get("kind") == "inversion"]
    return "\n".join([*lines, *_inversion(inversions)]) + "\n"


def write(recipes: Mapping[str, Recipe], found: Sequence[Mapping[str, Any]]) -> None:
    """Writes docs/gallery/translation.md.

    Raises:
        ValueError: see `page`.
    """
    with atomic_write(PAGE) as file:
        file.write(page(recipes, found).encode())


def _fall(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    """From the first step's value to the last's, the mean of several; a dash where the system has none."""
    if keys[0] not in row["scores_last"]:
        return "–"
    first, last = (sum(row[side][key] for key in keys) / len(keys) for side in ("scores_first", "scores_last"))
    return f"{first:.3g} → {last:.3g}"


def _section(name: str, recipe: Recipe, row: Mapping[str, Any]) -> list[str]:
    commands = [gallery_page.wrapped(row[key]) for key in ("train", "evaluate", "sample")]
    picture = f"![{recipe.title} on {recipe.data}]({name}.png)"
    return [f"## {recipe.title}", "", picture, "", recipe.note, "", "```bash", *commands, "```"]


def _inversion(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [
        "",
        "## Inversion",
        "",
        "Below a row of pictures that were not trained on, one row for each way of finding",
    ]
    lines += ["their latents ([inversion.md](../inversion.md)); mean squares of images in [-1, 1]."]
    for row in rows:
        name = row["system"].removeprefix("inversion-")
        lines += ["", f"![Inversion of {name}]({row['system']}.png)", ""]
        lines += ["| run | way | starts | steps | error at the start | found | seconds for all |", "| --- " * 7 + "|"]
        for way, values in row["ways"].items():
            lines.append(
                f"| `{name}` | {way} | {values['starts']} | {values['steps']} | {values['error_at_start']:.3g} | "
                f"{values['error']:.3g} | {values['seconds']:.0f} |"
            )
    commands = [row["command"] for row in rows]
    return [*lines, "", "```bash", *(gallery_page.wrapped(command) for command in commands), "```"]
