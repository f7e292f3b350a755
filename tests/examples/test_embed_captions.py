"""The example that embeds captions, with hashed words in place of the encoder that it downloads."""

import pytest
import torch

from examples.embed_captions import draw_sentence, embed_folder
from ganfuse.engine import Trainer
from ganfuse.engine.data import open_dataset
from ganfuse.engine.data.captioned import embed_words
from ganfuse.models import create
from tests.engine.pictures import save


def test_captions_become_a_data_set_that_trains_and_draws_sentences(tmp_path):
    folder = tmp_path / "birds"
    captions = {"crow/1.png": ["a black bird"], "crow/2.png": ["a dark bird", "it flies"], "gull/3.png": ["white bird"]}
    for index, (name, lines) in enumerate(captions.items()):
        save(folder / name, index)
        (folder / name).with_suffix(".txt").write_text("\n".join(lines) + "\n")
    assert embed_folder(folder, embed_words).name == "embeddings.safetensors"
    data = open_dataset(folder, kind="embedded", resolution=32, channels=1)
    assert (len(data), data.captions, data.features, data.class_names) == (3, 2, 64, ("crow", "gull"))
    assert torch.equal(data[1]["embedding"], embed_words(captions["crow/2.png"]))
    game = create("gan-cls", resolution=32, channels=1, embedding_dim=64, width=1, discriminator_width=1)
    Trainer(game, data, out=tmp_path / "run", steps=1, batch_size=2, device="cpu", progress=False).fit()
    picture = draw_sentence(str(tmp_path / "run"), "a white bird flies", embed_words, tmp_path / "drawn.png", num=4)
    assert picture.stat().st_size > 0


def test_an_image_without_captions_is_named(tmp_path):
    save(tmp_path / "crow.png", 0)
    with pytest.raises(ValueError, match=r"crow.png: expected its captions in .*crow.txt"):
        embed_folder(tmp_path, embed_words)
