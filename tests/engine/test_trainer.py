"""The trainer: what it plays and when, what it writes, and what it tells when something is wrong."""

import json
import os
import signal
import subprocess
import sys
import threading
import types

import pytest
import torch
import yaml
from torch import nn

from ganfuse.engine import (
    Batch,
    Game,
    NonFiniteLossError,
    NonFiniteWeightError,
    Player,
    Trainer,
    Turn,
)
from ganfuse.engine.loss_record import LossRecord
from ganfuse.engine.noise import Noise
from ganfuse.engine.progress import TrainingProgress
from tests.engine.toys import ToyData, plain_game, toy_game


def train(game, out, data=None, **options):
    return Trainer(game, ToyData() if data is None else data, out=out, **{**QUIET, **options}).fit()


QUIET = {"steps": 3, "batch_size": 4, "progress": False, "num_samples": 6, "device": "cpu"}


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


class TwoPlayers(Game):
    """Two weights, and a journal of who moved when on what."""

    name = "two-players"

    def __init__(self, **turn_options):
        super().__init__()
        self.a, self.b, self.bystander = nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1)
        self.turn_options = turn_options
        self.journal = []
        self.step_calls = []

    def players(self):
        return Player("a", ("a",), sgd), Player("b", ("b",), sgd)

    def turns(self):
        return Turn("a", self.loss_of("a"), **self.turn_options), Turn("b", self.loss_of("b"))

    def loss_of(self, name):
        def loss(batch: Batch, noise: Noise):
            trainable = {key for key, parameter in self.named_parameters() if parameter.requires_grad}
            self.journal.append((name, batch.images.clone(), trainable))
            x = batch.images.mean().view(1, 1)
            return {"loss": (self.a(x) + self.b(x) + self.bystander(x)).sum(), "x": x}

        return loss

    def after_step(self, player, step):
        assert not torch.is_grad_enabled()
        self.step_calls.append((player, step))

    def sample(self, n, *, labels=None, rng=None):
        return torch.zeros(n, 1, 8, 8)


def test_only_the_moving_player_is_trainable_and_changes(tmp_path):
    game = TwoPlayers()
    bystander = game.bystander.weight.clone()
    game.b.bias.requires_grad_(False)
    train(game, tmp_path, steps=1)
    assert [(name, trainable) for name, _, trainable in game.journal] == [
        ("a", {"a.weight", "a.bias"}),
        ("b", {"b.weight"}),
    ]
    assert torch.equal(game.bystander.weight, bystander)
    assert game.bystander.weight.requires_grad
    assert not game.b.bias.requires_grad
    assert all(parameter.grad is None for parameter in game.parameters())


def test_parameters_are_thawed_after_an_error(tmp_path):
    game = TwoPlayers()
    game.loss_of = lambda name: lambda batch, rng: {"loss": 1 / 0}
    with pytest.raises(ZeroDivisionError):
        train(game, tmp_path)
    assert all(parameter.requires_grad for parameter in game.parameters())


def test_turns_share_the_batch_and_repetitions_take_fresh_ones(tmp_path):
    game = TwoPlayers(repeats=3)
    summary = train(game, tmp_path, steps=2)
    assert [name for name, *_ in game.journal] == ["a", "a", "a", "b"] * 2
    images = [images for _, images, _ in game.journal]
    assert torch.equal(images[0], images[3])
    distinct = [images[i] for i in (0, 1, 2, 4, 5, 6)]
    assert not any(torch.equal(distinct[i], distinct[j]) for i in range(6) for j in range(i))
    assert summary.images == 6 * 4


def test_every(tmp_path):
    game = TwoPlayers(every=3)
    train(game, tmp_path, steps=6)
    assert game.step_calls == [
        *(("b", 1), ("b", 2), ("a", 3), ("b", 3)),
        *(("b", 4), ("b", 5), ("a", 6), ("b", 6)),
    ]


