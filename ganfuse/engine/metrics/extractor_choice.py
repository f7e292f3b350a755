"""From what a user writes as the extractor to an extractor."""

import difflib
from pathlib import Path

from torch import nn

from ganfuse.engine.batches import ImageData
from ganfuse.engine.metrics.classifier import open_classifier
from ganfuse.engine.metrics.extractor import Extractor, ModuleExtractor
from ganfuse.engine.metrics.image_batches import data_labels, has_classes, read_images
from ganfuse.engine.metrics.inception import InceptionExtractor
from ganfuse.engine.metrics.random_network import RandomExtractor
from ganfuse.engine.metrics.torchscript import load_torchscript

__all__ = ["NAMED_EXTRACTORS", "choose_extractor"]

NAMED_EXTRACTORS = ("auto", "classifier", "random", "inception")


def choose_extractor(choice: str | nn.Module | Extractor, data: ImageData, *, progress: bool = True) -> Extractor:
    """The extractor of that name for a run on this data set.

    Args:
        choice: "classifier" (trained on the labels of `data`, kept in the cache), "random" (fixed random weights),
            "auto" (the first if the data has classes, else the second), "inception", "inception:FILE" with a file of
            its weights, or the path of a TorchScript file. A module is taken as by `ModuleExtractor`; an `Extractor`
            as it is.
        data: the run's data set: the one that it is, or was, trained on, whatever it is compared with.
        progress: draw a bar on a terminal's stderr where a classifier is trained.

    Raises:
        ValueError: no such extractor, or one that does not go with the data.
        FileNotFoundError: a file is missing.
        ModuleNotFoundError: a library is missing.
    """
    if isinstance(choice, Extractor):
        return choice
    if isinstance(choice, nn.Module):
        return ModuleExtractor(choice, name=type(choice).__name__)
    if choice == "auto":
        choice = "classifier" if has_classes(data_labels(data)) else "random"
    if choice == "classifier":
        if not has_classes(data_labels(data)):
            raise ValueError(
                "extractor: 'classifier' learns from labels, and the data has none; choose another extractor: "
                "'random', 'inception' or a TorchScript file"
            )
        return open_classifier(data, progress=progress)
    if choice == "random":
        channels, height, width = read_images(data, [0])[0].shape[1:]
        return RandomExtractor(channels=channels, resolution=max(height, width))
    if choice == "inception":
        return InceptionExtractor()
    if choice.startswith("inception:"):
        return InceptionExtractor(choice.removeprefix("inception:"))
    if Path(choice).suffix or Path(choice).expanduser().exists():
        return load_torchscript(choice)
    near = difflib.get_close_matches(choice, NAMED_EXTRACTORS, n=1)
    meant = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(NAMED_EXTRACTORS)}, or a TorchScript file"
    raise ValueError(f"extractor: there is none called {choice!r}; {meant}")
