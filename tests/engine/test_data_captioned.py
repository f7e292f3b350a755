"""Captions made from class names: what they say, and how `open_dataset` knows them."""

import pytest
import torch

from ganfuse.engine.data import EmbeddedDataset, default_resolution, open_dataset
from ganfuse.engine.data.captioned import FEATURES, class_captions, embed_words
from tests.engine.pictures import save


def test_digits_with_captions_of_their_classes():
    data = open_dataset("captioned:digits", kind="embedded", resolution=16)
    assert isinstance(data, EmbeddedDataset)
    assert (data.name, len(data), data.captions, data.features) == ("captioned:digits", 1797, 5, FEATURES)
    first = {}
    for index in range(40):
        item = data[index]
        assert torch.equal(item["embedding"], embed_words(class_captions(str(item["label"]))))
        first.setdefault(item["label"], item["embedding"])
    assert len(first) == 10
    plain = open_dataset("digits", resolution=16)
    assert torch.equal(data[7]["image"], plain[7][0])
    assert default_resolution("captioned:digits") == 32


def test_any_source_and_its_options(tmp_path):
    for index in range(4):
        save(tmp_path / "pets" / ("cat", "dog")[index % 2] / f"{index}.png", index)
    data = open_dataset(f"captioned:{tmp_path / 'pets'}", kind="embedded", resolution=4, max_images=3)
    assert (len(data), data.class_names, data.options) == (3, ("cat", "dog"), {"max_images": 3})
    assert data.name.startswith("captioned:")
    assert torch.equal(data[0]["embedding"], embed_words(class_captions(data.class_names[data[0]["label"]])))


def test_words_have_vectors_of_their_own():
    same, other, both = embed_words(["Ankle  boot!", "bag", "boot ankle bag"])
    assert torch.equal(same, embed_words(["ankle boot"])[0])
    torch.testing.assert_close(embed_words(["a b", "c"], features=7).square().mean(1), torch.ones(2))
    assert abs(torch.cosine_similarity(same, other, dim=0)) < 0.4
    assert torch.cosine_similarity(same, both, dim=0) > 0.5
    # Fixed for good: runs hold embeddings of them.
    expected = torch.tensor([0.802086, 0.34569, 0.408948, 0.52266])
    torch.testing.assert_close(embed_words(["bag"])[0, :4], expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"texts: expected words in each, got '\?'"):
        embed_words(["?"])


def test_what_is_no_captioned_source():
    with pytest.raises(ValueError, match="captioned:digits for captions that name the classes"):
        open_dataset("digits", kind="embedded", resolution=16)
    with pytest.raises(ValueError, match="has captions, for models that take text"):
        open_dataset("captioned:digits", resolution=16)
    with pytest.raises(FileNotFoundError):
        open_dataset("captioned:nowhere", kind="embedded", resolution=16)
    with pytest.raises(ValueError, match="has no option 'split'"):
        open_dataset("captioned:digits", kind="embedded", resolution=16, split="test")
