"""Every kind of data set as batches: what of an item goes where, from this process and from workers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ganfuse.engine.batches import BatchSource, check_image_data
from ganfuse.engine.data import open_dataset, pack_dataset
from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from tests.engine.pictures import save


def batches(data: Any, count: int, workers: int = 0) -> list[Batch]:
    check_image_data(data)
    source = BatchSource(data, seed=3, device=torch.device("cpu"), workers=workers)
    noise = Noise(torch.Generator().manual_seed(0))
    drawn = [source.next(4, noise) for _ in range(count)]
    source.close()
    return drawn


def levels(images: torch.Tensor | None) -> list[int]:
    assert images is not None
    return ((images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(8):
        save(tmp_path / "pairs" / "trainA" / f"{index}.png", index)
        save(tmp_path / "pairs" / "trainB" / f"{index}.png", 100 + index)
    return tmp_path / "pairs"


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("cache", [True, False])
def test_pairs_stay_together_and_domains_do_not(folder: Path, cache: bool, workers: int) -> None:
    options: dict[str, Any] = {"resolution": 4, "channels": 1, "cache": cache}
    for batch in batches(open_dataset(folder, kind="paired", **options), 4, workers):
        assert [level + 100 for level in levels(batch.images)] == levels(batch.images_b)
    epoch = batches(open_dataset(folder, kind="unpaired", **options), 2, workers)
    first, second = ([level for batch in epoch for level in levels(part(batch))] for part in (_a, _b))
    assert sorted(first) == list(range(8))
    assert sorted(second) == list(range(100, 108))
    assert [level + 100 for level in first] != second


def _a(batch: Batch) -> torch.Tensor | None:
    return batch.images


def _b(batch: Batch) -> torch.Tensor | None:
    return batch.images_b


@pytest.mark.parametrize("workers", [0, 1])
def test_captions_go_with_their_images(folder: Path, workers: int) -> None:
    captions = np.arange(16.0)[:, None, None] + np.array([0.0, 0.25])[:, None] * np.ones(3)
    np.save(folder / "embeddings.npy", captions)
    for batch in batches(open_dataset(folder, kind="embedded", resolution=4, channels=1), 3, workers):
        assert batch.embeddings is not None
        assert batch.labels is not None
        assert batch.embeddings.shape == (4, 2, 3)
        numbers = batch.embeddings[:, 0, 0].int().tolist()
        assert levels(batch.images) == [number if number < 8 else 92 + number for number in numbers]
        assert batch.labels.tolist() == [number // 8 for number in numbers]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_packed_set_gives_the_batches_of_its_source(folder: Path, tmp_path: Path, workers: int) -> None:
    source = open_dataset(folder, resolution=4, cache=False)
    pack_dataset(source, tmp_path / "packed", source=str(folder))
    packed = open_dataset(tmp_path / "packed", resolution=4)
    for one, other in zip(batches(source, 5), batches(packed, 5, workers), strict=True):
        assert one.labels is not None
        assert other.labels is not None
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
