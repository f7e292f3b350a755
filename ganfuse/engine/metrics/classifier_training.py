"""Trains a small classifier on a data set's own labels: a minute on a CPU, the same each time."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.engine.batches import ImageData
from ganfuse.engine.data.progress import optional_bar
from ganfuse.engine.metrics.image_batches import data_labels, has_classes, read_images
from ganfuse.engine.metrics.small_network import MAX_RESOLUTION, SmallNetwork, resize_images

__all__ = ["TrainedClassifier", "train_classifier"]

logger = logging.getLogger("ganfuse.metrics")

_BATCH = 128
_EPOCHS = 8
_LEAST_STEPS, _MOST_STEPS = 60, 400
_PEAK_LR = 4e-3
_HELD_OUT, _MOST_HELD_OUT = 0.15, 5000
_EVALUATION_BATCH = 512


@dataclass(frozen=True)
class TrainedClassifier:
    """A network, and how good it is.

    Attributes:
        network: in evaluation mode, on the CPU.
        accuracy: on images that it was not trained on.
        held_out: how many those are.
    """

    network: SmallNetwork
    accuracy: float
    held_out: int


def train_classifier(
    data: ImageData, *, seed: int = 0, steps: int | None = None, progress: bool = True
) -> TrainedClassifier:
    """Trains `SmallNetwork` on the CPU: Adam, one cycle of the learning rate, batches of 128.

    15 % of the images (5,000 at most) are held out to measure the accuracy.

    Args:
        data: with labels of at least two classes.
        seed: of weights, order and held-out images.
        steps: None: 8 epochs, but 60 to 400 steps.
        progress: draw a bar on a terminal's stderr.

    Raises:
        ValueError: no classes to tell apart, or fewer than 20 images.
    """
    labels = data_labels(data)
    if not has_classes(labels):
        raise ValueError("data: a classifier needs labels of at least two classes")
    if len(labels) < 20:
        raise ValueError(f"data: a classifier needs at least 20 images, got {len(labels)}")
    generator = torch.Generator().manual_seed(seed)
    count = min(max(round(_HELD_OUT * len(labels)), 1), _MOST_HELD_OUT)
    order = torch.randperm(len(labels), generator=generator)
    held_out, rest = torch.split(order, [count, len(labels) - count])
    if steps is None:
        steps = min(max(math.ceil(_EPOCHS * len(rest) / _BATCH), _LEAST_STEPS), _MOST_STEPS)
    image = read_images(data, [0])[0]
    resolution = min(max(image.shape[-2:]), MAX_RESOLUTION)
    # The initial weights come from the global generator, whose state belongs to the caller.
    with torch.random.fork_rng(devices=[]), optional_bar("Training a classifier", steps, progress) as advance:
        torch.manual_seed(seed)
        network = SmallNetwork(image.shape[1], resolution, int(labels.max()) + 1)
        # The faster layout of convolutions on a CPU.
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with torch.enable_grad():
            _fit(network, data, rest, steps, generator, advance)
    network.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)  # type: ignore[call-overload]
    accuracy = _accuracy(network, data, held_out)
    if accuracy < 0.5:
        logger.warning("the classifier tells only %.0f %% of the images right: its features say little", 100 * accuracy)
    return TrainedClassifier(network, accuracy, count)


def _fit(
    network: SmallNetwork,
    data: ImageData,
    indices: Tensor,
    steps: int,
    generator: torch.Generator,
    advance: Callable[[int], None],
) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=_PEAK_LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK_LR, total_steps=steps)
    waiting = indices[:0]
    network.train()
    for _ in range(steps):
        while len(waiting) < _BATCH:
            waiting = torch.cat([waiting, indices[torch.randperm(len(indices), generator=generator)]])
        chosen, waiting = waiting[:_BATCH], waiting[_BATCH:]
        images, labels = read_images(data, chosen.tolist())
        _, logits = network(_prepared(images, network))
        assert logits is not None
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        advance(1)


@torch.no_grad()
def _accuracy(network: SmallNetwork, data: ImageData, indices: Tensor) -> float:
    right = 0
    for chosen in torch.split(indices, _EVALUATION_BATCH):
        images, labels = read_images(data, chosen.tolist())
        _, logits = network(_prepared(images, network))
        assert logits is not None
        right += int((logits.argmax(1) == labels).sum())
    return right / len(indices)


def _prepared(images: Tensor, network: SmallNetwork) -> Tensor:
    return resize_images(images, network.resolution).contiguous(memory_format=torch.channels_last)
