"""Images with embeddings of their captions: which caption goes with which image, and how wrong ones are found."""

import logging
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ganfuse.engine.data import EmbeddedDataset, choose_captions, mismatching, open_dataset
from tests.engine.pictures import noise, save, truncate


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Images 0 … 5 of the classes a (0, 1, 2) and b (3, 4, 5), with three captions of two features each."""
    for index in range(6):
        save(tmp_path / "birds" / "ab"[index // 3] / f"{index}.png", index)
    return tmp_path / "birds"


def table(captions: int = 3) -> Tensor:
    """The features of caption k of image n are n and k."""
    n, k = torch.meshgrid(torch.arange(6.0), torch.arange(float(captions)), indexing="ij")
    return torch.stack([n, k], dim=2)


def open_birds(birds: Path, **options: object) -> EmbeddedDataset:
    return open_dataset(birds, kind="embedded", resolution=4, channels=1, **options)  # type: ignore[call-overload,no-any-return]


def check(data: EmbeddedDataset, numbers: list[int]) -> None:
    assert len(data) == len(numbers)
    for index, number in enumerate(numbers):
        item = data[index]
        assert set(item) == {"image", "embedding", "label"}
        image, embedding = item["image"], item["embedding"]
        assert isinstance(image, Tensor)
        assert isinstance(embedding, Tensor)
        assert (int(image[0, 0, 0]), item["label"]) == (number, number // 3)
        assert embedding.dtype == torch.float32
        assert torch.equal(embedding, table()[number])


@pytest.mark.parametrize("cache", [True, False])
def test_npy_by_order(birds: Path, cache: bool) -> None:
    np.save(birds / "embeddings.npy", table().double().numpy())
    data = open_birds(birds, cache=cache)
    assert (data.captions, data.features, data.num_classes, data.class_names) == (3, 2, 2, ("a", "b"))
    check(data, list(range(6)))
    check(pickle.loads(pickle.dumps(data)), list(range(6)))
    check(data.subset([5, 1]), [5, 1])
    check(data.subset([5, 1, 3]).subset([2, 0]), [3, 5])
    assert "each with 3 embeddings of 2 features" in repr(data)
    assert data.subset([0]).options == {}
    assert open_birds(birds, cache=cache, resize="pad").subset([0]).options == {"resize": "pad"}


def test_the_table_is_not_pickled(birds: Path) -> None:
    np.save(birds / "embeddings.npy", np.zeros((6, 1, 50_000), dtype=np.float32))
    assert len(pickle.dumps(open_birds(birds))) < 20_000


def test_one_caption_per_image(birds: Path) -> None:
    np.save(birds / "embeddings.npy", table(1)[:, 0].half().numpy())
    embedding = open_birds(birds)[4]["embedding"]
    assert isinstance(embedding, Tensor)
    assert embedding.tolist() == [[4.0, 0.0]]


@pytest.mark.parametrize("ending", ["", ".png"])
@pytest.mark.parametrize("packed", [True, False])
def test_safetensors_by_name(birds: Path, tmp_path: Path, ending: str, packed: bool) -> None:
    names = [f"{'ab'[n // 3]}/{n}{ending}" for n in (3, 0, 5, 1, 4, 2)]
    save_file({name: table()[int(name[2])].clone() for name in names}, birds / "embeddings.safetensors")
    source = birds
    if packed:
        source = tmp_path / "birds.zip"
        with zipfile.ZipFile(source, "w") as file:
            for path in birds.rglob("*.*"):
                file.write(path, f"birds/{path.relative_to(birds)}")
    check(open_birds(source), list(range(6)))


def test_safetensors_in_one_table(birds: Path) -> None:
    save_file({"embeddings": table()}, birds / "embeddings.safetensors")
    check(open_birds(birds), list(range(6)))


def test_images_with_fewer_captions_repeat_them(birds: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = (3, 1, 2, 3, 3, 3)
    save_file(
        {f"{'ab'[n // 3]}/{n}": table()[n, :count].clone() for n, count in enumerate(counts)},
        birds / "embeddings.safetensors",
    )
    with caplog.at_level(logging.WARNING):
        data = open_birds(birds)
    assert "images have up to 3 captions; those with fewer repeat theirs" in caplog.text
    chosen = [data[n]["embedding"] for n in (1, 2)]
    assert [c[:, 1].tolist() for c in chosen if isinstance(c, Tensor)] == [[0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("cache", [True, False])
def test_captions_stay_with_their_images_when_one_is_skipped(birds: Path, cache: bool) -> None:
    np.save(birds / "embeddings.npy", table().numpy())
    truncate(noise(birds / "a" / "1.png"))
    check(open_birds(birds, on_bad_image="skip", cache=cache), [0, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda d: None, r"no embeddings; expected embeddings\.npy or embeddings\.safetensors beside them"),
        (lambda d: np.save(d / "embeddings.npy", np.zeros((5, 2))), "embeddings for 5 images, but 6 images"),
        (lambda d: np.save(d / "embeddings.npy", np.zeros((6, 2), dtype=int)), "expected floating point .* int64"),
        (lambda d: np.save(d / "embeddings.npy", np.zeros(6)), r"expected \(images, features\) or .* got shape \(6,\)"),
        (lambda d: (d / "embeddings.npy").write_bytes(b"x"), r"embeddings\.npy: not a complete \.npy file"),
        (lambda d: (d / "embeddings.safetensors").write_bytes(b"x"), "not a safetensors file"),
        (lambda d: save_file({"a/0": torch.zeros(2)}, d / "embeddings.safetensors"), r"no embedding for a/1\.png"),
        (
            lambda d: save_file(
                {f"{'ab'[n // 3]}/{n}": torch.zeros(2 + (n == 4)) for n in range(6)}, d / "embeddings.safetensors"
            ),
            r"different numbers of features: \[2, 3\]",
        ),
    ],
)
def test_embeddings_that_do_not_fit(birds: Path, prepare: Callable[[Path], object], message: str) -> None:
    prepare(birds)
    with pytest.raises(ValueError, match=message):
        open_birds(birds)


def test_both_kinds_of_embeddings(birds: Path) -> None:
    np.save(birds / "embeddings.npy", table().numpy())
    save_file({"embeddings": table()}, birds / "embeddings.safetensors")
    with pytest.raises(ValueError, match=r"has both embeddings\.npy and embeddings\.safetensors"):
        open_birds(birds)


def test_captions_are_chosen_without_repetition() -> None:
    embeddings = torch.eye(5).expand(4000, 5, 5)
    generator = torch.Generator().manual_seed(0)
    one = choose_captions(embeddings, generator=generator)
    assert one.shape == (4000, 5)
    assert torch.equal(one.sum(dim=1), torch.ones(4000))
    assert (one.mean(dim=0) - 0.2).abs().max() < 0.03
    four = choose_captions(embeddings, count=4, generator=generator)
    assert torch.equal((four == 0.25).sum(dim=1), torch.full((4000,), 4))
    assert torch.allclose(choose_captions(embeddings, count=5), torch.full((4000, 5), 0.2))


def test_wrong_texts_are_of_another_class() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 2, 0])
    seen = torch.stack([mismatching(labels, generator=generator) for _ in range(300)])
    assert (labels[seen] != labels).all()
    assert set(seen[:, 0].tolist()) == {2, 3}
    assert set(seen[:, 2].tolist()) == {0, 1, 3, 4}
    # With a single class every other item will do, and never the item itself.
    seen = torch.stack([mismatching(torch.zeros(4, dtype=torch.long), generator=generator) for _ in range(200)])
    assert (seen != torch.arange(4)).all()
    assert set(seen[:, 3].tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: choose_captions(torch.zeros(2, 3)), r"embeddings: expected \(B, captions, features\)"),
        (lambda: choose_captions(torch.zeros(2, 3, 4), count=4), "count: expected 1 to 3 captions, got 4"),
        (lambda: mismatching(torch.zeros(1)), "labels: .* at least two items"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_data_set_checks_its_embeddings() -> None:
    images = open_dataset("digits", resolution=8).subset([0, 1])
    with pytest.raises(ValueError, match="there are 3 for 2 images"):
        EmbeddedDataset(images, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="rows: there are 1 for 2 images"):
        EmbeddedDataset(images, torch.zeros(3, 4), rows=[0])
    with pytest.raises(ValueError, match=r"has 0..2, got 0..3"):
        EmbeddedDataset(images, torch.zeros(3, 4), rows=[0, 3])
