"""Parts of data sets: chosen images, limits, held-out splits."""

import pickle
from pathlib import Path

import pytest
import torch

from ganfuse.engine.data import ImageDataset, limit_dataset, open_dataset, split_dataset
from tests.engine.pictures import save


def pixels(data: ImageDataset) -> list[int]:
    return [int(image[0, 0, 0]) for image, _ in data]


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """Image n of class n // 10 has the colour n."""
    for index in range(30):
        save(tmp_path / "set" / str(index // 10) / f"{index:02}.png", index)
    return tmp_path / "set"


def test_a_data_set_remembers_how_it_was_opened(numbered: Path) -> None:
    data = open_dataset(numbered, resolution=4, channels=1, resize="pad", max_images=9, on_bad_image="skip")
    expected = {"resize": "pad", "max_images": 9, "on_bad_image": "skip"}
    assert data.options == expected
    assert [part.options for part in split_dataset(data, 0.5)] == [expected, expected]
    assert open_dataset(numbered, resolution=4).options == {}
    paired = open_dataset("digits-thick", kind="paired", resolution=8, max_images=7)
    assert paired.options == paired.unpaired().options == split_dataset(paired.unpaired(), 0.5)[1].options
    assert paired.options == {"max_images": 7}


@pytest.mark.parametrize("cache", [True, False])
def test_a_subset_has_the_chosen_images_and_all_classes(numbered: Path, cache: bool) -> None:
    data = open_dataset(numbered, resolution=4, channels=1, cache=cache)
    part = data.subset([25, 3, 3])
    assert (pixels(part), part.labels.tolist(), part.class_names) == ([25, 3, 3], [2, 0, 0], ("0", "1", "2"))
    assert pixels(part.subset(torch.tensor([2, 0]))) == [3, 25]
    assert pixels(pickle.loads(pickle.dumps(part))) == [25, 3, 3]
    with pytest.raises(ValueError, match=r"indices: .* has 0..29, got -1..3"):
        data.subset([3, -1])
    with pytest.raises(ValueError, match=r"needs at least one, in one dimension; got \(0,\)"):
        data.subset([])


def test_gray_pictures_shown_in_colour_are_stored_once() -> None:
    data = open_dataset("digits", resolution=16, channels=3)
    part = data.subset([1, 4])
    assert part.images is not None
    assert part.images.shape == (2, 3, 16, 16)
    assert part.images.untyped_storage().nbytes() == 2 * 16 * 16
    assert torch.equal(part[1][0], data[4][0])


def test_a_limit_draws_from_all_classes_and_is_stable(numbered: Path) -> None:
    data = open_dataset(numbered, resolution=4, channels=1)
    chosen = pixels(limit_dataset(data, 12))
    assert chosen == sorted(chosen)
    assert len(set(chosen)) == 12
    assert {number // 10 for number in chosen} == {0, 1, 2}
    assert pixels(open_dataset(numbered, resolution=4, channels=1, cache=False, max_images=12)) == chosen
    assert set(pixels(limit_dataset(data, 5))) < set(chosen)
    assert pixels(limit_dataset(data, 12, seed=1)) != chosen
    assert limit_dataset(data, 30) is data
    for wrong in (0, 2.5, True):
        with pytest.raises(ValueError, match="max_images: expected a whole number of at least 1"):
            limit_dataset(data, wrong)  # type: ignore[arg-type]


def test_a_split_holds_out_a_part(numbered: Path) -> None:
    data = open_dataset(numbered, resolution=4, channels=1)
    rest, held_out = split_dataset(data, 0.2, seed=3)
    assert (len(rest), len(held_out)) == (24, 6)
    assert sorted(pixels(rest) + pixels(held_out)) == list(range(30))
    assert pixels(rest) == sorted(pixels(rest))
    assert pixels(split_dataset(data, 0.2, seed=3)[1]) == pixels(held_out)
    assert pixels(split_dataset(data, 0.2, seed=4)[1]) != pixels(held_out)
    assert held_out.num_classes == 3
    for fraction, expected in ((0.001, 1), (0.999, 29)):
        assert len(split_dataset(data, fraction)[1]) == expected
    for wrong in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match="fraction: expected a number between 0 and 1"):
            split_dataset(data, wrong)
    with pytest.raises(ValueError, match="has one image, which cannot be split"):
        split_dataset(data.subset([0]), 0.5)


def test_pairs_stay_pairs_and_domains_are_split_each() -> None:
    paired = open_dataset("digits-thick", kind="paired", resolution=8)
    rest, held_out = split_dataset(paired, 0.1)
    assert (len(rest), len(held_out)) == (1617, 180)
    limited = limit_dataset(paired, 20)
    first, second = limited.domains
    assert torch.equal(first.labels, second.labels)
    item = limited[7]
    assert isinstance(item["image_a"], torch.Tensor)
    assert torch.equal(item["image_a"], first[7][0])
    unpaired = open_dataset("digits-thick", kind="unpaired", resolution=8)
    rest_unpaired, held_unpaired = split_dataset(unpaired, 0.1)
    assert [len(domain) for domain in held_unpaired.domains] == [90, 90]
    assert [len(domain) for domain in rest_unpaired.domains] == [809, 808]
    assert [len(domain) for domain in limit_dataset(unpaired, 50).domains] == [50, 50]
