"""Write docs/performance.md from committed results of `ganfuse bench`; no number on that page is typed by hand.

python benchmarks/performance_page.py                                     # of benchmarks/results/bench-*.jsonl
python benchmarks/performance_page.py --results FILE... --out PAGE
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ganfuse.bench import records
from ganfuse.bench.subject import OURS
from ganfuse.bench.table import COLUMNS, cells, headline

ROOT = Path(__file__).resolve().parent.parent
_INTRODUCTION = """# Performance

Written by `python benchmarks/performance_page.py` from the results in `benchmarks/results/`: to change it, measure
again (`ganfuse bench --json FILE`, `make gpu`). Each time is a median beside its 20th and 80th percentile. "× ours" is
an implementation's time over ganfuse's in the same rounds: above 1, ganfuse is faster. Shares are of a copy's bandwidth
and a matrix product's rate, measured on the same device in the same run. What is wrong against float64 has no time.
"""


def page(files: Sequence[Path]) -> str:
    """The page as Markdown.

    Raises:
        ValueError: a file is no result file of `ganfuse bench`.
    """
    parts = [_INTRODUCTION]
    for path in files:
        found = records.read(path)
        if not found or found[0].get("benchmark") != "bench":
            raise ValueError(f"results: {path} is no result file of ganfuse bench")
        parts.append(_device(path, found))
    return "\n".join(parts)


def _device(path: Path, found: Sequence[Mapping[str, Any]]) -> str:
    about = found[0]
    rows = records.joined_rows(list(map(dict, found)))
    lines = [f"## {about['device']}\n", f"`{path.name}`, by `{about['command']}`, Python {about['python']}.\n"]
    lines += [f"{line}\n" for line in headline(found)[:-1]]
    for op in dict.fromkeys(row["op"] for row in rows):
        lines.append(f"### {op}\n")
        lines.append("| shape | " + " | ".join(COLUMNS) + " |")
        lines.append("| --- " * (len(COLUMNS) + 1) + "|")
        for row in rows:
            if row["op"] == op:
                shape = f"{row['shapes']} {row['site']} {row['dtype']} {row['layout']}"
                shown = [cell.replace("|", "/") for cell in cells(row)]
                shown[0] = f"**{shown[0]}**" if row["provider"] == OURS else shown[0]
                lines.append(f"| {shape} | " + " | ".join(shown) + " |")
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "performance.md")
    args = parser.parse_args(argv)
    files = args.results or sorted((ROOT / "benchmarks" / "results").glob("bench-*.jsonl"))
    if not files:
        print("no benchmarks/results/bench-*.jsonl: ganfuse bench --json FILE measures one", file=sys.stderr)
        return 2
    args.out.write_text(page(files), encoding="utf-8")
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
