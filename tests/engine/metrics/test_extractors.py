"""Extractors: one's own network, TorchScript files, random weights, Inception's plumbing, and their choice by name."""

import json
import sys
import types
import urllib.error

import pytest
import torch
from torch import nn

from ganfuse.engine.metrics import ModuleExtractor, choose_extractor
from ganfuse.engine.metrics.extractor import match_channels
from ganfuse.engine.metrics.image_batches import to_uint8
from ganfuse.engine.metrics.inception import WEIGHTS_FILE, InceptionExtractor
from ganfuse.engine.metrics.random_network import RandomExtractor
from tests.engine.metrics.shapes import Bars, Unlabelled

GRAY = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8)


class Probe(nn.Module):
    """Gives back what it was called with; in training mode something else."""

    def forward(self, x, scale=1):
        return x * scale if not self.training else x * 0 - 5


def test_what_a_network_is_called_with():
    seen = {
        kind: ModuleExtractor(Probe(), name="probe", input=kind, channels=1) for kind in ("uint8", "unit", "signed")
    }
    values = {kind: extractor(GRAY).features for kind, extractor in seen.items()}
    assert values["uint8"].dtype == torch.uint8
    assert values["uint8"].flatten().tolist() == GRAY.flatten().tolist()
    torch.testing.assert_close(values["unit"], GRAY.flatten(1) / 255)
    torch.testing.assert_close(values["signed"], GRAY.flatten(1) / 127.5 - 1)
    doubled = ModuleExtractor(Probe(), name="probe", input="unit", channels=1, arguments={"scale": 2})
    torch.testing.assert_close(doubled(GRAY).features, values["unit"] * 2)


def test_evaluation_mode_is_for_the_call_only():
    probe = Probe().train()
    assert (ModuleExtractor(probe, name="probe", channels=1)(GRAY).features >= -1).all()
    assert probe.training


@pytest.mark.parametrize("kind", ["uint8", "unit"])
def test_resizing_averages_when_it_shrinks(kind):
    # One bright column in eight of each kind: averaged, not sampled.
    stripes = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    stripes[..., ::8] = 240
    extractor = ModuleExtractor(Probe(), name="probe", input=kind, channels=1, resolution=8)
    inner = extractor(stripes).features.float().view(8, 8)[:, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, 30 if kind == "uint8" else 30 / 255), rtol=0.1, atol=0)
    assert extractor.describe()["resize"] == "bilinear, antialiased"


def test_logits_become_probabilities():
    class Classifier(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)), torch.tensor([[0.0, 0.0]]).expand(len(x), 2)

    found = ModuleExtractor(Classifier(), name="two")(GRAY.expand(4, 1, 8, 8))
    assert found.features.shape == (4, 3)
    assert found.probabilities is not None
    assert found.probabilities.tolist() == [[0.5, 0.5]] * 4


