"""Data sources: `open_dataset` turns a name or a path into a data set of uint8 images."""

from ganfuse.engine.data.dataset import CACHE_LIMIT, ImageDataset
from ganfuse.engine.data.embedded import EmbeddedDataset, choose_captions, mismatching
from ganfuse.engine.data.image_decoding import UnreadableImageError
from ganfuse.engine.data.packed import open_packed
from ganfuse.engine.data.packing import pack_dataset
from ganfuse.engine.data.pairs import PairedDataset, UnpairedDataset
from ganfuse.engine.data.samples import Sample
from ganfuse.engine.data.sources import (
    NAMED_DOMAINS,
    NAMED_SOURCES,
    AnyDataset,
    DataKind,
    default_resolution,
    open_dataset,
)
from ganfuse.engine.data.subset import limit_dataset, split_dataset

__all__ = [
    "CACHE_LIMIT",
    "NAMED_DOMAINS",
    "NAMED_SOURCES",
    "AnyDataset",
    "DataKind",
    "EmbeddedDataset",
    "ImageDataset",
    "PairedDataset",
    "Sample",
    "UnpairedDataset",
    "UnreadableImageError",
    "choose_captions",
    "default_resolution",
    "limit_dataset",
    "mismatching",
    "open_dataset",
    "open_packed",
    "pack_dataset",
    "split_dataset",
]
