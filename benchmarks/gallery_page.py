"""docs/gallery/README.md, written from the recipes and the results of `python benchmarks/gallery.py`."""

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gallery_recipes import Recipe
from ganfuse.engine.atomic_file import atomic_write

__all__ = ["PAGE", "anchor", "page", "wrapped", "write"]

PAGE = Path(__file__).resolve().parent.parent / "docs" / "gallery" / "README.md"
WIDTH = 110
_INTRODUCTION = """# Gallery

Drawn with the averaged weights where there are any, one row per class where there are classes, nothing picked. The
eight translators have [a page of their own](translation.md).

Written by `python benchmarks/gallery.py --page` from the recipes in `benchmarks/gallery_recipes.py` and what came of
them, `benchmarks/results/{results}`. `python benchmarks/gallery.py dcgan` repeats a run; `--steps-factor 10
--device cuda` makes a longer one of it. Each is minutes on one CPU core, with narrow networks and large learning
rates: not what a system can do, but that all of it works.

FID is that of the classifier's 128 features ([metrics.md](../metrics.md)), on {num:,} images of each kind, after the
first step and after the last; its fall must reach the factor in the last column. Do not compare it with FID by
Inception.
{machines}
"""
_LONGER = """
## Longer runs

![Digits by SAGAN](../images/sagan-digits.png)

`make demo`: 210 seconds on two CPU cores, 1,434 steps of 32 images at 218 images/s.

```bash
ganfuse train sagan --data digits --out runs/demo --time-limit 210s --batch-size 32 \\
    --set width=16 --set generator_lr=4e-4 --set discriminator_lr=8e-4
ganfuse sample runs/demo --classes each --num 120 --columns 12 --scale 2 --out grid.png
```

![Clothing by SAGAN](../images/sagan-fashion-mnist.png)

4,000 steps of 32 images, which at the 218 images/s above is ten minutes; this run had one core of a busy machine, and
took 22.

```bash
ganfuse train sagan --data fashion-mnist --out runs/fashion --steps 4000 --batch-size 32 \\
    --set width=16 --set generator_lr=4e-4 --set discriminator_lr=8e-4
ganfuse sample runs/fashion --classes each --num 120 --columns 12 --scale 2 --out grid.png
```
"""


def page(recipes: Mapping[str, Recipe], found: Sequence[Mapping[str, Any]], results: str) -> str:
    """The page as Markdown; systems without a result are left out.

    Raises:
        ValueError: there are no results, or they are of several versions of PyTorch or numbers of images.
    """
    rows = {row["system"]: row for row in found if row["system"] in recipes}
    if not rows:
        raise ValueError(f"{results} has no results of these recipes")
    for key in ("torch", "num"):
        if len({row[key] for row in rows.values()}) > 1:
            raise ValueError(f"{results} has results of several kinds of {key}")
    about = next(iter(rows.values()))
    lines = [_INTRODUCTION.format(results=results, num=about["num"], machines=_machines(recipes, rows))]
    lines += ["| system | steps | minutes of CPU | FID, step 1 | FID, last | falls by | at least |", "| --- " * 7 + "|"]
    chosen = [name for name in recipes if name in rows]
    for name in chosen:
        row = rows[name]
        lines.append(
            f"| [{recipes[name].title}](#{anchor(recipes[name].title)}) | {row['steps']:,} | "
            f"{row['cpu_seconds'] / 60:.1f} | {row['fid_first']:.4g} | {row['fid_last']:.4g} | "
            f"×{row['ratio']:.3g} | ×{recipes[name].factor:g} |"
        )
    for name in chosen:
        lines += ["", *_section(name, recipes[name], rows[name])]
    return "\n".join(lines) + "\n" + _LONGER


def write(recipes: Mapping[str, Recipe], found: Sequence[Mapping[str, Any]], results: str) -> None:
    """Writes docs/gallery/README.md.

    Raises:
        ValueError: see `page`.
    """
    text = page(recipes, found, results)
    with atomic_write(PAGE) as file:
        file.write(text.encode())


def _machines(recipes: Mapping[str, Recipe], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """What was measured where, as a paragraph's last sentences."""
    by_device: dict[str, list[str]] = {}
    for name in (name for name in recipes if name in rows):
        by_device.setdefault(rows[name]["device"], []).append(recipes[name].title)
    torch = next(iter(rows.values()))["torch"]
    if len(by_device) == 1:
        where = f"Measured on {next(iter(by_device))}, with PyTorch {torch}."
    else:
        parts = [f"{', '.join(titles)} on {device}" for device, titles in by_device.items()]
        where = f"Measured with PyTorch {torch}: {'; '.join(parts)}. A machine scores with a classifier trained there."
    return textwrap.fill(f"Minutes are the processor's time. {where}", 120, break_on_hyphens=False)


def _section(name: str, recipe: Recipe, row: Mapping[str, Any]) -> list[str]:
    return [
        f"## {recipe.title}",
        "",
        f"![Clothing by {recipe.title}]({name}.png)",
        "",
        recipe.note,
        "",
        "```bash",
        wrapped(row["train"]),
        wrapped(row["sample"]),
        "```",
    ]


def anchor(title: str) -> str:
    """GitHub's name of a heading."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def wrapped(command: str) -> str:
    """A command on lines of at most `WIDTH` characters, an option with its value on one."""
    parts: list[str] = []
    for word in shlex.split(command):
        takes_value = parts and parts[-1].startswith("--") and " " not in parts[-1] and not word.startswith("--")
        if takes_value:
            parts[-1] += f" {shlex.quote(word)}"
        else:
            parts.append(shlex.quote(word))
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) + 3 > WIDTH:
            lines[-1] += " \\"
            lines.append(f"    {part}")
        else:
            lines[-1] += f" {part}"
    return "\n".join(lines)