def test_channels():
    colours = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert match_channels(GRAY, 3).shape == (1, 3, 8, 8)
    torch.testing.assert_close(
        match_channels(colours, 1).float(), colours.float().mean(1, keepdim=True), atol=0.5, rtol=0
    )
    assert match_channels(colours, None) is colours
    for wrong in (GRAY.float(), GRAY[0], torch.zeros(1, 2, 4, 4, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="images: expected uint8"):
            match_channels(wrong, 3)


def test_images_are_rounded_as_when_they_are_written():
    values = torch.tensor([-1.5, -1.0, -0.999, 0.0, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 0, 128, 255, 255]
    with pytest.raises(ValueError, match="NaN or infinite"):
        to_uint8(torch.tensor([0.0, torch.nan]))


def test_errors_of_modules():
    with pytest.raises(ValueError, match="input: expected one of 'uint8', 'unit', 'signed', got 'float'"):
        ModuleExtractor(Probe(), name="probe", input="float")
    with pytest.raises(ValueError, match="channels"):
        ModuleExtractor(Probe(), name="probe", channels=2)
    with pytest.raises(ValueError, match="resolution"):
        ModuleExtractor(Probe(), name="probe", resolution=0)

    class Sum(nn.Module):
        def forward(self, x):
            return x.sum()

    with pytest.raises(ValueError, match=r"extractor: sum should return features \(1, D\), it returned \(\)"):
        ModuleExtractor(Sum(), name="sum")(GRAY)


def test_the_weights_are_told_apart():
    torch.manual_seed(1)
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    hashes = [ModuleExtractor(m, name="m").describe()["weights"] for m in (first, second, first)]
    assert hashes[0] == hashes[2] != hashes[1]


# TorchScript


@pytest.fixture
def script(tmp_path):
    class Network(nn.Module):
        def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
            return x.float().mean(dim=(2, 3)) if return_features else x.float()[:, :1, 0, 0]

    file = tmp_path / "network.pt"
    torch.jit.script(Network()).save(str(file))
    return file


def test_a_torchscript_file_and_its_settings(script):
    extractor = choose_extractor(str(script), Bars())
    assert extractor(GRAY).features.tolist() == [[0.0]]
    script.with_suffix(".json").write_text(json.dumps({"arguments": {"return_features": True}, "resolution": 4}))
    extractor = choose_extractor(str(script), Bars())
    torch.testing.assert_close(extractor(GRAY).features, torch.full((1, 3), 31.5), atol=0.5, rtol=0)
    described = extractor.describe()
    assert (described["name"], described["resolution"], described["input"]) == ("network.pt", 4, "uint8")


def test_errors_of_torchscript_files(script, tmp_path):
    settings = script.with_suffix(".json")
    settings.write_text('{"size": 3}')
    with pytest.raises(ValueError, match="unknown setting 'size'; known: input, channels, resolution, arguments"):
        choose_extractor(str(script), Bars())
    settings.write_text("[1]")
    with pytest.raises(ValueError, match="expected an object"):
        choose_extractor(str(script), Bars())
    settings.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        choose_extractor(str(script), Bars())
    settings.unlink()
    script.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="is not a TorchScript file"):
        choose_extractor(str(script), Bars())
    with pytest.raises(FileNotFoundError, match=r"there is no file .*other\.pt"):
        choose_extractor(str(tmp_path / "other.pt"), Bars())


# random weights


def test_random_weights_depend_on_the_seed_alone():
    images = Bars(6).images
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = RandomExtractor(channels=1, resolution=8)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = RandomExtractor(channels=1, resolution=8)
    assert torch.equal(first(images).features, second(images).features)
    assert first.describe() == second.describe()
    other = RandomExtractor(channels=1, resolution=8, seed=1)
    assert other.describe()["weights"] != first.describe()["weights"]
    found = first(images)
    assert found.features.shape == (6, 128)
    assert found.probabilities is None
    # As large as the signal that went in, so that the kernel of the kernel distance is neither constant nor huge.
    assert 0.1 < found.features.square().mean() < 10
    torch.testing.assert_close(first(images[:2]).features, found.features[:2])


def test_large_images_are_shrunk():
    extractor = RandomExtractor(channels=3, resolution=256)
    assert extractor.resolution == 64
    assert extractor(torch.zeros(2, 3, 256, 256, dtype=torch.uint8)).features.shape == (2, 128)


# the choice


def test_auto_goes_by_the_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("GANFUSE_CACHE", str(tmp_path))
    assert choose_extractor("auto", Bars(), progress=False).name == "classifier"
    assert choose_extractor("auto", Unlabelled()).name == "random"
    with pytest.raises(ValueError, match="extractor: 'classifier' learns from labels, and the data has none"):
        choose_extractor("classifier", Unlabelled())


def test_modules_and_extractors_are_taken_as_they_are():
    probe = Probe()
    made = choose_extractor(probe, Bars())
    assert made.name == "Probe"
    assert choose_extractor(made, Bars()) is made


def test_unknown_names():
    with pytest.raises(ValueError, match="there is none called 'inceptoin'; did you mean 'inception'"):
        choose_extractor("inceptoin", Bars())
    with pytest.raises(ValueError, match="there is none called 'xyz'; known: auto, classifier, random, inception"):
        choose_extractor("xyz", Bars())


# Inception


@pytest.fixture
def fake_torch_fidelity(monkeypatch):
    """A stand-in with torch-fidelity's interface, so that what is around the network can be tested without it."""

    class FeatureExtractorInceptionV3(nn.Module):
        def __init__(self, name, features_list, feature_extractor_weights_path=None):
            super().__init__()
            assert features_list == ["2048", "logits_unbiased"]
            self.fc = nn.Linear(3, 5, bias=False)
            self.load_state_dict(torch.load(feature_extractor_weights_path))

        def forward(self, x):
            assert x.dtype == torch.uint8
            features = x.float().mean((2, 3))
            return features, self.fc(features)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = FeatureExtractorInceptionV3
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_inception_with_a_file_of_weights(fake_torch_fidelity, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.eye(5, 3)}, file)
    extractor = choose_extractor(f"inception:{file}", Bars())
    found = extractor(GRAY)
    assert found.features.tolist() == [[31.5] * 3]
    expected = torch.tensor([[31.5, 31.5, 31.5, 0, 0]], dtype=torch.float64).softmax(1)
    torch.testing.assert_close(found.probabilities, expected)
    assert extractor.describe()["resolution"] == 299
    assert len(extractor.describe()["weights"]) == 16


def test_inception_offline_says_how_to_get_the_weights(fake_torch_fidelity, tmp_path, monkeypatch):
    def offline(*arguments, **options):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"could not be downloaded \(no network\); fetch https://.*inception:FILE"
    ):
        choose_extractor("inception", Bars())
    # As PyTorch's hub stores it.
    torch.save({"fc.weight": torch.eye(5, 3)}, tmp_path / "checkpoints" / WEIGHTS_FILE)
    assert choose_extractor("inception", Bars()).name == "inception"
    with pytest.raises(FileNotFoundError, match=r"there is no file nowhere\.pth with Inception's weights; fetch https"):
        InceptionExtractor("nowhere.pth")


def test_inception_takes_no_other_files(fake_torch_fidelity, tmp_path):
    file = tmp_path / "weights.pth"
    file.write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"weights.pth: not a file of weights"):
        InceptionExtractor(file)
    torch.save({"conv.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"it has no entry fc\.weight"):
        InceptionExtractor(file)
    torch.save({"fc.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(ValueError, match="not the weights of torch-fidelity's Inception-v3"):
        InceptionExtractor(file)


def test_inception_without_torch_fidelity(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs torch-fidelity \(pip install 'ganfuse\[metrics\]'\)"):
        choose_extractor("inception", Bars())


@pytest.mark.slow
def test_torch_fidelitys_own_network_with_random_weights(tmp_path):
    inception = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    file = tmp_path / "weights.pth"
    network = inception.FeatureExtractorInceptionV3
    with pytest.MonkeyPatch.context() as patch:
        # The class insists on weights when it is made.
        patch.setattr(torch, "load", lambda *a, **k: None)
        patch.setattr(network, "load_state_dict", lambda self, state: None)
        made = network("inception-v3-compat", ["2048"], "none")
    torch.save(made.state_dict(), file)
    found = choose_extractor(f"inception:{file}", Bars())(Bars(3).images)
    assert found.features.shape == (3, 2048)
    assert found.probabilities is not None
    assert found.probabilities.shape == (3, 1008)
