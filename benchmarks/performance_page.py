"""Write docs/performance.md from the committed results; no number on that page is typed by hand.

python benchmarks/performance_page.py                                     # of benchmarks/results/*.jsonl
python benchmarks/performance_page.py --results FILE... --out PAGE

Every result file of `ganfuse bench` and of the scripts in benchmarks/ has a section, by the benchmark that its first
line names; the snapshot of `ganfuse inspect` has one, too. A benchmark that is not in `REPORTS` gets a plain table.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import performance_summary
from ganfuse.bench import records, table, training_table
from ganfuse.bench.subject import OURS
from ganfuse.kernels.inspection_snapshot import FIELDS, Snapshot

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
SNAPSHOT = RESULTS / "compiled-kernels.json"
Records = Sequence[Mapping[str, Any]]

_INTRODUCTION = """# Performance

Written by `python benchmarks/performance_page.py` from the results in `benchmarks/results/`: to change it, measure
again. Each section says on what device and with which versions it was measured, at which commit and by what command;
`+` behind a commit means that files differed from it. Sections without a GPU in their first line say nothing about one:
no Triton kernel ran in them. What is wrong against float64 has no time.
"""


_IN_SHORT = """## In short

The time of the other way over ganfuse's, both measured in turns in one run: above 1, ganfuse is faster. Median, lowest
and highest over a section's cases, and how many of them are slower than the other way by more than 5 %. "The fastest
other way" is the best of all that the section lists, which may be another one from case to case.
"""


def _of_ops(found: Records) -> str:
    rows = records.joined_rows(list(map(dict, found)))
    lines = ["\n".join(table.headline(found)[1:]) + "\n"]
    for op in dict.fromkeys(row["op"] for row in rows):
        lines += [f"#### {op}\n", _head(("shape", *table.COLUMNS))]
        for row in rows:
            if row["op"] == op:
                shape = f"{row['shapes']} {row['site']} {row['dtype']} {row['layout']}"
                lines.append(_line([shape, *table.cells(row)], strong=row["provider"] == OURS))
        lines.append("")
    return "\n".join(lines)


def _of_training(found: Records) -> str:
    rows = records.joined_rows(list(map(dict, found)))
    lines = ["\n".join(f"* {note}" for note in training_table.notes(found[0])) + "\n"]
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        columns, measured = training_table.filled(of_case)
        variants, groups = training_table.group_rows(of_case)
        lines += [f"#### {training_table.title(of_case[0])}\n", _head(columns), *map(_line, measured), ""]
        lines += [f"* {reason}" for reason in training_table.reasons(of_case)]
        lines += ["", _head(("share of the time", *variants)), *map(_line, groups), ""]
    return "\n".join(lines)


def _rows(found: Records) -> list[Any]:
    return [row for row in found if row["kind"] == "row"]


def _script(name: str) -> Any:
    # Only those whose results are there: some need Triton.
    return importlib.import_module(f"benchmarks.{name}")


def _markdown(script: str) -> Callable[[Records], str]:
    """The report of a script that writes Markdown."""
    return lambda found: str(_script(script).report(_rows(found)))


def _of_attention(found: Records) -> str:
    return _preformatted(_script("attention_report").summary(records.joined_rows(list(map(dict, found)))))


def _of_gpu_norms(found: Records) -> str:
    return _preformatted(_script("norms").report(records.joined_rows(list(map(dict, found)))))


def _of_spectral_norms(found: Records) -> str:
    return _preformatted(_script("spectral_norm").report(list(map(dict, found))))


def _preformatted(text: str) -> str:
    return "```\n" + "\n".join(line.rstrip() for line in text.splitlines()) + "\n```"


REPORTS: dict[str, tuple[str, Callable[[Records], str]]] = {
    "bench": ("Every op", _of_ops),
    "train": ("Training steps", _of_training),
    "biggan-turn": ("A turn of BigGAN", _markdown("biggan_turn")),
    "stylegan2-turn": ("A turn of StyleGAN2", _markdown("stylegan2_turn")),
    "translation-step": ("A step of translation", _markdown("translation_step")),
    "attention": ("Attention", _of_attention),
    "norms": ("Norms on a GPU", _of_gpu_norms),
    "norms-cpu": ("Norms on a CPU", _markdown("norms_cpu")),
    "spectral-norm": ("Spectral normalisation of a model", _of_spectral_norms),
    "folded-convs": ("Folded convolutions", _markdown("folded_convs")),
    "resampling": ("Resampling with filters", _markdown("resampling")),
    "modulated-conv": ("Modulated convolutions", _markdown("modulated_conv")),
    "data-loading": ("Reading data", _markdown("data_loading")),
    "ugatit-memory": ("Memory of U-GAT-IT", _markdown("ugatit_memory")),
}
"""Title and report by the benchmark that a file's first line names, in the order of the page."""
# Pictures and scores of trainings have a page of their own.
_ELSEWHERE = ("gallery",)


