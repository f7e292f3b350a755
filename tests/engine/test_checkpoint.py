"""Checkpoints and run folders: what is refused and how, and what a failed write leaves."""

import errno

import pytest
import torch
from torch import nn

from ganfuse.engine import CheckpointError, Trainer, load_run, registry
from ganfuse.engine.checkpoint import list_checkpoints, load_tensors, prune_checkpoints, save_checkpoint
from tests.engine.toys import ToyData, ToyDiscriminator, ToyGenerator, plain_game, toy_game


def save(folder, step, weights=None, state=None):
    return save_checkpoint(folder, step, game="toy", weights=weights or {"w": torch.ones(2)}, state=state or {"a": 1})


@pytest.fixture
def run(tmp_path):
    """A finished run of a game that is not in the registry."""
    out = tmp_path / "run"
    Trainer(toy_game(), ToyData(), out=out, steps=4, batch_size=4, checkpoint_every=2, progress=False).fit()
    return out


def test_round_trip(tmp_path):
    weights = {"a": torch.randn(3, 4), "b": torch.tensor(5), "empty": torch.zeros(0), "half": torch.ones(2).half()}
    state = {"nested": {"list": [1, 2.5, "x", None, True], "tensor": torch.arange(3)}}
    checkpoint = save(tmp_path, 7, weights, state)
    assert (checkpoint.step, checkpoint.path.name) == (7, "step_00000007")
    read = checkpoint.read_weights()
    assert read.keys() == weights.keys()
    for key, value in weights.items():
        assert read[key].dtype == value.dtype
        assert torch.equal(read[key], value)
    assert checkpoint.read_state()["nested"]["list"] == state["nested"]["list"]


