"""``fashion-mnist``: 60,000 + 10,000 pictures of clothing in 10 classes, 28×28, grayscale.

Xiao, Rasul & Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms", 2017,
arXiv:1708.07747; MIT licence, https://github.com/zalandoresearch/fashion-mnist.
"""

import gzip
import os
import zlib
from functools import partial
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from ganfuse.engine.cache_folder import cache_folder
from ganfuse.engine.data.arrays import dataset_from_array
from ganfuse.engine.data.dataset import ImageDataset
from ganfuse.engine.data.download import DownloadError, download, sha256_problem
from ganfuse.engine.data.idx import parse_idx

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
SPLITS = {"train": ("train", 60_000), "test": ("t10k", 10_000)}

# SHA-256 of the files' uncompressed content. Debian packs the same content with another gzip header, so that checksums
# of the .gz files (such as the published MD5 sums) differ between the two.
CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def open_fashion_mnist(
    *, resolution: int, channels: int | None = None, split: str = "train", cache: bool = True
) -> ImageDataset:
    """Fashion-MNIST, white on black; labels 0 to 9.

    At 28 px the pictures are as published; for any other resolution they get the usual margin to 32×32 and are then
    resized, so that all resolutions frame the same.

    The files are taken from ``$GANFUSE_DATA`` (or its sub-folder ``fashion-mnist``), from Debian's package
    ``dataset-fashion-mnist``, or from the user's cache; failing these they are downloaded to the first or the last.

    Raises:
        ValueError: unknown split, or a file whose checksum is wrong.
        FileNotFoundError: no copy, and the download failed.
    """
    pictures, labels = read_fashion_mnist(split)
    if resolution != 28:
        pictures = F.pad(pictures, (2, 2, 2, 2))
    return dataset_from_array(
        pictures,
        labels,
        name="fashion-mnist",
        class_names=CLASS_NAMES,
        channels=1 if channels is None else channels,
        resolution=resolution,
        cache=cache,
    )


def read_fashion_mnist(split: str) -> tuple[Tensor, Tensor]:
    """The pictures as published, uint8 (N, 28, 28), and their labels, int64; errors as of `open_fashion_mnist`."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    prefix, count = SPLITS[split]
    names = (f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz")
    folder = _find(names)
    if folder is None:
        folder = _download(names)
    pictures, labels = (_read(folder / name) for name in names)
    if tuple(pictures.shape) != (count, 28, 28) or tuple(labels.shape) != (count,):
        raise ValueError(
            f"{folder}: expected {count:,} images of 28×28 and as many labels, "
            f"got {tuple(pictures.shape)} and {tuple(labels.shape)}"
        )
    return pictures, labels.long()


def _download_folder() -> Path:
    if data := os.environ.get("GANFUSE_DATA"):
        return Path(data).expanduser() / "fashion-mnist"
    return cache_folder("fashion-mnist")


def _find(names: tuple[str, ...]) -> Path | None:
    chosen = _download_folder()
    folders = [chosen, DEBIAN_FOLDER]
    if os.environ.get("GANFUSE_DATA"):
        folders.insert(0, chosen.parent)
    return next((folder for folder in folders if all((folder / name).is_file() for name in names)), None)


def _download(names: tuple[str, ...]) -> Path:
    folder = _download_folder()
    for name in names:
        if (folder / name).is_file():
            continue
        try:
            download([mirror + name for mirror in MIRRORS], folder / name, check=partial(_problem, name))
        except DownloadError as error:
            raise FileNotFoundError(
                "fashion-mnist is not on this machine, and downloading it failed. Three ways to get it: "
                "(1) on Debian or Ubuntu: apt install dataset-fashion-mnist; "
                f"(2) with a network connection it is downloaded to {folder}; "
                f"(3) copy its four .gz files there, or to a folder named by the environment variable GANFUSE_DATA. "
                f"What failed: {error}"
            ) from error
    return folder


def _unpack(content: bytes) -> bytes:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"not a complete gzip file ({error})") from error


def _problem(name: str, content: bytes) -> str | None:
    try:
        return sha256_problem(_unpack(content), CHECKSUMS[name])
    except ValueError as error:
        return str(error)


def _read(path: Path) -> Tensor:
    try:
        content = _unpack(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}; delete it to fetch it again") from error
    if problem := sha256_problem(content, CHECKSUMS[path.name]):
        raise ValueError(f"{path}: {problem}; delete it to fetch it again")
    return parse_idx(content, source=str(path))
