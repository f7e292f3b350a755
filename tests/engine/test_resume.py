"""A run that is stopped and resumed gives the bits of one that is not."""

import json
import os
import signal

import pytest
import torch

from ganfuse.engine import Trainer, load_run
from ganfuse.engine.checkpoint import list_checkpoints
from ganfuse.engine.noise import Noise
from tests.engine.test_sharded_networks import train
from tests.engine.toys import ToyData, toy_game

STEPS = 9
OPTIONS = {"batch_size": 4, "discriminator_steps": 2, "log_every": 1, "flip": True}


def make_trainer(out, *, init_seed=0, data=None, steps=STEPS, **options):
    options = {**OPTIONS, "sample_every": 0, "checkpoint_every": 4, "progress": False, "device": "cpu", **options}
    game = toy_game(init_seed, discriminator_steps=options.pop("discriminator_steps"), concatenate=True)
    return Trainer(game, data or ToyData(), out=out, steps=steps, **options)


def stop_at(step):
    return lambda trainer: trainer.stop("test") if trainer.step == step else None


def interrupt_at(step):
    return lambda trainer: os.kill(os.getpid(), signal.SIGINT) if trainer.step == step else None


def losses(out):
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["images"], line["losses"]) for line in lines]


def everything(out):
    """All that the newest checkpoint holds, except for how long it took."""
    checkpoint = list_checkpoints(out / "checkpoints")[-1]
    state = checkpoint.read_state()
    del state["seconds"]
    return flatten({"weights": checkpoint.read_weights(), "state": state})


def flatten(value, path=""):
    if isinstance(value, dict):
        return {key: leaf for name, entry in value.items() for key, leaf in flatten(entry, f"{path}/{name}").items()}
    if isinstance(value, list | tuple):
        return flatten(dict(enumerate(value)), path)
    return {path: value}


def assert_same_run(ours, theirs):
    assert losses(ours) == losses(theirs)
    left, right = everything(ours), everything(theirs)
    assert left.keys() == right.keys()
    for key, value in left.items():
        same = torch.equal(value, right[key]) if isinstance(value, torch.Tensor) else value == right[key]
        assert same, key


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    out = tmp_path_factory.mktemp("straight")
    make_trainer(out, overwrite=True).fit()
    return out


def test_what_is_compared_is_not_empty(straight):
    names = everything(straight)
    for part in (
        "/weights/game.generator.body.1.running_mean",
        "/weights/game.discriminator.features.0.weight_u",
        "/weights/ema.generator.body.0.weight",
        "/state/optimizers/players/discriminator/state/0/exp_avg_sq",
        "/state/images_drawn",
    ):
        assert part in names
    assert [step for step, *_ in losses(straight)] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("step", [1, 4, 6, 8])
def test_stopped_and_resumed(straight, tmp_path, step):
    first = make_trainer(tmp_path, hooks=[stop_at(step)]).fit()
    assert (first.stopped_by, first.steps) == ("test", step)
    # Another initialisation, and other numbers drawn in between: all must come from the checkpoint.
    torch.manual_seed(999)
    second = make_trainer(tmp_path, init_seed=1, resume=True).fit()
    assert (second.stopped_by, second.steps) == ("steps", STEPS)
    assert_same_run(tmp_path, straight)


def test_resumed_many_times(straight, tmp_path):
    for step in range(1, STEPS):
        make_trainer(tmp_path, init_seed=step - 1, resume=True, hooks=[stop_at(step)]).fit()
    make_trainer(tmp_path, resume=True).fit()
    assert_same_run(tmp_path, straight)


def test_interrupted_and_resumed(straight, tmp_path):
    assert make_trainer(tmp_path, hooks=[interrupt_at(3)]).fit().stopped_by == "interrupt"
    make_trainer(tmp_path, init_seed=1, resume=True).fit()
    assert_same_run(tmp_path, straight)


def test_killed_between_checkpoints(straight, tmp_path):
    """What a killed run leaves: lines beyond its checkpoint, one of them torn, and a half-written checkpoint."""

    class Killed(BaseException):
        pass

    def kill(trainer):
        if trainer.step == 7:
            raise Killed

    with pytest.raises(Killed):
        make_trainer(tmp_path, hooks=[kill]).fit()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "im')
    leftover = tmp_path / "checkpoints" / ".step_00000007.writing"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half")
    make_trainer(tmp_path, init_seed=1, resume=True).fit()
    assert not leftover.exists()
    assert_same_run(tmp_path, straight)


def test_fit_again_goes_on(straight, tmp_path):
    trainer = make_trainer(tmp_path, hooks=[stop_at(5)])
    trainer.fit()
    torch.randn(3)
    trainer.fit()
    assert_same_run(tmp_path, straight)