def _plain(found: Records) -> str:
    """A table of whatever numbers and words the rows have."""
    rows = _rows(found)
    keys = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict | list)))
    keys.remove("kind")
    return "\n".join([_head(keys), *(_line([_text(row.get(key)) for key in keys]) for row in rows)])


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _head(columns: Sequence[str]) -> str:
    return _line(columns) + "\n|" + " --- |" * len(columns)


def _line(cells: Sequence[str], *, strong: bool = False) -> str:
    shown = [cell.replace("|", "/") for cell in cells]
    if strong:
        shown[1] = f"**{shown[1]}**"
    return "| " + " | ".join(shown) + " |"


def page(files: Sequence[Path], snapshot: Path | None = None) -> str:
    """The page as Markdown.

    Args:
        files: result files. snapshot: of `ganfuse inspect`.

    Raises:
        ValueError: a file is no result file.
    """
    known = list(REPORTS)
    sections, compared = [], []
    for path in files:
        found = records.read(path)
        if not found or not {"benchmark", "device"} <= found[0].keys():
            raise ValueError(f"results: {path} is no result file of a benchmark")
        name = found[0]["benchmark"]
        if name not in _ELSEWHERE:
            order = (known.index(name) if name in known else len(known), name, "cuda" not in found[0], path.name)
            sections.append((order, _section(path, found)))
            compared.append((performance_summary.order(name), order, found))
    parts = [_INTRODUCTION, _in_short([found for *_, found in sorted(compared, key=lambda entry: entry[:2])])]
    parts += [text for _, text in sorted(sections)]
    if snapshot is not None:
        parts.append(_compiled(snapshot))
    # Tables may end with blank lines.
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _report(name: str) -> tuple[str, Callable[[Records], str]]:
    return REPORTS.get(name, (name.replace("-", " ").capitalize(), _plain))


def _title(about: Mapping[str, Any]) -> str:
    return f"{_report(about['benchmark'])[0]}: {table.device_name(about)}"


def _in_short(files: Sequence[Records]) -> str:
    lines = []
    for found in files:
        device = f"[{table.device_name(found[0])}](#{_anchor(_title(found[0]))})"
        for comparison in performance_summary.comparisons(found):
            lines.append(_line([*performance_summary.cells(comparison), device]))
    if not lines:
        return ""
    head = _head(("what", "in place of", "×", "lowest–highest", "cases", "slower", "on"))
    return "\n".join([_IN_SHORT, head, *lines])


def _anchor(title: str) -> str:
    """Of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _section(path: Path, found: Records) -> str:
    about = found[0]
    lines = [
        f"## {_title(about)}\n",
        f"`benchmarks/results/{path.name}`, by `{about['command']}`. {table.device_line(about)}, "
        f"Python {about['python']}.\n",
        _report(about["benchmark"])[1](found),
    ]
    return "\n".join(lines)


def _compiled(path: Path) -> str:
    """Of all shapes of an op on a chip, what takes most."""
    snapshot = Snapshot.read(path)
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for (op, _, _, target), entry in sorted(snapshot.entries.items()):
        groups.setdefault((op, target), []).append(dict(zip(FIELDS, entry)))
    lines = [
        "## Compiled kernels, without a GPU\n",
        f"`benchmarks/results/{path.name}`, by `ganfuse inspect --snapshot`, "
        f"Triton {snapshot.compiled_by.get('triton')}; kernels at shapes of published networks. Warps: those that "
        "fit on a multiprocessor at a time, as a share of its most, estimated from registers and shared memory.\n",
        _head(("op", "chip", "compiled", "with spills", "most registers", "most shared KiB", "tensor cores", "warps")),
    ]
    for (op, target), entries in groups.items():
        good = [entry for entry in entries if "registers" in entry]
        dots = sorted({entry["dot"] for entry in good} - {""})
        warps = sorted(entry["occupancy"] for entry in good)
        lines.append(
            _line([
                op, target, str(len(good)), str(sum(entry["spills"] > 0 for entry in good)),
                str(max(entry["registers"] for entry in good)), f"{max(e['shared'] for e in good) / 1024:.0f}",
                ", ".join(dots), f"{warps[0]:.0%}–{warps[-1]:.0%}",
            ])
        )  # fmt: skip
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.md")
    args = parser.parse_args(argv)
    args.out.write_text(page(args.results) if args.results else committed_page(), encoding="utf-8")
    print(args.out)
    return 0


def committed_page() -> str:
    """The page of all results that lie in benchmarks/results."""
    return page(sorted(RESULTS.glob("*.jsonl")), SNAPSHOT if SNAPSHOT.exists() else None)


if __name__ == "__main__":
    sys.exit(main())
