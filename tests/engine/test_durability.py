"""Runs that are killed, run out of disk or lose a worker: what the user sees, and what is left to go on from."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
import time

import pytest
import torch

from ganfuse.engine import CheckpointError, Trainer
from ganfuse.engine.checkpoint import list_checkpoints
from tests.engine.test_resume import assert_same_run, make_trainer
from tests.engine.toys import ToyData, toy_game

STEPS = 60


def _life(out: str) -> None:
    """One life of a run: from what is there to the end, if nobody kills it."""
    torch.set_num_threads(1)
    make_trainer(out, steps=STEPS, checkpoint_every=1, sample_every=7, resume=True, keep_checkpoints=3).fit()


def _saved(out) -> list[int]:
    return [checkpoint.step for checkpoint in list_checkpoints(out / "checkpoints")]


@pytest.mark.slow
def test_killed_at_thirty_random_moments(tmp_path):
    """Whatever it is doing: training, writing a checkpoint, renaming it, removing old ones, drawing samples."""
    chance = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engine.test_durability"])
    out, kills, complete = tmp_path / "run0", 0, False
    while not complete:
        process = context.Process(target=_life, args=(str(out),))
        process.start()
        if kills < 30:
            before = _saved(out)
            while _saved(out) == before and process.is_alive():
                time.sleep(0.001)
            process.join(chance.uniform(0.0, 0.25))
            if process.is_alive():
                process.kill()
                kills += 1
        process.join()
        for checkpoint in list_checkpoints(out / "checkpoints"):
            assert checkpoint.read_weights()
            assert checkpoint.read_state()["step"] == checkpoint.step
        complete = process.exitcode == 0 and kills == 30
        if process.exitcode == 0 and not complete:
            # The run came to its end too soon: the remaining deaths are those of another one.
            out = tmp_path / f"run{kills}"
    straight = tmp_path / "straight"
    make_trainer(straight, steps=STEPS, checkpoint_every=1, sample_every=7, keep_checkpoints=3).fit()
    assert_same_run(out, straight)
    assert not [path for path in (out / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 600 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk(small_disk):
    """The error names the checkpoint and the cause, the earlier checkpoints are whole, and freed space is enough."""
    ballast = small_disk / "ballast"
    filled = []

    def fill(trainer):
        if trainer.step == 5 and not filled:
            free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
            ballast.write_bytes(b"0" * (free - 8192))
            filled.append(True)

    with pytest.raises(CheckpointError, match=r"step_00000008: the checkpoint could not be written .*No space left"):
        make_trainer(small_disk / "run", hooks=[fill], keep_checkpoints=1).fit()
    (kept,) = list_checkpoints(small_disk / "run" / "checkpoints")
    assert kept.step == 4
    assert kept.read_weights()
    assert kept.read_state()["step"] == 4
    assert [path.name for path in (small_disk / "run" / "checkpoints").iterdir()] == [kept.path.name]
    ballast.unlink()
    assert make_trainer(small_disk / "run", resume=True, keep_checkpoints=1).fit().stopped_by == "steps"


class Deadly(ToyData):
    """Its image 5 kills the process that reads it."""

    def __getitem__(self, index):
        if index == 5 and multiprocessing.parent_process() is not None:
            os._exit(3)
        return super().__getitem__(index)


SCRIPT = """
import sys
from ganfuse.engine import Trainer
from tests.engine.test_durability import Deadly
from tests.engine.toys import toy_game

Trainer(
    toy_game(), Deadly(), out=sys.argv[1], steps=20, batch_size=4, workers=1, progress=False, checkpoint_every=1
).fit()
"""


def test_dead_worker(tmp_path):
    """In a process of its own: PyTorch reports the death from a signal handler."""
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: data: a process that reads images has died (DataLoader worker")
    assert "workers=0" in last
    saved = list_checkpoints(tmp_path / "checkpoints")
    assert all(checkpoint.read_state()["step"] == checkpoint.step for checkpoint in saved)


def test_error_in_a_worker_names_the_cause(tmp_path):
    class Broken(ToyData):
        def __getitem__(self, index):
            if index == 5:
                raise ValueError("picture 5 cannot be read")
            return super().__getitem__(index)

    trainer = Trainer(toy_game(), Broken(), out=tmp_path, steps=20, batch_size=4, workers=1, progress=False)
    with pytest.raises(ValueError, match="picture 5 cannot be read"):
        trainer.fit()


def test_metrics_of_undone_steps_are_dropped(tmp_path):
    make_trainer(tmp_path, steps=6, checkpoint_every=4).fit()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 7, "images": 1, "losses": {}}) + '\n{"step": 8, "los')
    make_trainer(tmp_path, resume=True).fit()
    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 10))
