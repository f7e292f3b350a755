"""Every op of ganfuse beside its peers, as `ganfuse bench` measures them; needs PyTorch and Triton, nothing else.

    python benchmarks/all_ops.py --out benchmarks/results/new
    python benchmarks/all_ops.py --device cpu --ops bias_act

The same command goes on where it stopped. `ganfuse bench --read FILE --html PAGE` shows a file with plots.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ganfuse.bench import records
from ganfuse.bench.catalogue import OPS, make_cases
from ganfuse.bench.session import run_session
from ganfuse.bench.subject import LAYOUTS, PASSES, TYPES
from ganfuse.bench.table import cells, headline


def _show(rows: list[Mapping[str, Any]]) -> None:
    print(f"\n{rows[0]['case']}")
    for row in rows:
        provider, which, *rest = cells(row)
        print(f"  {provider:<18}{which:<18}" + " ".join(f"{cell:>10}" for cell in rest).rstrip(), flush=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/new"), help="folder, or a .jsonl file")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--ops", nargs="+", choices=list(OPS), default=[], metavar="OP", help=", ".join(OPS))
    parser.add_argument("--dtypes", nargs="+", choices=list(TYPES), help="default: bf16; fp32 on a CPU")
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), help="default: channels_last; nchw on a CPU")
    parser.add_argument("--minutes", type=float, default=5.0, help="begin no new shape after that")
    parser.add_argument("--restart", action="store_true", help="throw away the results that are there")
    args = parser.parse_args(argv)
    gpu = args.device == "cuda"
    device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
    dtypes, layouts = args.dtypes or ["bf16" if gpu else "fp32"], args.layouts or ["channels_last" if gpu else "nchw"]
    about = records.header("bench", device, "python benchmarks/all_ops.py")
    try:
        path = records.result_path(args.out, "bench", device)
        results = records.ResultFile(path, about, restart=args.restart)
    except records.OtherRunError as error:
        print(error, file=sys.stderr)
        return 2
    cases = make_cases(args.ops, [], dtypes, layouts, device)
    run_session(cases, results, device, list(PASSES), None, seconds=60 * args.minutes, say=print, show=_show)
    print("\n".join(["", *headline(results.records), f"rows in {path}"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
