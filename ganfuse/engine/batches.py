"""From a data set of uint8 images to batches on the device, in an order that is a pure function of seed and position.

Nothing about the order needs to be stored but how many batches were drawn: a resumed run goes on with the very batch
that would have come next, whatever the number of workers.
"""

import signal
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ganfuse.engine.game import Batch
from ganfuse.engine.seeding import make_generator

__all__ = ["BatchOrder", "BatchSource", "ImageData", "check_image_data"]


class ImageData(Protocol):
    """What the trainer asks of a data set. `num_classes`, `name`, `class_names` and the like are used if there."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int]:
        """Image number `index`: uint8 (C, H, W), and its label."""
        ...


class BatchOrder:
    """Which images make up batch 0, 1, 2, …: a fresh permutation every epoch, without its incomplete last batch.

    A data set smaller than a batch is gone through again within the batch.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self._cached: tuple[int, Tensor] = (-1, torch.empty(0))

    def indices(self, batch: int) -> list[int]:
        """The indices of the images in batch number `batch`."""
        per_epoch = self.length // self.batch_size
        if per_epoch:
            epoch, place = divmod(batch, per_epoch)
            return self._permutation(epoch)[place * self.batch_size : (place + 1) * self.batch_size].tolist()
        start, end = batch * self.batch_size, (batch + 1) * self.batch_size
        epochs = range(start // self.length, -(-end // self.length))
        stream = torch.cat([self._permutation(epoch) for epoch in epochs])
        offset = start - epochs.start * self.length
        return stream[offset : offset + self.batch_size].tolist()

    def _permutation(self, epoch: int) -> Tensor:
        if self._cached[0] != epoch:
            generator = make_generator(torch.device("cpu"), self.seed, "order", epoch)
            self._cached = (epoch, torch.randperm(self.length, generator=generator))
        return self._cached[1]


class BatchSource:
    """Batches on the device, in the order of `BatchOrder`.

    Args:
        data: the data set.
        batch_size: images per batch.
        seed: of the order.
        device: where batches go.
        dtype: of the images there.
        workers: processes that read images; 0 reads them in this one.
        flip: mirror each image left to right with probability ½, drawn from the generator given to `next`.

    Attributes:
        drawn: how many batches were drawn so far. May be set before the first draw.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        workers: int = 0,
        flip: bool = False,
    ) -> None:
        self.drawn = 0
        self._data = data
        self._order = BatchOrder(len(data), batch_size, seed)
        self._device = device
        self._dtype = dtype
        self._workers = workers
        self._flip = flip
        self._iterator: Iterator[tuple[Tensor, Tensor]] | None = None

    def next(self, rng: torch.Generator) -> Batch:
        """The next batch."""
        if self._iterator is None:
            self._iterator = self._read()
        images, labels = next(self._iterator)
        self.drawn += 1
        images = images.to(self._device, non_blocking=True).to(self._dtype).div_(127.5).sub_(1.0)
        if self._flip:
            mirrored = torch.rand((len(images), 1, 1, 1), generator=rng, device=self._device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        return Batch(images, labels.to(self._device, non_blocking=True))

    def close(self) -> None:
        """Ends the workers. The next draw starts new ones at the place reached."""
        self._iterator = None

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        loader: DataLoader[Any] = DataLoader(
            self._data,  # type: ignore[arg-type]  # a map-style data set need not inherit from torch's class
            batch_sampler=_EndlessBatches(self._order, self.drawn),
            num_workers=self._workers,
            collate_fn=_collate,
            worker_init_fn=_ignore_stop_signals,
            pin_memory=self._device.type == "cuda",
            # Without a generator of its own the loader would draw a seed from the global one, and so disturb the run.
            generator=torch.Generator(),
        )
        return iter(loader)


class _EndlessBatches(Sampler[list[int]]):
    def __init__(self, order: BatchOrder, start: int) -> None:
        self._order = order
        self._start = start

    def __iter__(self) -> Iterator[list[int]]:
        batch = self._start
        while True:
            yield self._order.indices(batch)
            batch += 1


def check_image_data(data: ImageData) -> None:
    """Looks at the first image.

    Raises:
        ValueError: the data set is empty, or its items are not (uint8 tensor (C, H, W), label).
    """
    if len(data) == 0:
        raise ValueError("data: the data set is empty")
    item = data[0]
    if not isinstance(item, tuple | list) or len(item) != 2 or not isinstance(item[0], Tensor):
        raise ValueError(f"data: expected items (image tensor, label), got {type(item).__name__}")
    image = item[0]
    if image.dtype != torch.uint8 or image.ndim != 3:
        raise ValueError(f"data: expected images uint8 (C, H, W), got {image.dtype} {tuple(image.shape)}")


def _collate(items: Sequence[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    return torch.stack([image for image, _ in items]), torch.tensor([int(label) for _, label in items])


def _ignore_stop_signals(worker: int) -> None:
    # Ctrl-C reaches the whole process group. The main process finishes its step, which needs the workers; they end
    # when it tells them, or when it is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
