"""`open_dataset`, the embedded digits, and what every data set has in common."""

import pickle
from pathlib import Path

import pytest
import torch

from ganfuse.engine.data import ImageDataset, open_dataset
from ganfuse.engine.data import arrays as arrays_module
from ganfuse.engine.data import dataset as dataset_module
from ganfuse.engine.data.arrays import dataset_from_array, resize_uint8


def test_digits_are_the_published_set() -> None:
    data = open_dataset("digits", resolution=10)
    assert len(data) == 1797
    assert data.class_names == tuple("0123456789")
    # Counts per class as in the description of the test half (UCI, optdigits.names).
    assert torch.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    image, label = data[0]
    assert label == 0
    # At 10 px nothing is resized: the first row of the first digit is 0 0 5 13 9 1 0 0 of 16, inside the margin.
    assert image[0, 1].tolist() == [0, *(round(level * 255 / 16) for level in (0, 0, 5, 13, 9, 1, 0, 0)), 0]
    assert not image[0, [0, -1]].any()
    assert not image[0, :, [0, -1]].any()


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("resolution", [8, 32, 64])
def test_digits_in_every_size(resolution: int, channels: int | None) -> None:
    data = open_dataset("digits", resolution=resolution, channels=channels)
    image, label = data[1796]
    assert (data.channels, data.resolution, data.num_classes) == (channels or 1, resolution, 10)
    assert image.dtype == torch.uint8
    assert image.shape == (channels or 1, resolution, resolution)
    assert isinstance(label, int)
    assert image.max() > 200
    assert (image == image[:1]).all()


def test_resize_on_access_gives_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    in_memory = open_dataset("digits", resolution=32, channels=3)
    on_access = open_dataset("digits", resolution=32, channels=3, cache=False)
    assert in_memory.images is not None
    assert on_access.images is None
    for index in (0, 5, 1796, -1):
        assert torch.equal(in_memory[index][0], on_access[index][0])
        assert in_memory[index][1] == on_access[index][1]
    # The limit, too, decides; patched low rather than making half a gigabyte.
    monkeypatch.setattr(dataset_module, "CACHE_LIMIT", 1797 * 32 * 32 - 1)
    assert open_dataset("digits", resolution=32).images is None
    monkeypatch.setattr(dataset_module, "CACHE_LIMIT", 1797 * 32 * 32)
    assert open_dataset("digits", resolution=32).images is not None


@pytest.mark.parametrize("cache", [True, False])
def test_datasets_can_be_sent_to_worker_processes(cache: bool) -> None:
    data = open_dataset("digits", resolution=16, channels=3, cache=cache)
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[7][0], data[7][0])


def test_resize_keeps_flat_areas_and_the_range() -> None:
    flat = torch.full((1, 1, 28, 28), 200, dtype=torch.uint8)
    for resolution in (7, 28, 33, 64):
        assert (resize_uint8(flat, resolution) == 200).all()
    # A checkerboard makes bicubic overshoot on both sides: it must be clipped, not wrapped around.
    board = (torch.arange(8)[:, None] + torch.arange(8) & 1).mul(255).to(torch.uint8)[None, None]
    large = resize_uint8(board, 32)
    assert large[0, 0, 1, 1] < 30
    assert large[0, 0, 1, 5] > 225


def test_shrinking_does_not_alias() -> None:
    stripes = (torch.arange(64) & 1).mul(255).to(torch.uint8).expand(1, 1, 64, 64)
    shrunk = resize_uint8(stripes, 16)[..., 2:-2]
    assert (shrunk.int() - 127).abs().max() < 8


def test_array_chunks_are_put_together_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.arange(5000).remainder(256).to(torch.uint8)[:, None, None].expand(-1, 4, 4)
    data = dataset_from_array(pictures, torch.zeros(5000), name="ramp", class_names=["all"], channels=1, resolution=8)
    assert [int(data[i][0][0, 0, 0]) for i in (0, 2047, 2048, 4999)] == [i % 256 for i in (0, 2047, 2048, 4999)]
    assert arrays_module.resize_uint8(pictures[:1, None], 4).shape == (1, 1, 4, 4)


def test_index_out_of_range_ends_iteration() -> None:
    data = open_dataset("digits", resolution=8)
    with pytest.raises(IndexError, match="1797 images, index 1797"):
        data[1797]
    with pytest.raises(IndexError):
        data[-1798]
    assert sum(1 for _ in zip(range(2000), data)) == 1797


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": 2}, "resolution must be a whole number of pixels from 4 to 4096, got 2"),
        ({"resolution": 32.0}, "got 32.0"),
        ({"resolution": True}, "got True"),
        ({"resolution": 32, "channels": 2}, "channels must be 1, 3 or None"),
        ({"resolution": 32, "on_bad_image": "ignore"}, "'error' or 'skip', got 'ignore'"),
        ({"resolution": 32, "split": "test"}, "digits has no option 'split'"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset("digits", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "meant"), [("digit", "digits"), ("fashion_mnist", "fashion-mnist"), ("Fashion-MNIST", "fashion-mnist")]
)
def test_misspelt_source_names_the_nearest(source: str, meant: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=f"neither a name .* nor an existing folder or zip archive. Did you mean '{meant}'"
    ):
        open_dataset(source, resolution=32)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"pictures.*neither a name \(digits, fashion-mnist\)"):
        open_dataset(tmp_path / "pictures", resolution=32)


def test_dataset_checks_what_it_is_made_of() -> None:
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    common = {"name": "x", "class_names": ["a"], "channels": 1, "resolution": 4}
    with pytest.raises(ValueError, match="no image"):
        ImageDataset(labels=[], images=images[:0], **common)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"labels must be in 0..0, they span 0..1"):
        ImageDataset(labels=[0, 1], images=images, **common)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must be uint8 \(1, 1, 4, 4\), got torch.uint8 \(2, 1, 4, 4\)"):
        ImageDataset(labels=[0], images=images, **common)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be uint8"):
        ImageDataset(labels=[0, 0], images=images.float(), **common)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give `load` or `images`"):
        ImageDataset(labels=[0], **common)  # type: ignore[arg-type]
    assert "1 class, in memory" in repr(ImageDataset(labels=[0, 0], images=images, **common))  # type: ignore[arg-type]


def test_embedded_data_carry_their_credit() -> None:
    text = (Path(dataset_module.__file__).parent / "digits.txt").read_text(encoding="utf-8")
    assert "Alpaydin" in text
    assert "CC BY 4.0" in text
