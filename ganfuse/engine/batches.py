"""From a data set of uint8 images to batches on the device, in an order that is a pure function of seed and position.

Nothing about the order needs to be stored but how many images were drawn: a resumed run goes on with the very image
that would have come next, whatever the number of workers and processes.
"""

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise, Shard
from ganfuse.engine.seeding import make_generator

__all__ = ["BatchSource", "ImageData", "ImageOrder", "check_image_data", "dead_workers_named"]

# What an item may hold, and where it goes in a batch.
_FIELDS = {
    "image": "images",
    "image_a": "images",
    "label": "labels",
    "label_a": "labels",
    "image_b": "images_b",
    "label_b": "labels_b",
    "embedding": "embeddings",
}


class ImageData(Protocol):
    """What the trainer asks of a data set. `num_classes`, `name`, `class_names` and the like are used if there.

    A data set with an attribute `domains`, two data sets of equal image sizes, and a false or absent `paired` is
    unpaired: each domain is gone through in an order of its own. Its own items are not asked for.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, int] | Mapping[str, Any]:
        """Image number `index`: uint8 (C, H, W), and its label; or a mapping.

        The mapping has "image", or "image_a" and "image_b" (uint8 (C, H, W)), and any of "label", "label_a", "label_b"
        (int) and "embedding" (float, of any shape).
        """
        ...


class ImageOrder:
    """Which images come when: an endless stream of fresh permutations of a data set."""

    def __init__(self, length: int, seed: int, *purpose: str) -> None:
        self.length = length
        self._seed = seed
        self._purpose = purpose
        self._cached: tuple[int, Tensor] = (-1, torch.empty(0))

    def indices(self, start: int, count: int) -> list[int]:
        """The indices of images number start .. start + count - 1 of the stream."""
        found: list[int] = []
        while len(found) < count:
            epoch, place = divmod(start + len(found), self.length)
            found += self._permutation(epoch)[place : place + count - len(found)].tolist()
        return found

    def _permutation(self, epoch: int) -> Tensor:
        if self._cached[0] != epoch:
            generator = make_generator(torch.device("cpu"), self._seed, "order", *self._purpose, epoch)
            self._cached = (epoch, torch.randperm(self.length, generator=generator))
        return self._cached[1]


class BatchSource:
    """Batches on the device, in the order of `ImageOrder`.

    Args:
        data: the data set.
        seed: of the order.
        device: where batches go.
        dtype: of the images there.
        workers: processes that read images; 0 reads them in this one.
        flip: mirror each image left to right with probability ½, drawn from the noise given to `next`.
        channels_last: memory format of the images.
        shard: which part of each batch this process takes.
        prefetch: have the next batch read and on its way to the device while the present one is worked on.

    Attributes:
        drawn: how many images all processes together have drawn so far. May be set before the first draw.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        workers: int = 0,
        flip: bool = False,
        channels_last: bool = False,
        shard: Shard | None = None,
        prefetch: bool = False,
    ) -> None:
        self.drawn = 0
        self._paired = bool(getattr(data, "paired", False))
        self._domains = _unpaired_domains(data)
        self._data = _Domains(self._domains) if self._domains else data
        self._orders = (
            [ImageOrder(len(domain), seed, name) for domain, name in zip(self._domains, "ab")]
            if self._domains
            else [ImageOrder(len(data), seed)]
        )
        self._device = device
        self._dtype = dtype
        self._workers = workers
        self._flip = flip
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._shard = shard or Shard()
        self._prefetch = prefetch
        self._iterator: Iterator[dict[str, Tensor]] | None = None
        self._loading: Any = None
        self._reading = 0

    def next(self, batch_size: int, noise: Noise) -> Batch:
        """This process's part of the next batch of `batch_size` images.

        Raises:
            ValueError: the batch cannot be divided among the processes.
        """
        if batch_size % self._shard.count:
            raise ValueError(
                f"batch_size: {batch_size} images cannot be divided among {self._shard.count} processes equally"
            )
        if self._iterator is None or self._reading != batch_size:
            self.close()
            self._iterator = self._read(batch_size)
            self._reading = batch_size
        tensors = next(self._iterator)
        self.drawn += batch_size
        return self._on_device(tensors, noise)

    def close(self) -> None:
        """Ends the workers. The next draw starts new ones at the place reached."""
        # Not left to the garbage collector: while a dead worker is on PyTorch's list, the end of any other process
        # makes its signal handler raise, and the traceback of an error keeps the iterator alive.
        end_workers = getattr(self._loading, "_shutdown_workers", None)
        self._iterator = self._loading = None
        if end_workers is not None:
            end_workers()

    def _on_device(self, tensors: dict[str, Tensor], noise: Noise) -> Batch:
        entries = {name: tensor.to(self._device, non_blocking=True) for name, tensor in tensors.items()}
        mirrored: Tensor | None = None
        for name, tensor in entries.items():
            if name.startswith("images"):
                images = tensor.to(self._dtype).div_(127.5).sub_(1.0)
                if self._flip:
                    # Pictures of the same scene stay so.
                    if mirrored is None or not self._paired:
                        mirrored = noise.uniform(len(images), 1, 1, 1).to(self._device) < 0.5
                    images = torch.where(mirrored, images.flip(3), images)
                entries[name] = images.contiguous(memory_format=self._format)
            elif name == "embeddings":
                entries[name] = tensor.to(self._dtype)
        return Batch(**entries)

    def _read(self, batch_size: int) -> Iterator[dict[str, Tensor]]:
        own = batch_size // self._shard.count
        first = self.drawn + self._shard.index * own
        loader: DataLoader[Any] = DataLoader(
            self._data,  # type: ignore[arg-type]  # a map-style data set need not inherit from torch's class
            batch_sampler=_EndlessBatches(self._orders, first, own, batch_size),
            num_workers=self._workers,
            collate_fn=_collate,
            worker_init_fn=_ignore_stop_signals,
            pin_memory=self._device.type == "cuda",
            # Without a generator of its own the loader would draw a seed from the global one, and so disturb the run.
            generator=torch.Generator(),
        )
        self._loading = iter(loader)
        return _ahead(self._loading, self._device) if self._prefetch else self._loading


