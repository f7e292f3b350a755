"""A whole run: ceilings, every case until the time is up, the memory curve; what is in the file already is kept."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ganfuse.bench.ceilings import measure_ceilings
from ganfuse.bench.device_probes import device_state
from ganfuse.bench.records import ResultFile, device_name
from ganfuse.bench.runner import Runner
from ganfuse.bench.subject import COMPILED, OURS, Case
from ganfuse.bench.timing import make_timer
from ganfuse.engine.gpu_readings import GPUReadings


def run_session(
    cases: Sequence[Case],
    results: ResultFile,
    device: torch.device,
    wanted: Sequence[str],
    peers: Sequence[str] | None,
    *,
    seconds: float,
    say: Callable[[str], None],
    show: Callable[[list[Mapping[str, Any]]], None],
    energy: bool = False,
) -> list[Case]:
    """Measure what of `cases` the file does not have yet.

    Args:
        wanted, peers, energy: as for `Runner`.
        seconds: after which no further case begins.
        say: told of progress. show: given the rows of each case, with what its line says.

    Returns:
        The cases that were not reached.
    """
    deadline = time.monotonic() + seconds
    # It reports each recompilation that a new shape asks for.
    logging.getLogger("torch._dynamo").setLevel(logging.ERROR)
    timer = make_timer(device)
    readings = GPUReadings(device)
    say(f"{len(cases)} shapes on {device_name(device)}; first the ceilings")
    ceilings = measure_ceilings(device, timer, sorted({case.dtype for case in cases}))
    results.append({**ceilings.record(), **device_state(device, readings)})
    runner = Runner(device, results, timer, ceilings, wanted=wanted, peers=peers, energy=energy)
    # All that compiles comes last: a run that is cut short has ours beside the library's in more places.
    phases = ((False, OURS), (True, COMPILED)) if runner.compiles else ((False, OURS),)
    todo = [(case, compiled) for compiled, provider in phases for case in cases if not runner.is_done(case, provider)]
    if len(todo) < len(phases) * len(cases):
        done = [case for case in cases if all(runner.is_done(case, provider) for _, provider in phases)]
        say(f"{len(done)} of {len(cases)} are there")
    late: list[Case] = []
    for number, (case, compiled) in enumerate(todo):
        if time.monotonic() > deadline:
            late = list({case.name: case for case, _ in todo[number:]}.values())
            break
        show([{**case.record(), **row} for row in runner.run(case, compiled=compiled)])
    has_curve = any(record["kind"] == "memory" for record in results.records)
    if not has_curve and any(case.op == "feature_attention" for case in cases):
        runner.memory_curve()
    # Beside the readings of the beginning: a chip that throttled meanwhile shows it.
    results.append({"kind": "end", **device_state(device, readings)})
    if late:
        ops = ", ".join(dict.fromkeys(case.op for case in late))
        say(f"the time is up: {len(late)} shapes are left ({ops}); the same command goes on with a file of results")
    return late