def test_several_players_on_one_loss(tmp_path):
    class Together(TwoPlayers):
        def turns(self):
            return (Turn(("a", "b"), self.loss_of("both")),)

    game = Together()
    before = [game.a.weight.item(), game.b.weight.item()]
    summary = train(game, tmp_path, steps=1)
    assert game.a.weight.item() != before[0]
    assert game.b.weight.item() != before[1]
    assert set(summary.losses) == {"a+b/loss", "a+b/x"}


def test_weights_follow_the_optimizer(tmp_path):
    """Three steps of SGD done by hand."""
    game = TwoPlayers()
    a, b = game.a.weight.item(), game.b.weight.item()
    train(game, tmp_path, steps=3)
    for name, images, _ in game.journal:
        if name == "a":
            a -= 0.1 * images.mean().item()
        else:
            b -= 0.1 * images.mean().item()
    assert game.a.weight.item() == pytest.approx(a, rel=1e-5)
    assert game.b.weight.item() == pytest.approx(b, rel=1e-5)


def test_images_reach_the_game_in_their_range(tmp_path):
    class Extremes(ToyData):
        def __getitem__(self, index):
            image = torch.zeros(1, 8, 8, dtype=torch.uint8)
            image[0, :, 0] = 255
            return image, 0

    game = TwoPlayers()
    train(game, tmp_path, Extremes(), steps=1)
    images = game.journal[0][1]
    assert images.shape == (4, 1, 8, 8)
    assert (images[..., 0] == 1.0).all()
    assert (images[..., 1:] == -1.0).all()


def test_flip_mirrors_about_half_of_the_images(tmp_path):
    class Lopsided(ToyData):
        def __getitem__(self, index):
            image = torch.zeros(1, 8, 8, dtype=torch.uint8)
            image[0, :, 0] = 255
            return image, 0

    game = TwoPlayers()
    train(game, tmp_path, Lopsided(length=200), steps=1, batch_size=200, flip=True)
    images = game.journal[0][1]
    left, right = (images[:, 0, 0, 0] == 1).sum().item(), (images[:, 0, 0, -1] == 1).sum().item()
    assert left + right == 200
    assert 70 < left < 130


def test_run_folder(tmp_path):
    out = tmp_path / "deep" / "run"
    summary = train(toy_game(), out, steps=5, log_every=2, sample_every=2, checkpoint_every=1, keep_checkpoints=2)
    assert sorted(path.name for path in out.iterdir()) == ["checkpoints", "config.yaml", "metrics.jsonl", "samples"]
    assert sorted(path.name for path in (out / "samples").iterdir()) == [f"step_{step:06d}.png" for step in (2, 4, 5)]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step_00000004", "step_00000005"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["images"]) for line in lines] == [(2, 8), (4, 16)]
    assert set(lines[0]["losses"]) == {
        "discriminator/loss",
        "discriminator/real_logits",
        "discriminator/fake_logits",
        "generator/loss",
    }
    assert lines[1]["seconds"] > lines[0]["seconds"] > 0
    assert lines[0]["images_per_second"] > 0
    assert (summary.steps, summary.images, summary.stopped_by) == (5, 20, "steps")
    assert summary.out == out
    assert summary.checkpoint == out / "checkpoints" / "step_00000005"
    assert summary.images_per_second == pytest.approx(20 / summary.seconds)


def test_config(tmp_path):
    train(toy_game(name="toy", config={"betas": (0.0, 0.9), "width": 4}), tmp_path, steps=1)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert config["game"] == {"name": "toy", "config": {"betas": [0.0, 0.9], "width": 4}}
    assert config["data"] == {
        "name": "toy",
        "resolution": 8,
        "channels": 1,
        "num_classes": 3,
        "class_names": ["a", "b", "c"],
        "length": 22,
    }
    assert config["trainer"]["batch_size"] == 4
    assert config["versions"]["torch"] == torch.__version__


