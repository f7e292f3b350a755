"""Compile the kernels of many cases at once, into the caches on disk: compiling one after another takes minutes."""

import multiprocessing
import os
import time
from collections.abc import Sequence

import torch

from benchmarks import attention_providers
from benchmarks.attention_cases import Case, make_inputs
from benchmarks.attention_passes import calls


def compile_ahead(jobs: Sequence[tuple[Case, str]], *, seconds: float) -> list[str]:
    """Run every pass of (case, implementation) pairs once, in processes beside each other on the same GPU.

    What does not get done in `seconds` is compiled later, when it is needed.

    Returns:
        A sentence for each pair that failed or was not reached; their measurement will say more.
    """
    if not jobs:
        return []
    deadline = time.monotonic() + seconds
    workers = max(1, min(len(jobs), (os.cpu_count() or 2) - 1, 12))
    # Spawned: a CUDA context does not survive a fork.
    with multiprocessing.get_context("spawn").Pool(workers, _one_thread) as pool:
        pending = [(job, pool.apply_async(_compile_one, job)) for job in jobs]
        problems = []
        for (case, provider), result in pending:
            result.wait(max(0.0, deadline - time.monotonic()))
            if not result.ready():
                problems.append(f"{case.name} {provider}: not compiled ahead in {seconds:.0f} s")
                continue
            message = result.get()
            if message:
                problems.append(f"{case.name} {provider}: {message}")
    return problems


def _one_thread() -> None:
    torch.set_num_threads(1)


def _compile_one(case: Case, provider: str) -> str:
    """Empty, or what went wrong: errors cross processes as text."""
    try:
        # Our kernels do not depend on the batch; graphs that torch.compile makes do.
        batch = case.batch if provider in attention_providers.COMPILED else 2
        inputs = make_inputs(case, torch.device("cuda"), batch=batch)
        built = attention_providers.build(provider, inputs)
        for name, call in calls(inputs, built.attention, built.penalty).items():
            if provider == "compile" and name in ("double_backward", "penalty"):
                continue
            call.run(call.prepare())
        torch.cuda.synchronize()
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    finally:
        torch._dynamo.reset()
        torch.cuda.empty_cache()
