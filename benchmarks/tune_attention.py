"""Choose the tiles of the attention kernels, by compiling them: no GPU needed.

For every kernel, chip and channel count, candidates are compiled from the most to the least desirable (large tiles
with full tensor-core instructions first) in both layouts, and the first without spills, within shared memory, is
taken. The result is `ganfuse/kernels/feature_attention/tiles.json`.

    python benchmarks/tune_attention.py --targets sm90 sm80 --jobs 2
"""

import argparse
import itertools
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

TABLE = Path(__file__).parent.parent / "ganfuse" / "kernels" / "feature_attention" / "tiles.json"
D_BUCKETS = (32, 64, 128, 256)
E_BUCKETS = (64, 128, 256, 512)
CHUNKED = ("forward", "backward_value", "double_backward_output", "double_backward_value")
WHOLE = ("backward_query", "backward_key", "double_backward_query", "double_backward_key")
FUSED = ("backward_key_value", "double_backward_query_output", "double_backward_key_value")


def candidates(kernel, target, d, e):
    """(queries, keys, channels, warps, stages), best first."""
    over_keys = "key" in kernel or "value" in kernel
    # The side that stays, the side that is walked, warps, stages. Fewer than 64 rows are no HGMMA on sm_90.
    sides = [(128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (64, 64, 8, 2), (64, 32, 8, 2),
             (64, 16, 4, 2), (64, 16, 8, 2), (64, 32, 8, 1), (64, 16, 4, 1), (64, 16, 8, 1), (32, 32, 4, 2),
             (32, 16, 4, 2), (32, 16, 4, 1), (32, 16, 8, 1), (16, 16, 4, 2), (16, 16, 4, 1), (16, 16, 8, 1),
             (16, 16, 2, 1)]  # fmt: skip
    if kernel == "forward" and d <= 32 and e <= 64:
        sides.insert(0, (128, 64, 4, 3))
    if d >= 256:
        sides = [s for s in sides if s[0] <= 64]
    if kernel in WHOLE:
        # All channels at once while tiles stay large; else a chunk at a time, which costs more scores.
        plain = [(s, 0) for s in sides]
        wide = [((64, 64, 4, 2), 64), ((64, 64, 8, 2), 64), ((64, 32, 4, 2), 64), ((64, 32, 8, 2), 64),
                ((64, 32, 4, 1), 64), ((32, 32, 4, 2), 64), ((32, 32, 4, 1), 64), ((32, 32, 4, 2), 32),
                ((32, 32, 4, 1), 32), ((16, 16, 4, 1), 32)]  # fmt: skip
        large = [c for c in plain if c[0][0] >= 64 and (c[0][1] >= 32 or d < 128)] if d < 256 and e < 512 else []
        options = large + wide if max(d, e // 2) >= 128 else plain
    elif kernel in CHUNKED:
        sizes = [c for c in (256, 128, 64) if c <= e]
        if kernel == "forward" and d <= 32 and e > 128:
            sizes = [128, 64]
        options = list(itertools.product(sides, sizes))
    else:
        options = [(s, 0) for s in sides]
        # A fused pass pays while its tiles are not much smaller than those of the passes that it replaces.
        options = [o for o in options if min(o[0][:2]) >= 32 or (o[0][0] >= 64 and o[0][1] >= 16)]
    for (stay, walk, warps, stages), chunk in options:
        queries, keys = (walk, stay) if over_keys else (stay, walk)
        yield queries, keys, chunk, warps, stages


def _problem(kernel, target, d, e, config):
    """None if the kernel compiles well with `config` in both layouts; else what is wrong."""
    from ganfuse.kernels import inspection
    from ganfuse.kernels.feature_attention import cases, configs, triton
    from ganfuse.kernels.launch import record_launches

    names = []

    def choose(name, *_):
        names.append(name)
        return configs.Config(*config) if name == kernel else configs.Config(16, 16, 32, 4, 1)

    configs.choose = choose
    configs.fused = lambda *_: kernel in FUSED
    triton._plan.cache_clear()
    for layout in (True, False):
        names.clear()
        with record_launches(target) as launches:
            cases.run(cases.Case(d, e, 64, 64, torch.bfloat16, layout))
        for name, launch in zip(names, launches, strict=True):
            if name != kernel:
                continue
            report = inspection.compile_launch(launch, "feature_attention", "", target)
            wrong = inspection.problems(report)
            if wrong:
                return f"{wrong}"
    return None


# What fits the one is a good first guess for the other.
RELATED = {"sm120": "sm89", "sm100": "sm90"}


def tune(job):
    target, kernel, d, e = job
    tried = 0
    options = list(candidates(kernel, target, d, e))
    guess = json.loads(TABLE.read_text()).get(f"{RELATED.get(target)} {kernel} {d} {e}")
    if guess is not None:
        options.sort(key=lambda option: list(option) != guess)
    for config in options:
        tried += 1
        if _problem(kernel, target, d, e, config) is None:
            return job, config, tried
    return job, None, tried


def _write(table):
    def place(item):
        target, kernel, d, e = item[0].split()
        return target, kernel, int(d), int(e)

    # In one move: the workers read it meanwhile.
    temporary = TABLE.with_suffix(".tmp")
    temporary.write_text(
        "{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in sorted(table.items(), key=place)) + "\n}\n"
    )
    temporary.replace(TABLE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", default=["sm90", "sm80", "sm89", "sm120", "sm100", "gfx942"])
    parser.add_argument("--kernels", nargs="+", default=[*CHUNKED, *WHOLE, *FUSED])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="also entries that the table has")
    args = parser.parse_args()
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    jobs = []
    for target, kernel, d in itertools.product(args.targets, args.kernels, D_BUCKETS):
        for e in E_BUCKETS:
            if kernel in FUSED and (d > 64 or e > 128):
                continue
            if kernel in CHUNKED and e > 256:
                continue
            if d > e and d > 64 and e < 128:
                continue  # wide keys with narrow values: the row for 128 serves
            if args.again or f"{target} {kernel} {d} {e}" not in table:
                jobs.append((target, kernel, d, e))
    _write(table)
    with ProcessPoolExecutor(args.jobs) as pool:
        for done, (job, config, tried) in enumerate(pool.map(tune, jobs, chunksize=1), 1):
            table[" ".join(map(str, job))] = config
            print(f"{done}/{len(jobs)} {job} -> {config} ({tried} tried)", flush=True)
            _write(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
