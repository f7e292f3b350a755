"""Models in the conventions of the Hugging Face Hub; nothing here reaches the network."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open

from ganfuse.engine import AdversarialGame, Trainer, load_run
from ganfuse.engine.data import open_dataset
from ganfuse.engine.metrics.evaluation_log import append_evaluation
from ganfuse.engine.run_folder import RunFolder, plain
from ganfuse.interop import from_pretrained, hub, push_to_hub, save_pretrained
from ganfuse.models import create, list_models
from tests.interop.tiny_models import CONFIGS, tiny
from tests.models.translation_checks import ToyDomains

needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None,
    reason="needs huggingface_hub (pip install 'ganfuse[export]')",
)


def header(folder: Path) -> dict:
    text = (folder / "README.md").read_text()
    return yaml.safe_load(text.split("---\n")[1])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Two steps of a small cGAN on digits, evaluated."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    game = create("cgan", resolution=8, width=2, latent_dim=5, channels=1, num_classes=10, ema_decay=0.9)
    Trainer(game, open_dataset("digits", resolution=8), out=out, steps=2, batch_size=4, progress=False).fit()
    scores = {"scores": {"fid": 123.456}, "weights": "ema", "num_real": 100, "num_fake": 100}
    extractor = {"name": "classifier", "trained_on": "/home/me/digits"}
    append_evaluation(RunFolder(out), {"step": 1, **scores, "scores": {"fid": 999.0}})
    append_evaluation(RunFolder(out), {"step": 2, **scores, "data": "digits", "extractor": extractor})
    return out


@pytest.mark.parametrize("name", list_models())
def test_every_model_there_and_back(name, tmp_path):
    game = create(name, **CONFIGS[name]).eval()
    assert save_pretrained(game, tmp_path / "saved") == tmp_path / "saved"
    back = from_pretrained(tmp_path / "saved")
    assert (back.name, plain(back.config), back.training) == (game.name, plain(game.config), False)
    state = back.state_dict()
    assert state.keys() == game.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in game.state_dict().items())
    assert header(tmp_path / "saved")["library_name"] == "ganfuse"


def test_a_run(run, tmp_path):
    save_pretrained(run, tmp_path, license="apache-2.0", repo_id="someone/digits")
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["model"] == "cgan"
    assert found["config"]["width"] == 2
    with safe_open(tmp_path / "model.safetensors", framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    image = from_pretrained(tmp_path).sample(1, labels=3, rng=torch.Generator().manual_seed(1))
    expected = load_run(run).sample(1, labels=3, rng=torch.Generator().manual_seed(1))
    assert torch.equal(image, expected)
    assert not torch.equal(
        image, load_run(run, weights="raw").sample(1, labels=3, rng=torch.Generator().manual_seed(1))
    )
    assert (tmp_path / "samples.png").read_bytes() == (run / "samples" / "step_000002.png").read_bytes()


def test_the_card_of_a_run(run, tmp_path):
    save_pretrained(run, tmp_path, license="apache-2.0", repo_id="someone/digits")
    data = header(tmp_path)
    assert data["license"] == "apache-2.0"
    assert data["pipeline_tag"] == "unconditional-image-generation"
    assert {"gan", "ganfuse", "cgan", "arxiv:1411.1784"} <= set(data["tags"])
    (result,) = data["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 123.456
    text = (tmp_path / "README.md").read_text()
    assert 'from_pretrained("someone/digits")' in text
    assert "| FID (features of: classifier, trained on digits) | 123.5 | 100 generated, 100 real |" in text
    # Evaluations of other steps, and this machine's folders, are nobody's business.
    assert "999" not in text
    assert "/home" not in text
    assert "| steps | 2 |" in text
    assert "| batch_size | 4 |" in text


def test_the_card_of_a_translator(tmp_path):
    """It has no averages, whatever was asked for, and its cycles are compared without features."""
    out = tmp_path / "run"
    game = create("cyclegan", resolution=24, width=2, channels=1, blocks=1)
    Trainer(game, ToyDomains(1, 24), out=out, steps=1, batch_size=2, device="cpu", progress=False).fit()
    about = {"step": 1, "extractor": {"name": "random"}, "data": "toy", "num_fake": 5, "num_real": 5}
    for weights, fid in (("ema", 12.5), ("raw", 13.5)):
        append_evaluation(RunFolder(out), {**about, "weights": weights, "scores": {"fid_ab": fid, "cycle_a": 0.25}})
    save_pretrained(out, tmp_path / "saved")
    text = (tmp_path / "saved" / "README.md").read_text()
    assert "| weights | as trained |" in text
    for fid in ("12.5", "13.5"):
        assert f"| fid_ab (features of: random) | {fid} | 5 generated, 5 real |" in text
    assert "| cycle_a (mean absolute difference of images in [-1, 1]) | 0.25 |" in text


@needs_hub
def test_the_hub_reads_the_card(run, tmp_path):
    from huggingface_hub import ModelCard

    save_pretrained(run, tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "ganfuse"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("fid", 123.456, "digits")


@pytest.mark.parametrize(
    ("name", "task", "usage"),
    [
        ("cyclegan", "image-to-image", 'game.translate(images, "ab")'),
        ("gan-cls", "text-to-image", "embeddings=embeddings"),
        ("gan", "unconditional-image-generation", "game.sample(16)"),
    ],
)
def test_cards_by_task(name, task, usage, tmp_path):
    save_pretrained(tiny(name), tmp_path)
    assert header(tmp_path)["pipeline_tag"] == task
    text = (tmp_path / "README.md").read_text()
    assert usage in text
    assert "## Training" not in text


@pytest.mark.parametrize(
    ("part", "usage"), [("generator_ba", 'game.translate(images, "ba")'), ("discriminator_a", "game.discriminator_a")]
)
def test_cards_use_what_is_kept(part, usage, tmp_path):
    save_pretrained(tiny("cyclegan"), tmp_path, parts=[part])
    text = (tmp_path / "README.md").read_text()
    assert usage in text
    assert '"ab"' not in text
    assert ("No generator is among the networks" in text) == (part == "discriminator_a")


def test_networks_that_are_left_out(tmp_path):
    game = tiny("progan")
    game.growth.load_state_dict({"position": torch.tensor([1.0, 0.5])})
    save_pretrained(game, tmp_path, parts=["generator"])
    with safe_open(tmp_path / "model.safetensors", framework="pt") as opened:
        names = list(opened.keys())
    assert not any(name.startswith("discriminator") for name in names)
    back = from_pretrained(tmp_path)
    # At which resolution to sample is no network's.
    assert back.growth.level == 1
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(back.sample(2, rng=rng), game.sample(2, rng=torch.Generator().manual_seed(0)))
    generator = from_pretrained(tmp_path, part="generator")
    assert type(generator) is type(game.generator)
    with pytest.raises(ValueError, match="part: 'discriminator' was left out of"):
        from_pretrained(tmp_path, part="discriminator")
    with pytest.raises(ValueError, match="part: progan has 'discriminator', 'generator', got 'decoder'"):
        from_pretrained(tmp_path, part="decoder")


@pytest.mark.parametrize("parts", [["critic"], []])
def test_unknown_parts(parts, tmp_path):
    with pytest.raises(ValueError, match="parts: gan has 'discriminator', 'generator', got"):
        save_pretrained(tiny("gan"), tmp_path, parts=parts)
    with pytest.raises(ValueError, match="parts: expected a list of names"):
        save_pretrained(tiny("gan"), tmp_path, parts="generator")


def test_what_is_there_is_kept(tmp_path):
    game = tiny("gan")
    (tmp_path / ".gitattributes").write_text("mine")
    save_pretrained(game, tmp_path)
    with pytest.raises(FileExistsError, match=r"already holds a model; overwrite=True"):
        save_pretrained(game, tmp_path)
    save_pretrained(game, tmp_path, overwrite=True)
    assert (tmp_path / ".gitattributes").read_text() == "mine"
    with pytest.raises(FileExistsError, match="is a file, expected a folder"):
        save_pretrained(game, tmp_path / "config.json")


def test_ones_own_networks_have_no_name(tmp_path):
    own = AdversarialGame(tiny("gan").generator, tiny("gan").discriminator)
    with pytest.raises(ValueError, match="made from its owner's networks"):
        save_pretrained(own, tmp_path)


def test_damaged_folders(tmp_path):
    save_pretrained(tiny("gan"), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def written(**changes):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))

    written(library_name="diffusers")
    with pytest.raises(ValueError, match="not the configuration of a ganfuse model"):
        from_pretrained(tmp_path)
    written(format=2)
    with pytest.raises(ValueError, match="expected format 1, found 2"):
        from_pretrained(tmp_path)
    written(model="gam")
    with pytest.raises(ValueError, match="did you mean 'gan'"):
        from_pretrained(tmp_path)
    written(config={**config["config"], "width": 7})
    with pytest.raises(ValueError, match="the weights do not fit; of another shape"):
        from_pretrained(tmp_path)
    written(parts=["generator"])
    with pytest.raises(ValueError, match=r"holds discriminator\..*, of a network that config.json does not name"):
        from_pretrained(tmp_path)
    written()
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"model\.safetensors: the file is truncated or damaged"):
        from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        from_pretrained(tmp_path)


def test_no_such_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such folder, and it is not the name of a repository"):
        from_pretrained(tmp_path / "missing")


class FakeHub:
    """Stands in for huggingface_hub: repositories are folders."""

    def __init__(self, root: Path):
        self.root = root
        self.calls = []
        from huggingface_hub import errors

        self.errors = errors

    def hf_hub_download(self, repo_id, filename, **options):
        self.calls.append((filename, options))
        file = self.root / repo_id / filename
        if not file.exists():
            raise self.errors.LocalEntryNotFoundError(f"no {filename}")
        return str(file)

    def HfApi(self, **options):
        self.calls.append(("HfApi", options))
        return self

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", options))
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, **options):
        self.calls.append(("upload_folder", options))
        target = self.root / repo_id
        target.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (Path(folder_path) / name).exists():
                (target / name).write_bytes((Path(folder_path) / name).read_bytes())
        return type("Commit", (), {"commit_url": f"https://hub/{repo_id}/commit/1"})


@needs_hub
def test_to_the_hub_and_back(run, tmp_path, monkeypatch):
    fake = FakeHub(tmp_path)
    monkeypatch.setattr(hub, "_hub", lambda: fake)
    address = push_to_hub(run, "me/digits", private=True, token="secret", license="mit")
    assert address == "https://hub/me/digits/commit/1"
    assert ("create_repo", {"private": True, "exist_ok": True}) in fake.calls
    assert sorted(path.name for path in (tmp_path / "me/digits").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "samples.png",
    ]
    assert 'from_pretrained("me/digits")' in (tmp_path / "me/digits/README.md").read_text()
    game = from_pretrained("me/digits", revision="v1", local_files_only=True)
    assert game.name == "cgan"
    names = [call for call in fake.calls if call[0] in ("config.json", "model.safetensors")]
    assert [name for name, _ in names] == ["config.json", "model.safetensors"]
    assert all(options["revision"] == "v1" and options["local_files_only"] for _, options in names)
    with pytest.raises(FileNotFoundError, match=re.escape("the Hub gives no config.json")):
        from_pretrained("me/nothing")


@needs_hub
def test_a_folder_that_was_saved_is_pushed_as_it_is(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(hub, "_hub", lambda: fake)
    save_pretrained(tiny("gan"), tmp_path / "saved")
    (tmp_path / "saved" / "README.md").write_text("my own card")
    (tmp_path / "saved" / "notes.txt").write_text("private")
    push_to_hub(tmp_path / "saved", "me/gan", create_pr=True)
    assert (tmp_path / "hub/me/gan/README.md").read_text() == "my own card"
    assert not (tmp_path / "hub/me/gan/notes.txt").exists()
    with pytest.raises(ValueError, match=r"license: .* was written already"):
        push_to_hub(tmp_path / "saved", "me/gan", license="mit")


@needs_hub
def test_the_calls_are_those_of_the_real_library():
    # What the stand-in takes, the library must take as well.
    import inspect

    import huggingface_hub

    def names(function):
        return set(inspect.signature(function).parameters)

    assert {"repo_id", "filename", "revision", "cache_dir", "force_download", "local_files_only", "token"} <= names(
        huggingface_hub.hf_hub_download
    )
    assert {"library_name", "library_version"} <= names(huggingface_hub.hf_hub_download)
    assert {"repo_id", "private", "exist_ok"} <= names(huggingface_hub.HfApi.create_repo)
    upload = {"repo_id", "folder_path", "commit_message", "revision", "create_pr", "allow_patterns"}
    assert upload <= names(huggingface_hub.HfApi.upload_folder)
    assert {"token", "library_name", "library_version"} <= names(huggingface_hub.HfApi)


def test_without_the_library(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("huggingface_hub"):
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModuleNotFoundError, match=r"needs huggingface_hub: pip install 'ganfuse\[export\]'"):
        from_pretrained("someone/model")
    save_pretrained(tiny("gan"), tmp_path)
    assert from_pretrained(tmp_path).name == "gan"
