"""Batches: their order, their parts, and what kinds of data sets become."""

import pytest
import torch

from ganfuse.engine.batches import BatchSource, ImageOrder, check_image_data
from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise, Shard
from tests.engine.toys import ToyData


def source(data, **options):
    return BatchSource(data, seed=0, device=torch.device("cpu"), **options)


def noise():
    return Noise(torch.Generator().manual_seed(0))


class Numbered:
    """Images whose brightness is their index."""

    num_classes = 1

    def __init__(self, length, offset=0):
        self.length, self.offset = length, offset

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.full((1, 2, 2), index + self.offset, dtype=torch.uint8), index % 2


def brightness(images):
    return images[:, 0, 0, 0].add(1).mul(127.5).round().int().tolist()


def test_every_epoch_shows_every_image_once_in_another_order():
    order = ImageOrder(12, seed=0)
    epochs = [order.indices(12 * epoch, 12) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_batches_run_on_over_the_end_of_an_epoch():
    order = ImageOrder(5, seed=0)
    stream = order.indices(0, 20)
    assert [index for start in range(0, 20, 4) for index in order.indices(start, 4)] == stream
    assert sorted(stream[5:10]) == list(range(5))


def test_a_batch_may_be_larger_than_the_data_set():
    stream = ImageOrder(3, seed=0).indices(0, 21)
    assert all(sorted(stream[start : start + 3]) == [0, 1, 2] for start in range(0, 21, 3))


def test_any_place_can_be_asked_for_first():
    fresh, used = ImageOrder(11, seed=4), ImageOrder(11, seed=4)
    parts = [used.indices(3 * i, 3) for i in range(10)]
    assert [fresh.indices(3 * i, 3) for i in reversed(range(10))] == parts[::-1]
    assert ImageOrder(11, seed=5).indices(0, 11) != ImageOrder(11, seed=4).indices(0, 11)
    assert ImageOrder(11, 4, "a").indices(0, 11) != ImageOrder(11, 4, "b").indices(0, 11)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("workers", [0, 1])
def test_processes_share_a_batch(count, workers):
    whole = source(Numbered(10))
    shares = [source(Numbered(10), shard=Shard(i, count), workers=workers) for i in range(count)]
    for _ in range(3):
        expected = whole.next(8, noise()).images
        parts = [share.next(8, noise()).images for share in shares]
        assert torch.equal(expected, torch.cat(parts))
    assert {share.drawn for share in shares} == {24}
    for share in shares:
        share.close()


def test_batch_size_may_change_on_the_way():
    data, order = source(Numbered(7)), ImageOrder(7, 0)
    seen = [index for size in (4, 4, 2, 8) for index in brightness(data.next(size, noise()).images)]
    assert seen == order.indices(0, 18)


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetching_changes_nothing(workers):
    plain, ahead = source(Numbered(9)), source(Numbered(9), prefetch=True, workers=workers)
    for _ in range(5):
        assert torch.equal(plain.next(4, noise()).images, ahead.next(4, noise()).images)
    ahead.close()
    resumed = source(Numbered(9), prefetch=True)
    resumed.drawn = ahead.drawn
    assert torch.equal(plain.next(4, noise()).images, resumed.next(4, noise()).images)


def test_channels_last():
    images = source(ToyData(), channels_last=True).next(4, noise()).images
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_unpaired_domains_have_orders_of_their_own():
    class Unpaired:
        domains = (Numbered(5), Numbered(3, offset=100))

        def __len__(self):
            return 5

    batches = [source(Unpaired()).next(15, noise())]
    left, right = brightness(batches[0].images), brightness(batches[0].images_b)
    assert left == ImageOrder(5, 0, "a").indices(0, 15)
    assert [value - 100 for value in right] == ImageOrder(3, 0, "b").indices(0, 15)
    assert batches[0].labels_b.tolist() == [(value - 100) % 2 for value in right]


def test_items_may_be_mappings():
    class Captioned:
        paired = True
        domains = ()

        def __len__(self):
            return 4

        def __getitem__(self, index):
            image = torch.full((1, 2, 2), index, dtype=torch.uint8)
            return {"image_a": image, "image_b": image, "label": index, "embedding": torch.ones(3) * index}

    check_image_data(Captioned())
    batch = source(Captioned(), dtype=torch.float64).next(4, noise())
    assert torch.equal(batch.images, batch.images_b)
    assert batch.embeddings.dtype == torch.float64
    assert batch.embeddings[:, 0].tolist() == batch.labels.tolist() == brightness(batch.images)


def test_split():
    batch = Batch(torch.arange(8.0).view(4, 2, 1, 1), torch.arange(4), embeddings=torch.arange(4.0).view(4, 1))
    first, second = batch.split(2)
    assert second.images.flatten().tolist() == [4, 5, 6, 7]
    assert (first.labels.tolist(), second.embeddings.flatten().tolist()) == ([0, 1], [2.0, 3.0])
    assert first.images_b is None
    assert batch.split(1) == [batch]
    with pytest.raises(ValueError, match="4 images cannot be divided into 3 equal parts"):
        batch.split(3)


def test_a_batch_that_processes_cannot_share():
    with pytest.raises(ValueError, match="batch_size: 6 images cannot be divided among 4 processes"):
        source(Numbered(10), shard=Shard(0, 4)).next(6, noise())


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"picture": torch.zeros(1, 2, 2, dtype=torch.uint8)}, "items have an unknown entry 'picture'"),
        ({"label": 3}, r"expected items \(image tensor, label\) or mappings, got dict"),
        ({"image_a": torch.zeros(1, 2, 2)}, "expected images uint8"),
    ],
)
def test_bad_items(item, message):
    with pytest.raises(ValueError, match=message):
        check_image_data([item])


def test_paired_images_are_mirrored_together():
    class Paired:
        paired = True

        def __len__(self):
            return 40

        def __getitem__(self, index):
            image = torch.tensor([[[index, 255]]], dtype=torch.uint8)
            return {"image_a": image, "image_b": image}

    batch = source(Paired(), flip=True).next(40, noise())
    assert torch.equal(batch.images, batch.images_b)
    mirrored = int((batch.images[:, 0, 0, 0] == 1.0).sum())
    assert 8 < mirrored < 32
