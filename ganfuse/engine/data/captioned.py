"""``captioned:SOURCE``: captions made from class names, embedded by fixed word vectors, so that no encoder is needed.

Every image of a source gets the same few sentences about its class, each the sum of its words' vectors. A word's vector
is Gaussian noise that its spelling determines: it means nothing, but equal words are equal and different ones nearly
orthogonal, so that a text-to-image model can learn which words name which pictures.
"""

import hashlib
import re
from collections.abc import Sequence

import torch
from torch import Tensor

from ganfuse.engine.data.dataset import ImageDataset
from ganfuse.engine.data.embedded import EmbeddedDataset

__all__ = ["FEATURES", "PREFIX", "add_captions", "class_captions", "embed_words"]

PREFIX = "captioned:"
FEATURES = 64

_TEMPLATES = ("{}", "a picture of {}", "this is {}", "one small {}", "here you see {}")


def class_captions(name: str) -> list[str]:
    """Sentences about the class of that name, all of which have the name in them."""
    return [template.format(name) for template in _TEMPLATES]


def embed_words(texts: Sequence[str], features: int = FEATURES) -> Tensor:
    """The sum of the vectors of each text's words, scaled to a root mean square of 1: float32 (len(texts), features).

    Words are runs of letters and digits, in lower case. The same on every machine.

    Raises:
        ValueError: a text without words.
    """
    rows = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        if not words:
            raise ValueError(f"texts: expected words in each, got {text!r}")
        total = torch.stack([_word_vector(word, features) for word in words]).sum(0)
        rows.append(total / total.square().mean().sqrt())
    return torch.stack(rows)


def add_captions(images: ImageDataset) -> EmbeddedDataset:
    """The images with embeddings of the captions of their classes, `FEATURES` numbers each."""
    table = torch.stack([embed_words(class_captions(name)) for name in images.class_names])
    data = EmbeddedDataset(images, table, rows=images.labels)
    data.name = PREFIX + images.name
    return data


def _word_vector(word: str, features: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little") >> 1
    return torch.randn(features, generator=torch.Generator().manual_seed(seed))