def test_samples_and_logging_do_not_disturb_training(straight, tmp_path):
    make_trainer(tmp_path, sample_every=1, checkpoint_every=1, num_samples=7).fit()
    assert_same_run(tmp_path, straight)
    assert len(list((tmp_path / "samples").glob("*.png"))) == STEPS


def test_samples_that_draw_global_randomness_do_not_disturb_training(straight, tmp_path):
    """As generators do that add noise of their own; the grids of such a run show the same noise every time."""
    trainer = make_trainer(tmp_path, sample_every=1)
    drawn = []

    def preview(n, *, rng):
        drawn.append(torch.rand(3))
        return torch.zeros(n, 1, 8, 8), None

    trainer.game.preview = preview
    trainer.fit()
    assert len(drawn) == STEPS
    assert all(torch.equal(noise, drawn[0]) for noise in drawn)
    assert_same_run(tmp_path, straight)


def test_gradients_left_by_an_error_are_forgotten(straight, tmp_path):
    trainer = make_trainer(tmp_path)
    for parameter in trainer.game.parameters():
        parameter.grad = torch.ones_like(parameter)
    trainer.fit()
    assert_same_run(tmp_path, straight)


def test_workers_draw_the_same_batches(straight, tmp_path):
    make_trainer(tmp_path, workers=1, hooks=[stop_at(4)]).fit()
    make_trainer(tmp_path, workers=2, init_seed=1, resume=True).fit()
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize("formats", [(False, True), (True, False)])
def test_resumed_in_another_memory_format(tmp_path, formats):
    for steps, channels_last in zip((2, 4), formats):
        options = {"steps": steps, "channels_last": channels_last, "resume": True, "sample_every": 0}
        resumed = train(tmp_path / "resumed", norm=True, **options)
    straight = train(tmp_path / "straight", norm=True, steps=4, sample_every=0)
    torch.testing.assert_close(resumed.game.state_dict(), straight.game.state_dict(), rtol=1e-9, atol=1e-12)


def test_longer_run_after_a_complete_one(straight, tmp_path):
    make_trainer(tmp_path, steps=4).fit()
    make_trainer(tmp_path, init_seed=1, resume=True).fit()
    assert_same_run(tmp_path, straight)


def test_resuming_a_complete_run_changes_nothing(straight, tmp_path):
    make_trainer(tmp_path).fit()
    summary = make_trainer(tmp_path, init_seed=1, resume=True).fit()
    assert (summary.steps, summary.stopped_by) == (STEPS, "steps")
    assert summary.losses == losses(straight)[-1][2]
    assert_same_run(tmp_path, straight)


def test_another_seed_gives_another_run(straight, tmp_path):
    make_trainer(tmp_path, seed=1).fit()
    assert losses(tmp_path) != losses(straight)


def test_resume_where_there_is_nothing_begins_and_says_so(straight, tmp_path, capsys):
    make_trainer(tmp_path / "new", resume=True, progress=True).fit()
    assert "nothing to resume" in capsys.readouterr().err
    assert_same_run(tmp_path / "new", straight)


def test_run_without_a_checkpoint_begins_anew_and_says_so(straight, tmp_path, capsys):
    make_trainer(tmp_path).fit()
    for checkpoint in list_checkpoints(tmp_path / "checkpoints"):
        (checkpoint.path / "state.pt").unlink()
    make_trainer(tmp_path, resume=True, progress=True).fit()
    assert "has no checkpoint yet: beginning at step 0" in capsys.readouterr().err
    assert_same_run(tmp_path, straight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5}, "batch_size was 4, now 5"),
        ({"seed": 3}, "seed was 0, now 3"),
        ({"flip": False, "precision": "bf16"}, "precision was 'fp32', now 'bf16'; flip was True, now False"),
        ({"data": ToyData(length=30)}, "data length was 22, now 30"),
    ],
)
def test_other_settings_are_refused(straight, tmp_path, options, message):
    make_trainer(tmp_path, steps=1).fit()
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(ValueError, match=f"resume: the run was begun with other settings: .*{message}"):
        make_trainer(tmp_path, resume=True, **options).fit()
    assert (tmp_path / "config.yaml").read_text() == before


def test_loaded_average_is_that_of_the_trainer(tmp_path):
    trainer = make_trainer(tmp_path)
    trainer.fit()
    rng = torch.Generator().manual_seed(0)
    images = load_run(tmp_path, toy_game(1)).sample(4, rng=rng)
    z = Noise(torch.Generator().manual_seed(0))
    labels = trainer.game.draw_labels(4, z)
    with torch.no_grad():
        expected = trainer.averages["generator"].module(trainer.game.draw_latents(4, z), labels)
    assert torch.equal(images, expected)
    raw = load_run(tmp_path, toy_game(1), weights="raw")
    for key, value in trainer.game.state_dict().items():
        assert torch.equal(raw.state_dict()[key], value)
