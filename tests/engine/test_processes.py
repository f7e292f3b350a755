"""Several processes compute what one does on the same batches; and torchrun starts, stops and restarts runs."""

import datetime
import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ganfuse import BatchNormAct2d, ConditionalBatchNorm2d, SelfAttention2d, spectral_norm
from ganfuse.engine import AdversarialGame, Trainer
from ganfuse.engine.checkpoint import list_checkpoints
from tests.engine.toys import ToyData

STEPS = 20


class Generator(nn.Module):
    """Conditional and plain batch norm, attention."""

    latent_dim = 4

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 8 * 16)
        self.norm = ConditionalBatchNorm2d(8, num_classes=3, activation="relu")
        self.attention = SelfAttention2d(8)
        self.conv = spectral_norm(nn.Conv2d(8, 8, 3, padding=1))
        self.last_norm = BatchNormAct2d(8, activation="relu")
        self.out = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, z, labels):
        h = self.attention(self.norm(self.linear(z).view(-1, 8, 4, 4), labels))
        h = self.last_norm(self.conv(nn.functional.interpolate(h, scale_factor=2.0)))
        return self.out(h).tanh()


class Discriminator(nn.Module):
    """Spectral norm, attention, projection."""

    def __init__(self):
        super().__init__()
        self.conv = spectral_norm(nn.Conv2d(1, 8, 4, 2, 1))
        self.attention = SelfAttention2d(8)
        self.out = spectral_norm(nn.Linear(8 * 16, 1))
        self.embed = spectral_norm(nn.Embedding(3, 8 * 16))

    def forward(self, images, labels):
        h = self.attention(nn.functional.leaky_relu(self.conv(images), 0.2)).flatten(1)
        return self.out(h).squeeze(1) + (self.embed(labels) * h).sum(1)


def train(out, **options):
    torch.manual_seed(int(os.environ.get("RANK", "0")))  # the first process's weights must win
    game = AdversarialGame(
        Generator(), Discriminator(), num_classes=3, r1_gamma=0.1, discriminator_steps=2, generator_lr=1e-3
    ).double()
    options = {"steps": STEPS, "batch_size": 8, "log_every": 1, "sample_every": 0, "progress": False, **options}
    trainer = Trainer(game, ToyData(), out=out, device="cpu", **options)
    trainer.fit()
    return trainer


def _worker(rank, count, folder, options):
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=120),
    )
    # In two parts, so that what was saved is also loaded.
    train(f"{folder}/run", checkpoint_every=7, flip=True, steps=9, **options)
    trainer = train(f"{folder}/run", checkpoint_every=7, flip=True, resume=True, **options)
    torch.save(trainer.game.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return train(folder, flip=True), folder


@pytest.mark.parametrize(
    ("count", "options"),
    [
        (2, {}),
        pytest.param(4, {}, marks=pytest.mark.slow),
        pytest.param(2, {"shard_optimizer": True}, marks=pytest.mark.slow),
    ],
)
def test_processes_compute_what_one_does(alone, tmp_path, count, options):
    mp.spawn(_worker, args=(count, str(tmp_path), options), nprocs=count)
    trainer, folder = alone
    expected = trainer.game.state_dict()
    for rank in range(count):
        state = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(state, dict(expected), rtol=1e-5, atol=1e-8)
    ours, theirs = (read_losses(path) for path in (tmp_path / "run", folder))
    assert len(ours) == STEPS
    for left, right in zip(ours, theirs):
        assert left == pytest.approx(right, rel=1e-5, abs=1e-8)
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path / "run" / "checkpoints")] == [14, 20]


def read_losses(run):
    return [json.loads(line)["losses"] for line in (run / "metrics.jsonl").read_text().splitlines()]


SCRIPT = """
import os, signal, sys
from tests.engine.test_processes import train

def die(trainer):
    first_life = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if trainer.step == 7 and first_life and os.environ["RANK"] == "1" and sys.argv[2] == "die":
        os.kill(os.getpid(), signal.SIGKILL)

train(sys.argv[1], checkpoint_every=3, hooks=[die], steps=10)
"""


def torchrun(tmp_path, *arguments, restarts=0):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(f"--max-restarts={restarts}", str(script), str(tmp_path / "run"), *arguments),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=480,
    )


@pytest.mark.slow
def test_a_process_that_dies_is_started_again_and_the_run_goes_on(tmp_path):
    result = torchrun(tmp_path, "die", restarts=1)
    assert result.returncode == 0, result.stderr
    straight = train(tmp_path / "straight", checkpoint_every=3, steps=10)
    lines = read_losses(tmp_path / "run")
    assert len(lines) == 10
    for left, right in zip(lines, read_losses(tmp_path / "straight")):
        assert left == pytest.approx(right, rel=1e-5, abs=1e-8)
    assert straight.step == list_checkpoints(tmp_path / "run" / "checkpoints")[-1].step


MACHINES_SCRIPT = """
import os, signal, sys
from tests.engine.test_processes import train

marker = sys.argv[1] + ".died"

def die(trainer):
    if trainer.step == 5 and os.environ["RANK"] == "1" and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)

print("life", os.environ["TORCHELASTIC_RESTART_COUNT"], flush=True)
train(sys.argv[1], checkpoint_every=3, hooks=[die], steps=7)
"""


@pytest.mark.slow
def test_a_machine_that_has_counted_no_failure_goes_on_too(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(MACHINES_SCRIPT)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    machines = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={machine}"),
                *("--nproc-per-node=1", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}", "--rdzv-id=1"),
                *("--max-restarts=1", str(script), str(tmp_path / "run")),
            ],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path]), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for machine in range(2)
    ]
    try:
        said = [machine.communicate(timeout=480) for machine in machines]
    finally:
        for machine in machines:
            machine.kill()
    assert [machine.returncode for machine in machines] == [0, 0], said
    # One machine counts the failure of its process; the other starts its own again without counting anything, unless
    # that has failed for want of the first before it was stopped. (`test_rendezvous.py` has both without the race.)
    counted = "life 0\nlife 1\n"
    assert sorted(output for output, _ in said) in (["life 0\nlife 0\n", counted], [counted, counted])
    assert len(read_losses(tmp_path / "run")) == 7