class _Domains:
    """Two data sets addressed by a pair of indices."""

    def __init__(self, domains: Sequence[Any]) -> None:
        self.domains = domains

    def __len__(self) -> int:
        return max(len(domain) for domain in self.domains)

    def __getitem__(self, indices: tuple[int, int]) -> dict[str, Any]:
        (image_a, label_a), (image_b, label_b) = (domain[index] for domain, index in zip(self.domains, indices))
        return {"image_a": image_a, "label_a": label_a, "image_b": image_b, "label_b": label_b}


class _EndlessBatches(Sampler[list[Any]]):
    def __init__(self, orders: Sequence[ImageOrder], first: int, size: int, stride: int) -> None:
        self._orders = orders
        self._first, self._size, self._stride = first, size, stride

    def __iter__(self) -> Iterator[list[Any]]:
        start = self._first
        while True:
            drawn = [order.indices(start, self._size) for order in self._orders]
            yield drawn[0] if len(drawn) == 1 else list(zip(*drawn))
            start += self._stride


def check_image_data(data: ImageData) -> None:
    """Looks at the first image of each domain.

    Raises:
        ValueError: the data set is empty, or its items are not what `ImageData` says.
    """
    for part in _unpaired_domains(data) or (data,):
        if len(part) == 0:
            raise ValueError("data: the data set is empty")
        item = part[0]
        if isinstance(item, Mapping):
            unknown = [key for key in item if key not in _FIELDS]
            if unknown:
                raise ValueError(f"data: items have an unknown entry {unknown[0]!r}; known: {', '.join(_FIELDS)}")
            images = [item[key] for key in ("image", "image_a", "image_b") if key in item]
        elif isinstance(item, tuple | list) and len(item) == 2:
            images = [item[0]]
        else:
            images = []
        if not images or not all(isinstance(image, Tensor) for image in images):
            raise ValueError(f"data: expected items (image tensor, label) or mappings, got {type(item).__name__}")
        for image in images:
            if image.dtype != torch.uint8 or image.ndim != 3:
                raise ValueError(f"data: expected images uint8 (C, H, W), got {image.dtype} {tuple(image.shape)}")


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Inside, the death of a process that reads images becomes an error that says so.

    PyTorch reports it from a signal handler, that is, out of whatever line is being run at that moment.
    """
    try:
        yield
    except RuntimeError as error:
        chain: list[BaseException] = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        found = [link for link in chain if "DataLoader worker" in str(link)]
        if not found:
            raise
        cause = found[-1]
        raise RuntimeError(
            f"data: a process that reads images has died ({cause}); too little memory is a common reason (fewer "
            "workers need less), and with workers=0 an error in the data set shows itself"
        ) from error


def _unpaired_domains(data: Any) -> tuple[Any, ...]:
    domains = getattr(data, "domains", None)
    return tuple(domains) if domains is not None and not getattr(data, "paired", False) else ()


def _collate(items: Sequence[tuple[Tensor, int] | Mapping[str, Any]]) -> dict[str, Tensor]:
    rows = [item if isinstance(item, Mapping) else {"image": item[0], "label": item[1]} for item in items]
    return {_FIELDS[key]: _stacked([row[key] for row in rows]) for key in rows[0]}


def _stacked(values: Sequence[Any]) -> Tensor:
    return torch.stack(list(values)) if isinstance(values[0], Tensor) else torch.tensor([int(v) for v in values])


def _ahead(batches: Iterator[dict[str, Tensor]], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """The same batches, each begun while the one before is worked on: its copy to a GPU runs on a stream of its own."""
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
    waiting = _upload(next(batches), device, stream)
    while True:
        ready = waiting
        if stream is not None:
            torch.cuda.current_stream(device).wait_stream(stream)
            for tensor in ready.values():
                # Its memory must not be given to others before the stream that works on it is done.
                tensor.record_stream(torch.cuda.current_stream(device))
        following = next(batches)
        waiting = _upload(following, device, stream)
        yield ready


def _upload(tensors: dict[str, Tensor], device: torch.device, stream: Any) -> dict[str, Tensor]:
    if stream is None:
        return tensors
    with torch.cuda.stream(stream):
        return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


def _ignore_stop_signals(worker: int) -> None:
    # Ctrl-C reaches the whole process group. The main process finishes its step, which needs the workers; they end
    # when it tells them, or when it is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