def test_tensors_that_share_memory_or_are_views(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    weights = {"base": base, "same": base, "row": base[1], "transposed": base.t()}
    read = save(tmp_path, 1, weights).read_weights()
    assert all(torch.equal(read[key], value) for key, value in weights.items())


def test_only_complete_folders_count(tmp_path):
    save(tmp_path, 10)
    save(tmp_path, 9)
    (tmp_path / ".step_00000011.writing").mkdir()
    (tmp_path / "step_00000012").mkdir()
    (tmp_path / "step_00000012" / "weights.safetensors").touch()
    (tmp_path / "notes").mkdir()
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [9, 10]
    assert list_checkpoints(tmp_path / "missing") == []


def test_prune_keeps_the_newest(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    prune_checkpoints(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000002", "step_00000003"]


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 1, {"w": torch.zeros(2)})
    assert torch.equal(save(tmp_path, 1, {"w": torch.ones(2)}).read_weights()["w"], torch.ones(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


@pytest.mark.parametrize("where", ["safetensors.torch.save_file", "torch.save", "os.fsync"])
def test_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, where):
    save(tmp_path, 1)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(where, full)
    with pytest.raises(CheckpointError, match=r"step_00000002: .*No space left on device.*earlier ones are intact"):
        save(tmp_path, 2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert torch.equal(list_checkpoints(tmp_path)[0].read_weights()["w"], torch.ones(2))


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt"])
@pytest.mark.parametrize("damage", ["truncate", "empty", "garbage"])
def test_damaged_file_is_named(run, file, damage):
    path = list_checkpoints(run / "checkpoints")[-1].path / file
    content = path.read_bytes()
    path.write_bytes({"truncate": content[: len(content) // 2], "empty": b"", "garbage": b"\x7f" * 200}[damage])
    with pytest.raises(CheckpointError, match=rf"step_00000004/{file}: .* truncated or damaged.*remove the folder"):
        Trainer(toy_game(), ToyData(), out=run, steps=6, batch_size=4, progress=False, resume=True).fit()


def test_state_that_would_run_code_is_refused(run):
    class Harmful:
        def __reduce__(self):
            return print, ("executed",)

    path = list_checkpoints(run / "checkpoints")[-1].path / "state.pt"
    torch.save({"step": Harmful()}, path)
    with pytest.raises(CheckpointError, match=r"state\.pt"):
        list_checkpoints(run / "checkpoints")[-1].read_state()


def test_another_format_is_refused(run):
    from safetensors.torch import save_file

    checkpoint = list_checkpoints(run / "checkpoints")[-1]
    save_file({"w": torch.ones(1)}, checkpoint.path / "weights.safetensors", metadata={"format_version": "99"})
    with pytest.raises(CheckpointError, match="expected a checkpoint of format 1, found '99'"):
        checkpoint.read_weights()


def test_weights_that_do_not_fit_are_listed():
    layer = nn.Linear(2, 3)
    with pytest.raises(
        CheckpointError,
        match=r"file: the weights do not fit; not in the file: bias; not in the network: gain; "
        r"of another shape: weight \(file \(3, 5\), network \(3, 2\)\)",
    ):
        load_tensors(layer, {"weight": torch.zeros(3, 5), "gain": torch.zeros(1)}, what="file")
    many = {f"k{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(CheckpointError, match="k0, k1, k2 and 6 more"):
        load_tensors(layer, {**layer.state_dict(), **many}, what="file")


def test_load_run_puts_everything_into_eval_mode(run):
    game = load_run(run, toy_game())
    assert not any(module.training for module in game.modules())
    assert load_run(run, toy_game(), checkpoint=2).sample(2).shape == (2, 1, 8, 8)


def test_load_run_builds_a_registered_game(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_builders", {})
    monkeypatch.setattr(registry, "_sources", [])

    def build(betas):
        torch.manual_seed(0)
        return toy_game(name="toy", config={"betas": betas}, betas=betas)

    registry.register("toy", build)
    trainer = Trainer(build((0.5, 0.99)), ToyData(), out=tmp_path, steps=2, batch_size=4, progress=False)
    trainer.fit()
    game = load_run(tmp_path, weights="raw")
    assert game.config == {"betas": [0.5, 0.99]}
    assert torch.equal(game.generator.embed.weight, trainer.game.generator.embed.weight)
    monkeypatch.setattr(registry, "_builders", {"other": build})
    with pytest.raises(ValueError, match="no game called 'toy'"):
        load_run(tmp_path)


def test_load_run_errors(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        load_run(tmp_path / "nowhere")
    (tmp_path / "photos").mkdir()
    with pytest.raises(FileNotFoundError, match=r"photos: not the folder of a run \(it has no config.yaml\)"):
        load_run(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"made from its owner's networks.*load_run\(path, game\)"):
        load_run(run)
    with pytest.raises(ValueError, match="weights: expected 'ema' or 'raw', got 'best'"):
        load_run(run, toy_game(), weights="best")
    with pytest.raises(CheckpointError, match="no checkpoint of step 3; there are: 2, 4"):
        load_run(run, toy_game(), checkpoint=3)
    with pytest.raises(ValueError, match="checkpoint: expected 'latest', 'best' or a step, got 'newest'"):
        load_run(run, toy_game(), checkpoint="newest")
    with pytest.raises(CheckpointError, match=r"not in the file: generator\.layer\.weight"):
        load_run(run, plain_game())
    with pytest.raises(ValueError, match="the run is of the game 'adversarial', got 'other'"):
        load_run(run, plain_game(name="other"))
    larger = toy_game()
    larger.generator, larger.discriminator = ToyGenerator(5), ToyDiscriminator(5)
    with pytest.raises(CheckpointError, match=r"generator.embed.weight \(file \(3, 4\), network \(5, 4\)\)"):
        load_run(run, larger)


@pytest.mark.parametrize("text", ["{", "- 1", "game: 3", "game: {config: {}}"])
def test_damaged_config(run, text):
    (run / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml"):
        load_run(run, toy_game())


def test_run_without_checkpoint(run):
    for checkpoint in list_checkpoints(run / "checkpoints"):
        (checkpoint.path / "state.pt").unlink()
    with pytest.raises(CheckpointError, match="the run has no checkpoint yet"):
        load_run(run, toy_game())