def test_config_that_yaml_cannot_hold_is_refused(tmp_path):
    with pytest.raises(ValueError, match="config: expected numbers, strings, lists and mappings, got Linear"):
        train(toy_game(config={"layer": nn.Linear(1, 1)}), tmp_path)


def test_grids_show_the_averaged_generator_on_the_same_latents(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(
        "ganfuse.engine.grid.save_grid", lambda images, path, columns=None: shown.append((images, path.name, columns))
    )
    trainer = Trainer(toy_game(generator_lr=0.0), ToyData(), out=tmp_path, **{**QUIET, "sample_every": 1})
    # The learning rate is zero and the average starts from the same weights: only latents could change the grid.
    trainer.averages["generator"].decay = 0.0
    trainer.averages["generator"].warmup = False
    for buffer_module in (trainer.game.generator.body[1],):
        buffer_module.momentum = 0.0
    trainer.fit()
    assert [name for _, name, _ in shown] == ["step_000001.png", "step_000002.png", "step_000003.png"]
    assert torch.equal(shown[0][0], shown[2][0])
    assert shown[0][2] == 3
    with torch.no_grad():
        for parameter in trainer.averages["generator"].module.parameters():
            parameter.zero_()
    trainer._sampled_at = -1
    trainer._stop_reason = ""
    trainer.fit()
    assert (shown[-1][0] == 0).all()
    assert not (trainer.game.sample(2) == 0).all()


def test_game_without_average(tmp_path):
    trainer = Trainer(toy_game(ema_decay=None), ToyData(), out=tmp_path, **QUIET)
    assert trainer.averages == {}
    assert trainer.fit().stopped_by == "steps"


def test_same_seed_same_run_whatever_the_global_generator(tmp_path):
    games = []
    for i in (0, 1):
        games.append(toy_game())
        torch.manual_seed(i)
        state = torch.get_rng_state()
        train(games[-1], tmp_path / str(i))
        assert torch.equal(torch.get_rng_state(), state)
    for ours, theirs in zip(games[0].state_dict().values(), games[1].state_dict().values()):
        assert torch.equal(ours, theirs)


def test_bf16(tmp_path):
    seen = []

    class Watch(nn.Linear):
        def forward(self, x):
            seen.append(super().forward(x).dtype)
            return super().forward(x)

    game = plain_game()
    game.discriminator.layer = Watch(64, 1)
    summary = train(game, tmp_path, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in game.parameters()} == {torch.float32}
    assert summary.losses["discriminator/loss"] > 0


def test_float64_game_gets_float64_images(tmp_path):
    game = toy_game().double()
    train(game, tmp_path)
    assert all(p.dtype == torch.float64 for p in game.parameters())


def test_deterministic_is_in_force_while_fitting_only(tmp_path):
    seen = []
    hooks = [lambda trainer: seen.append(torch.are_deterministic_algorithms_enabled())]
    train(toy_game(), tmp_path, deterministic=True, hooks=hooks)
    assert seen == [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()


def test_hooks_may_have_any_attributes(tmp_path):
    """`every` of ours says when they are due; nobody else's has to mean that."""

    class Hook:
        every = None
        steps = 0

        def __call__(self, trainer):
            self.steps += 1

    hook = Hook()
    train(toy_game(), tmp_path, hooks=[hook])
    assert hook.steps == 3


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(toy_game(), tmp_path, tensorboard=True, log_every=1)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("discriminator/loss")] == [1, 2, 3]
    assert events.Tags()["images"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_stops(tmp_path, number):
    before = signal.getsignal(number)
    hooks = [lambda trainer: os.kill(os.getpid(), number) if trainer.step == 2 else None]
    summary = train(toy_game(), tmp_path, hooks=hooks)
    assert (summary.stopped_by, summary.steps, summary.checkpoint.name) == ("interrupt", 2, "step_00000002")
    assert signal.getsignal(number) is before


def test_stop_at_the_last_step_finds_the_run_complete(tmp_path):
    hooks = [lambda trainer: os.kill(os.getpid(), signal.SIGINT) if trainer.step == 3 else None]
    assert train(toy_game(), tmp_path, steps=3, hooks=hooks).stopped_by == "steps"


def test_second_ctrl_c_aborts_at_once(tmp_path):
    def twice(trainer):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(toy_game(), tmp_path, hooks=[twice])
    assert list((tmp_path / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("start_method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_ctrl_c_of_a_process_with_workers(tmp_path, start_method):
    """The whole process group gets the signal, as from a terminal; the workers must not take the run down."""
    script = f"""
import multiprocessing, os, signal, sys
sys.path.insert(0, {str(os.getcwd())!r})
multiprocessing.set_start_method({start_method!r})
from ganfuse.engine import Trainer
from tests.engine.toys import ToyData, toy_game
hook = lambda trainer: os.killpg(0, signal.SIGINT) if trainer.step == 3 else None
summary = Trainer(toy_game(), ToyData(), out={str(tmp_path)!r}, steps=50, batch_size=4, workers=2, device="cpu",
                  progress=False, hooks=[hook]).fit()
print(summary.stopped_by, summary.steps)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, start_new_session=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupt", "3"]
    assert "Traceback" not in done.stderr


def test_time_limit(tmp_path):
    summary = train(toy_game(), tmp_path, steps=10**6, time_limit=0.2)
    assert summary.stopped_by == "time_limit"
    assert 0.2 <= summary.seconds < 10
    assert summary.checkpoint.name == f"step_{summary.steps:08d}"
    assert (tmp_path / "samples" / f"step_{summary.steps:06d}.png").exists()


def test_works_in_another_thread(tmp_path):
    summaries = []
    thread = threading.Thread(target=lambda: summaries.append(train(toy_game(), tmp_path)))
    thread.start()
    thread.join()
    assert summaries[0].stopped_by == "steps"


def test_lines_where_there_is_no_terminal(tmp_path, capsys):
    train(toy_game(), tmp_path, progress=True, log_every=2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 3/3" in captured.err
    assert "discriminator " in captured.err
    assert "img/s" in captured.err
    assert "\x1b" not in captured.err


def test_no_progress(tmp_path, capsys):
    train(toy_game(), tmp_path)
    assert capsys.readouterr().err == ""


def test_bar_on_a_terminal(monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    with TrainingProgress(10, 0) as progress:
        progress.say("a [bracketed] notice")
        progress.advance(7)
        progress.report(7, {"discriminator/loss": 1.25, "discriminator/real_logits": 9.0}, 33.0)
    shown = terminal.getvalue()
    assert "a [bracketed] notice" in shown
    assert "7/10" in shown
    assert "discriminator 1.250" in shown
    assert "33 img/s" in shown
    assert "real_logits" not in shown


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_loss_that_is_not_finite(tmp_path, value):
    game = TwoPlayers()
    healthy = game.loss_of("a")

    def sick(batch, rng):
        values = healthy(batch, rng)
        return values if len(game.journal) < 4 else {"loss": values["loss"].abs() * value}

    game.loss_of = lambda name: sick if name == "b" else healthy
    with pytest.raises(
        NonFiniteLossError, match=rf"the loss of turn 'b' became {value} at step 2; the last good .*0001"
    ) as e:
        train(game, tmp_path, checkpoint_every=1)
    assert (e.value.turn, e.value.step) == ("b", 2)
    assert e.value.checkpoint == tmp_path / "checkpoints" / "step_00000001"
    assert all(parameter.isfinite().all() for parameter in game.parameters())
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


def test_first_loss_that_is_not_finite(tmp_path):
    game = TwoPlayers()
    game.a.weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match="'a' became nan at step 1; there is no checkpoint from before"):
        train(game, tmp_path)


def test_losses_that_wait_on_the_device_are_looked_at_when_flushed():
    """As on a GPU: nothing is read until then, and the first bad step is named."""
    record = LossRecord(torch.device("cuda"))
    for step, value in enumerate([1.0, 2.0], start=1):
        record.add(step, "a", {"loss": torch.tensor(value), "extra": torch.tensor(float("nan"))})
    assert record.latest == {}
    record.flush()
    assert record.latest["a/loss"] == 2.0
    for step, value in enumerate([3.0, float("nan"), float("inf")], start=3):
        record.add(step, "a", {"loss": torch.tensor(value)})
    with pytest.raises(NonFiniteLossError, match="'a' became nan at step 4"):
        record.flush()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    class Poison(TwoPlayers):
        def after_step(self, player, step):
            if player == "b" and step == 2:
                self.b.weight.fill_(float("nan"))

    with pytest.raises(NonFiniteWeightError, match=r"b\.weight is no longer finite at step 2; not saved; .*00000001"):
        train(Poison(), tmp_path, checkpoint_every=1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda game: {"loss": torch.ones(())}, "turn 'a' returned a loss that does not require grad"),
        (lambda game: {"loss": game.bystander.weight.sum()}, "does not depend on the parameters of a"),
        (lambda game: {"los": game.a.weight.sum()}, "turn 'a' returned no entry 'loss', only los"),
        (lambda game: {}, "turn 'a' returned no entry 'loss', only nothing"),
        (lambda game: {"loss": game.a.weight.expand(2, 3)}, r"'loss' is of shape \(2, 3\)"),
        (lambda game: {"loss": game.a.weight.sum(), "p": 0.5}, "'p' is of float"),
    ],
)
def test_bad_losses(tmp_path, loss, message):
    game = TwoPlayers()
    game.loss_of = lambda name: lambda batch, rng: loss(game)
    with pytest.raises(ValueError, match=message):
        train(game, tmp_path)


@pytest.mark.parametrize(
    ("players", "turns", "message"),
    [
        ([Player("a", ("c",), sgd)], ["a"], "players: 'a' names a module that the game has not"),
        ([Player("a", ("empty",), sgd)], ["a"], "players: 'a' has no trainable parameters in empty"),
        ([Player("a", ("a",), sgd), Player("a", ("b",), sgd)], ["a"], "two players are called 'a'"),
        ([Player("a", ("a",), sgd)], ["z"], "turns: 'z' moves 'z', but the players are a"),
        ([Player("a", ("a",), sgd)], ["a", "a"], "turns: names must differ, got a, a"),
        ([Player("a", ("a",), sgd)], [], "turns: the game has none"),
    ],
)
def test_bad_games(tmp_path, players, turns, message):
    game = TwoPlayers()
    game.empty = nn.ReLU()
    game.players = lambda: players
    game.turns = lambda: [Turn(name, game.loss_of(name)) for name in turns]
    with pytest.raises(ValueError, match=message):
        train(game, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stepz": 5}, "stepz: the trainer has no such option; did you mean 'steps'"),
        ({"bach_size": 5}, "did you mean 'batch_size'"),
        ({"qqqq": 5}, "known options: .*steps, kimg, batch_size"),
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number of at least 1, got 2.5"),
        ({"workers": -1}, "workers: expected a whole number of at least 0, got -1"),
        ({"seed": True}, "seed: expected a whole number"),
        ({"precision": "fp8"}, "precision: expected one of 'fp32', 'bf16', 'fp16', got 'fp8'"),
        ({"time_limit": 0}, "time_limit: expected seconds above 0 or None, got 0"),
        ({"resume": True, "overwrite": True}, "resume: cannot be combined with overwrite"),
        ({"flip": "yes"}, "flip: expected True or False, got 'yes'"),
        ({"device": "gpu"}, "device: expected 'auto', 'cpu', 'cuda', .*got 'gpu'"),
        ({"device": "meta"}, "device: nothing can be trained on the meta device"),
        ({"data": ToyData(length=0)}, "data: the data set is empty"),
        ({"data": [torch.zeros(3)]}, r"data: expected items \(image tensor, label\) or mappings, got Tensor"),
        ({"data": [(torch.zeros(1, 8, 8), 0)]}, r"expected images uint8 \(C, H, W\), got torch.float32 \(1, 8, 8\)"),
        ({"data": ToyData(num_classes=4)}, "num_classes: the data has 4 classes, the game was made for 3"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        train(toy_game(), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_absent_gpu(tmp_path):
    with pytest.raises(ValueError, match="device: cuda was asked for, but PyTorch finds no usable GPU"):
        train(toy_game(), tmp_path, device="cuda")


def test_folder_with_a_run_is_not_touched_unless_asked(tmp_path):
    train(toy_game(), tmp_path, steps=2)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"already holds a run, saved at step 2; resume it \(resume=True\)"):
        train(toy_game(), tmp_path)
    train(toy_game(), tmp_path, steps=1, log_every=1, overwrite=True)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000001"]
    assert [path.name for path in (tmp_path / "samples").iterdir()] == ["step_000001.png"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_out_is_a_file(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(FileExistsError, match="run is a file, expected a folder"):
        train(toy_game(), tmp_path / "run")


def test_import_stays_light():
    code = """
import sys
import torch
before = set(sys.modules)
import ganfuse, ganfuse.engine
assert "ganfuse.engine.trainer" not in sys.modules
ganfuse.engine.Trainer, ganfuse.engine.load_run, ganfuse.engine.AdversarialGame
heavy = {"yaml", "rich", "PIL", "safetensors", "tensorboard", "triton", "matplotlib"}
assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_data_can_be_named(tmp_path):
    from ganfuse.models import create

    game = create("sagan", resolution=32, width=2, num_classes=10, channels=1, latent_dim=4)
    trainer = Trainer(game, "digits", out=tmp_path / "run", steps=1, batch_size=4, progress=False)
    assert trainer.data.resolution == 32
    assert trainer.data.channels == 1
    assert trainer.fit().stopped_by == "steps"
    with pytest.raises(FileNotFoundError, match="digits"):
        Trainer(game, "digitz", out=tmp_path / "other")


def test_weights_and_biases(tmp_path, monkeypatch):
    """A stand-in for the library: what it is told, and that a resumed run is the same one to it."""
    told = []

    class Run:
        def log(self, values, step):
            told.append((step, values))

        def finish(self, exit_code):
            told.append(("finish", exit_code))

    module = types.ModuleType("wandb")
    module.init = lambda **options: told.append(("init", options)) or Run()
    module.Image = lambda pixels: pixels.shape
    monkeypatch.setitem(sys.modules, "wandb", module)
    train(toy_game(), tmp_path, wandb="toys", log_every=1, steps=2)
    train(toy_game(), tmp_path, wandb="toys", log_every=1, steps=3, resume=True)
    starts = [options for name, options in told if name == "init"]
    assert [start["project"] for start in starts] == ["toys", "toys"]
    assert starts[0]["id"] == starts[1]["id"]
    assert starts[0]["config"]["trainer"]["batch_size"] == 4
    scalars = [(step, values) for step, values in told if isinstance(step, int) and "images" in values]
    assert [step for step, _ in scalars] == [1, 2, 3]
    assert {"discriminator/loss", "learning_rate/generator", "images_per_second"} <= scalars[0][1].keys()
    assert any("samples" in values for step, values in told if isinstance(step, int))
    assert told[-1] == ("finish", 0)


def test_weights_and_biases_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"wandb: asked for but not installed; pip install 'ganfuse\[wandb\]'"
    ):
        train(toy_game(), tmp_path, wandb="toys")
