"""From files to tensors: all at once into memory, or one by one as they are asked for."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ganfuse.engine.data.image_decoding import UnreadableImageError, decode_columns, decode_image
from ganfuse.engine.data.image_fit import Resize
from ganfuse.engine.data.image_store import ImageStore
from ganfuse.engine.data.progress import progress_bar

logger = logging.getLogger("ganfuse.data")

OnBadImage = Literal["error", "skip"]


@dataclass(frozen=True)
class Decoding:
    """What every image of a set becomes: uint8 ``(channels, resolution, resolution)``."""

    resolution: int
    channels: int
    resize: Resize = "crop"


class Decoder(Protocol):
    """``decoder(index)`` is a uint8 tensor, of the same shape for every index."""

    def __len__(self) -> int: ...

    def __call__(self, index: int, /) -> Tensor:
        """Raises an `UnreadableImageError`."""
        ...

    def name(self, index: int) -> str:
        """What messages call it."""
        ...


@dataclass(frozen=True)
class StoreDecoder:
    """The images of a store: ``(C, R, R)``, or with several columns ``(columns, C, R, R)`` cut from each file."""

    store: ImageStore
    decoding: Decoding
    columns: int | None = None

    def __len__(self) -> int:
        return len(self.store)

    def __call__(self, index: int) -> Tensor:
        name = self.name(index)
        try:
            file = self.store.open(index)
        except Exception as error:
            # A damaged member of an archive: bad checksum, unknown compression, encryption, ...
            raise UnreadableImageError(f"cannot read image {name}: {error}") from error
        options = self.decoding
        if self.columns is None:
            return decode_image(
                file, resolution=options.resolution, channels=options.channels, resize=options.resize, name=name
            )
        return decode_columns(
            file,
            self.columns,
            resolution=options.resolution,
            channels=options.channels,
            resize=options.resize,
            name=name,
        )

    def name(self, index: int) -> str:
        return self.store.full_name(index)


@dataclass(frozen=True)
class JointDecoder:
    """Images of the same number in several stores, stacked: ``(len(parts), C, R, R)``."""

    parts: tuple[StoreDecoder, ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __call__(self, index: int) -> Tensor:
        return torch.stack([part(index) for part in self.parts])

    def name(self, index: int) -> str:
        return self.parts[0].name(index)


@dataclass(frozen=True)
class DecodeOnAccess:
    """Decodes number ``index`` when it is asked for. With ``skip``, the next readable one stands in for a bad one."""

    decoder: Decoder
    labels: Sequence[int]
    skip: bool

    def __call__(self, index: int) -> Tensor:
        try:
            return self.decoder(index)
        except UnreadableImageError as error:
            if not self.skip:
                raise
            return self._stand_in(index, error)

    def _stand_in(self, index: int, first_error: UnreadableImageError) -> Tensor:
        # Of the same class: the label that goes with the image stays true.
        mates = [other for other in range(len(self.labels)) if self.labels[other] == self.labels[index]]
        start = mates.index(index) + 1
        for other in mates[start:] + mates[: start - 1]:
            try:
                image = self.decoder(other)
            except UnreadableImageError:
                continue
            logger.warning("skipped: %s (%s stands in for it)", first_error, self.decoder.name(other))
            return image
        raise UnreadableImageError(f"no image of this class can be read; the first: {first_error}")


def decode_all(decoder: Decoder, shape: Sequence[int], on_bad_image: OnBadImage) -> tuple[Tensor, list[int]]:
    """All of them in one tensor ``(kept, *shape)``, and the numbers of those kept.

    Raises:
        UnreadableImageError: a bad one with "error"; not one good one with "skip".
    """
    images = torch.empty(len(decoder), *shape, dtype=torch.uint8)
    kept: list[int] = []
    for index, image in decode_in_order(decoder, on_bad_image, "Reading images"):
        images[len(kept)] = image
        kept.append(index)
    return images[: len(kept)], kept


def decode_in_order(decoder: Decoder, on_bad_image: OnBadImage, activity: str) -> Iterator[tuple[int, Tensor]]:
    """(number, tensor) of the readable ones, decoded by threads, with a progress bar.

    Raises:
        UnreadableImageError: a bad one with "error"; not one good one with "skip".
    """
    bad: list[UnreadableImageError] = []
    with progress_bar(activity, len(decoder)) as advance:
        for index, result in enumerate(_attempts(decoder)):
            advance(1)
            if isinstance(result, Tensor):
                yield index, result
                continue
            if on_bad_image == "error":
                raise result
            bad.append(result)
            logger.warning("skipped: %s", result)
    if len(bad) == len(decoder):
        raise UnreadableImageError(f"none of the {len(decoder)} images can be read; the first: {bad[0]}")
    if bad:
        logger.warning("skipped %d of %d images, which cannot be read", len(bad), len(decoder))


def _attempts(decoder: Decoder) -> Iterator[Tensor | UnreadableImageError]:
    def attempt(index: int) -> Tensor | UnreadableImageError:
        try:
            return decoder(index)
        except UnreadableImageError as error:
            return error

    # Threads suffice, since Pillow lets go of the interpreter while it decodes and resizes. The queue is bounded, so
    # that an error on the first image does not wait for all the others.
    workers = min(8, os.cpu_count() or 1)
    pending: deque[Future[Tensor | UnreadableImageError]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for index in range(len(decoder)):
            pending.append(pool.submit(attempt, index))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
