"""Inception-v3 as FID, KID and the Inception Score are defined with it: the network and weights of torch-fidelity.

Its resizing is that of TensorFlow 1, and its weights those of 2015, as in the original implementations; torchvision's
Inception has other weights, and gives other scores.
"""

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ganfuse.engine.metrics.extractor import Extracted, Extractor, class_probabilities, match_channels

__all__ = ["WEIGHTS_FILE", "WEIGHTS_URL", "InceptionExtractor"]

WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{WEIGHTS_FILE}"
_FEATURES, _LOGITS = "2048", "logits_unbiased"


class InceptionExtractor(Extractor):
    """The 2048 features of the last pooling, and the probabilities of 1008 classes (without the bias, as in the IS).

    Args:
        weights: file of the weights; None takes the one in PyTorch's hub folder, or lets torch-fidelity download it.

    Raises:
        ModuleNotFoundError: torch-fidelity is not installed.
        FileNotFoundError: there are no weights, and they could not be downloaded.
        ValueError: the file does not hold these weights.
    """

    resize = "bilinear of TensorFlow 1"
    gives_probabilities = True

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ModuleNotFoundError(
                f"the extractor 'inception' needs torch-fidelity (pip install 'ganfuse[metrics]'): {error}"
            ) from error
        self.name = "inception"
        self.resolution = 299
        file = _find(weights)
        self._hash = _checked_hash(file)
        try:
            # Its initial weights, which are overwritten, must not disturb the caller's random numbers.
            with torch.random.fork_rng(devices=[]):
                self._network: Any = FeatureExtractorInceptionV3("inception-v3-compat", [_FEATURES, _LOGITS], str(file))
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"{file}: not the weights of torch-fidelity's Inception-v3 ({error})") from error
        self._network.eval()
        self._device = torch.device("cpu")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Extracted:
        features, logits = self._network(match_channels(images.to(self._device), 3))
        return Extracted(features, class_probabilities(logits))

    def to(self, device: torch.device) -> "InceptionExtractor":
        self._network.to(device)
        self._device = device
        return self

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "weights": self._hash}


def _find(weights: str | os.PathLike[str] | None) -> Path:
    if weights is not None:
        file = Path(weights).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"extractor: there is no file {file} with Inception's weights; {_how_to_get()}")
        return file
    file = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE
    if not file.is_file():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(WEIGHTS_URL, str(file), hash_prefix="6726825d", progress=False)
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or error
            message = f"extractor: Inception's weights are not here and could not be downloaded ({reason})"
            raise FileNotFoundError(f"{message}; {_how_to_get()}") from error
    return file


def _how_to_get() -> str:
    return (
        f"fetch {WEIGHTS_URL} on a machine with a network connection, and give the file as inception:FILE or put it "
        f"into {Path(torch.hub.get_dir()) / 'checkpoints'}; or take an extractor that needs no download: classifier, "
        "random"
    )


def _checked_hash(file: Path) -> str:
    # torch-fidelity would run whatever code a pickle asks for; a file that passes this holds tensors only.
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{file}: not a file of weights ({type(error).__name__})") from error
    if not isinstance(state, dict) or "fc.weight" not in state:
        raise ValueError(f"{file}: not the weights of Inception-v3 (it has no entry fc.weight)")
    with open(file, "rb") as opened:
        digest = hashlib.sha256()
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]
