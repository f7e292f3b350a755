"""The offline extractor: trained once, the same each time, kept in the cache, and good enough to tell images apart."""

from pathlib import Path

import pytest
import torch

from ganfuse.engine.cache_folder import cache_folder
from ganfuse.engine.data import open_dataset
from ganfuse.engine.data.fashion_mnist import DEBIAN_FOLDER
from ganfuse.engine.metrics import classifier, frechet_distance
from ganfuse.engine.metrics.classifier import data_fingerprint, open_classifier
from ganfuse.engine.metrics.classifier_training import train_classifier
from ganfuse.engine.metrics.small_network import SmallNetwork
from tests.engine.metrics.shapes import Bars, Unlabelled


@pytest.mark.parametrize(("channels", "resolution", "num_classes"), [(1, 8, 3), (3, 28, 10), (1, 33, 2), (3, 64, 0)])
def test_the_network_takes_every_size(channels, resolution, num_classes):
    network = SmallNetwork(channels, resolution, num_classes)
    features, logits = network(torch.randn(2, channels, resolution, resolution))
    assert features.shape == (2, 128)
    assert (features >= 0).all()
    assert logits is None if num_classes == 0 else logits.shape == (2, num_classes)


def test_training_is_accurate_and_repeatable_and_leaves_the_random_numbers_alone():
    data = Bars()
    before = torch.get_rng_state()
    first = train_classifier(data, progress=False)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.accuracy > 0.95
    assert first.held_out == 36
    torch.manual_seed(77)
    second = train_classifier(data, progress=False)
    for a, b in zip(first.network.state_dict().values(), second.network.state_dict().values()):
        assert torch.equal(a, b)
    assert second.accuracy == first.accuracy
    assert not any(p.requires_grad for p in first.network.parameters())


def test_what_was_trained_is_kept(tmp_path, monkeypatch):
    data = Bars()
    made = open_classifier(data, folder=tmp_path, progress=False)
    (file,) = tmp_path.iterdir()
    assert file.name == f"v{classifier.VERSION}-{data_fingerprint(data)}.safetensors"
    monkeypatch.setattr(classifier, "train_classifier", lambda *a, **k: pytest.fail("it is there already"))
    before = torch.get_rng_state()
    found = open_classifier(data, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert found.describe() == made.describe()
    assert found.describe()["accuracy"] > 0.95
    assert torch.equal(found(data.images).features, made(data.images).features)
    probabilities = found(data.images).probabilities
    assert (probabilities.argmax(1) == data.labels).float().mean() > 0.95


def test_the_name_does_not_matter_but_images_and_labels_do():
    data = Bars()
    renamed, other, relabelled = Bars(), Bars(seed=1), Bars(shares=(0, 2, 1))
    renamed.name = "moved"
    relabelled.images = data.images
    prints = [data_fingerprint(x) for x in (data, renamed, other, relabelled)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_made_again(tmp_path, damage, caplog):
    data = Bars()
    made = open_classifier(data, folder=tmp_path, steps=3, progress=False)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:500] if damage == "cut" else b"nothing of the kind")
    again = open_classifier(data, folder=tmp_path, steps=3, progress=False)
    assert "is damaged" in caplog.text
    assert again.describe() == made.describe()
    assert open_classifier(data, folder=tmp_path, steps=3).describe() == made.describe()


def test_a_poor_classifier_is_warned_about(caplog):
    data = Bars()
    data.labels = torch.randint(3, (240,))
    assert train_classifier(data, steps=2, progress=False).accuracy < 0.5
    assert "% of the images right: its features say little" in caplog.text


def test_the_cache(monkeypatch):
    monkeypatch.setenv("GANFUSE_CACHE", "/somewhere")
    assert cache_folder("a", "b") == Path("/somewhere/a/b")
    monkeypatch.delenv("GANFUSE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder("a") == Path("/cache/ganfuse/a")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "ganfuse"


def test_errors():
    with pytest.raises(ValueError, match="data: a classifier needs labels of at least two classes"):
        train_classifier(Unlabelled())
    with pytest.raises(ValueError, match="data: a classifier needs at least 20 images, got 19"):
        train_classifier(Bars(19))


@pytest.mark.parametrize("resolution", [16, pytest.param(32, marks=pytest.mark.slow)])
def test_digits(resolution, tmp_path):
    data = open_dataset("digits", resolution=resolution)
    extractor = open_classifier(data, folder=tmp_path, progress=False)
    assert extractor.accuracy >= 0.97
    _distances_grow_with_what_is_done_to_images(extractor, data.images)


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist(tmp_path):
    data = open_dataset("fashion-mnist", resolution=32)
    extractor = open_classifier(data, folder=tmp_path, progress=False)
    assert extractor.accuracy >= 0.88
    _distances_grow_with_what_is_done_to_images(extractor, data.images[:4000])


def _distances_grow_with_what_is_done_to_images(extractor, images):
    """The distance of disturbed halves from the other half grows with the disturbance, and is small without."""
    first, second = images[::2], images[1::2]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(second.shape, generator=generator)
    noisy = [(second + level * noise).clamp(0, 255).to(torch.uint8) for level in (0, 20, 60, 120)]
    real = extractor(first).features
    distances = [frechet_distance(real, extractor(some).features) for some in noisy]
    assert distances == sorted(distances)
    assert distances[-1] > 20 * distances[0]
