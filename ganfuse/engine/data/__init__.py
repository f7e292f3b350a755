"""Data sources: `open_dataset` turns a name or a folder into an `ImageDataset`."""

from ganfuse.engine.data.dataset import CACHE_LIMIT, ImageDataset
from ganfuse.engine.data.image_decoding import UnreadableImageError
from ganfuse.engine.data.sources import NAMED_SOURCES, open_dataset

__all__ = ["CACHE_LIMIT", "NAMED_SOURCES", "ImageDataset", "UnreadableImageError", "open_dataset"]
