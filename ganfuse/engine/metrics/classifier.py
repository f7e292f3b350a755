"""Features of a classifier that was trained on the data set's own labels, and is kept in the cache.

With it the quality of a run can be followed where nothing can be downloaded. Scores are comparable between runs with
the same classifier: its hash is stored beside them.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.atomic_file import atomic_write
from ganfuse.engine.batches import ImageData
from ganfuse.engine.cache_folder import cache_folder
from ganfuse.engine.metrics.classifier_training import train_classifier
from ganfuse.engine.metrics.extractor import Extracted, Extractor, class_probabilities, match_channels, weights_hash
from ganfuse.engine.metrics.image_batches import data_labels, read_images
from ganfuse.engine.metrics.small_network import RESIZE, SmallNetwork, resize_images

__all__ = ["ClassifierExtractor", "data_fingerprint", "open_classifier"]

logger = logging.getLogger("ganfuse.metrics")

# To be raised by whoever changes the network or its training: old files in the cache no longer fit.
VERSION = 1
_IMAGES_IN_FINGERPRINT = 256


class ClassifierExtractor(Extractor):
    """The penultimate layer (128 features) and the class probabilities of a `SmallNetwork`.

    Args:
        network: a classifier, on the CPU.
        accuracy: on held-out images.
        data_name: what it was trained on.
    """

    resize = RESIZE
    gives_probabilities = True

    def __init__(self, network: SmallNetwork, *, accuracy: float, data_name: str) -> None:
        self.name = "classifier"
        self.resolution = network.resolution
        self.accuracy = accuracy
        self.data_name = data_name
        self._network = network.eval().requires_grad_(False)
        self._hash = weights_hash(network)
        self._device = torch.device("cpu")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        pixels = match_channels(images.to(self._device), self._network.channels)
        features, logits = self._network(resize_images(pixels, self._network.resolution))
        return Extracted(features, class_probabilities(logits))

    def to(self, device: torch.device) -> "ClassifierExtractor":
        self._network.to(device)
        self._device = device
        return self

    def describe(self) -> dict[str, Any]:
        return {
            **super().describe(),
            "trained_on": self.data_name,
            "accuracy": self.accuracy,
            "weights": self._hash,
            "version": VERSION,
        }


def open_classifier(
    data: ImageData, *, folder: Path | None = None, steps: int | None = None, progress: bool = True
) -> ClassifierExtractor:
    """The classifier of a data set: from the cache, or trained now and put there.

    Args:
        data: with labels of at least two classes. Its images, labels and size identify it, not its name.
        folder: of the cache; by default ``classifiers`` in `cache_folder`.
        steps: of the training, see `train_classifier`; other numbers are kept apart.
        progress: draw a bar on a terminal's stderr while it is trained.

    Raises:
        ValueError: the data has no classes.
        OSError: the cache cannot be written.
    """
    folder = cache_folder("classifiers") if folder is None else folder
    name = str(getattr(data, "name", "data"))
    key = data_fingerprint(data) + ("" if steps is None else f"-{steps}")
    file = folder / f"v{VERSION}-{key}.safetensors"
    if (found := _load(file, name)) is not None:
        return found
    trained = train_classifier(data, steps=steps, progress=progress)
    # The file is one: weights, and what is known of them in its header.
    _save(file, trained.network, {"accuracy": trained.accuracy, "held_out": trained.held_out, "data": name})
    return ClassifierExtractor(trained.network, accuracy=trained.accuracy, data_name=name)


def data_fingerprint(data: ImageData) -> str:
    """16 hexadecimal digits from the labels and 256 images spread over the data set."""
    labels = data_labels(data)
    indices = torch.linspace(0, len(labels) - 1, min(len(labels), _IMAGES_IN_FINGERPRINT)).round().long().tolist()
    images, _ = read_images(data, indices)
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(labels.numpy().tobytes())
    digest.update(images.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _save(file: Path, network: SmallNetwork, about: dict[str, Any]) -> None:
    from safetensors.torch import save

    shape = {"channels": network.channels, "resolution": network.resolution, "num_classes": network.num_classes}
    content = {"about": json.dumps(about), "network": json.dumps(shape)}
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    with atomic_write(file) as opened:
        opened.write(save(tensors, metadata=content))


def _load(file: Path, name: str) -> ClassifierExtractor | None:
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            header = opened.metadata() or {}
            # Without weights of its own, which would be drawn from the caller's random numbers.
            with torch.device("meta"):
                network = SmallNetwork(**json.loads(header["network"]))
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # not a mapping
            network.load_state_dict(tensors, assign=True)
            return ClassifierExtractor(network, accuracy=json.loads(header["about"])["accuracy"], data_name=name)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        logger.warning("%s is damaged (%s); training the classifier again", file, error)
        return None
