"""Two domains: in folders, archives, side by side, made from the named sources; paired and unpaired."""

import gzip
import hashlib
import logging
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ganfuse.engine.data import (
    ImageDataset,
    PairedDataset,
    Sample,
    UnpairedDataset,
    UnreadableImageError,
    fashion_mnist,
    open_dataset,
)
from ganfuse.engine.data.demo_domains import edges, thicken
from tests.engine.pictures import noise, save, truncate


def level(sample: Sample, key: str) -> int:
    image = sample[key]
    assert isinstance(image, torch.Tensor)
    assert image.dtype == torch.uint8
    return int(image[0, 2, 2])


def levels(data: UnpairedDataset | PairedDataset) -> list[tuple[int, int]]:
    return [(level(data[i], "image_a"), level(data[i], "image_b")) for i in range(len(data))]


def fill(folder: Path, *values: int, suffix: str = "png") -> None:
    for index, value in enumerate(values):
        save(folder / f"{index}.{suffix}", value)


@pytest.fixture
def domains(tmp_path: Path) -> Path:
    fill(tmp_path / "data" / "trainA", 10, 11, 12)
    fill(tmp_path / "data" / "trainB", 20, 21, 22)
    fill(tmp_path / "data" / "testA", 30)
    fill(tmp_path / "data" / "testB", 40)
    return tmp_path / "data"


OPTIONS: dict[str, int] = {"resolution": 4, "channels": 1}


# Unpaired


def test_train_a_and_train_b(domains: Path) -> None:
    data = open_dataset(domains, kind="unpaired", **OPTIONS)
    assert isinstance(data, UnpairedDataset)
    assert not data.paired
    assert data.domain_names == ("trainA", "trainB")
    assert [len(domain) for domain in data.domains] == [3, 3]
    assert all(isinstance(domain, ImageDataset) for domain in data.domains)
    assert levels(open_dataset(domains, kind="unpaired", split="test", **OPTIONS)) == [(30, 40)]
    assert "3 and 3 images of 1×4×4" in repr(data)


def test_an_item_is_of_two_numbers(tmp_path: Path) -> None:
    fill(tmp_path / "A", 1, 2, 3, 4, 5)
    fill(tmp_path / "B", 6, 7)
    data = open_dataset(tmp_path, kind="unpaired", **OPTIONS)
    assert len(data) == 5
    assert (level(data[4, 0], "image_a"), level(data[4, 0], "image_b")) == (5, 6)
    assert levels(data) == [(1, 6), (2, 7), (3, 6), (4, 7), (5, 6)]
    assert level(data[-1], "image_a") == 5
    assert set(data[0]) == {"image_a", "image_b", "label_a", "label_b"}
    for index in (5, -6, (5, 0), (0, 2)):
        with pytest.raises(IndexError):
            data[index]
    # Numbers in pairs reach a data loader's workers as they are.
    order = [[(0, 1), (3, 0)], [(4, 1)]]
    loader = DataLoader(data, batch_sampler=order, num_workers=1)
    assert [batch["image_a"][:, 0, 0, 0].tolist() for batch in loader] == [[1, 4], [5]]


def test_two_folders_of_any_name_and_two_sources(domains: Path, tmp_path: Path) -> None:
    fill(tmp_path / "art" / "monet", 50)
    fill(tmp_path / "art" / "photo", 60)
    data = open_dataset(tmp_path / "art", kind="unpaired", **OPTIONS)
    assert (data.domain_names, levels(data)) == (("monet", "photo"), [(50, 60)])
    source = f"a={domains / 'trainA'}, b={tmp_path / 'art' / 'photo'}"
    assert levels(open_dataset(source, kind="unpaired", **OPTIONS))[0] == (10, 60)
    mixed = open_dataset(f"a=digits,b={tmp_path / 'art' / 'photo'}", kind="unpaired", resolution=8)
    assert (len(mixed), mixed.channels) == (1797, 3)


def test_domains_in_an_archive(domains: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(domains.rglob("*.png")):
            file.write(path, f"data/{path.relative_to(domains)}")
    for kind in ("unpaired", "paired"):
        for cache in (True, False):
            data = open_dataset(archive, kind=kind, cache=cache, **OPTIONS)  # type: ignore[call-overload]
            assert levels(data) == [(10, 20), (11, 21), (12, 22)]


@pytest.mark.parametrize("folders", [("a", "b", "c"), ("trainA",), ("one",), ()])
def test_no_two_domains(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders or (".",):
        fill(tmp_path / folder, 1)
    found = ", ".join(folders) or "no folder"
    with pytest.raises(
        ValueError, match=f"expected the folders trainA and trainB, A and B, or two .* found {found}; or"
    ):
        open_dataset(tmp_path, kind="unpaired", **OPTIONS)


def test_domains_of_different_sizes_are_refused() -> None:
    small, large = (open_dataset("digits", resolution=size) for size in (8, 16))
    for kind in (UnpairedDataset, PairedDataset):
        with pytest.raises(ValueError, match="images of one size, got 1×8×8 and 1×16×16"):
            kind(small, large, name="x")
    with pytest.raises(ValueError, match="as many images in both domains, got 1797 and 3"):
        PairedDataset(small, small.subset([0, 1, 2]), name="x")


# Paired


def test_pairs_of_the_same_name(domains: Path) -> None:
    (domains / "trainB" / "1.png").unlink()
    save(domains / "trainB" / "1.bmp", 99)
    for cache in (True, False):
        data = open_dataset(domains, kind="paired", cache=cache, **OPTIONS)
        assert data.paired
        assert levels(data) == [(10, 20), (11, 99), (12, 22)]
        assert [int(image[0, 0, 0]) for image, _ in data.domains[1]] == [20, 99, 22]
        assert levels(pickle.loads(pickle.dumps(data))) == levels(data)
    assert levels(open_dataset(domains, kind="paired", split="test", **OPTIONS)) == [(30, 40)]
    source = f"a={domains / 'trainB'},b={domains / 'trainA'}"
    assert levels(open_dataset(source, kind="paired", **OPTIONS))[1] == (99, 11)


def test_images_without_a_partner_and_with_two(domains: Path) -> None:
    save(domains / "trainA" / "extra.png")
    with pytest.raises(ValueError, match=r"1 images have no partner of the same name in .*trainB, such as extra"):
        open_dataset(domains, kind="paired", **OPTIONS)
    save(domains / "trainB" / "extra.png")
    save(domains / "trainB" / "extra.bmp")
    with pytest.raises(ValueError, match=r"extra\.bmp and extra\.png have the same name"):
        open_dataset(domains, kind="paired", **OPTIONS)


def side_by_side(path: Path, left: int, right: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.full((8, 16), left, dtype=np.uint8)
    array[:, 8:] = right
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("cache", [True, False])
def test_pairs_side_by_side(tmp_path: Path, cache: bool) -> None:
    for index in range(3):
        side_by_side(tmp_path / "flat" / f"{index}.png", index, 100 + index)
        side_by_side(tmp_path / "split" / "train" / f"{index}.png", index, 200 + index)
        side_by_side(tmp_path / "split" / "val" / f"{index}.png", index, 50 + index)
    flat = open_dataset(tmp_path / "flat", kind="paired", cache=cache, **OPTIONS)
    assert levels(flat) == [(0, 100), (1, 101), (2, 102)]
    assert [int(image[0, 0, 0]) for image, _ in flat.domains[1]] == [100, 101, 102]
    split = tmp_path / "split"
    assert levels(open_dataset(split, kind="paired", cache=cache, **OPTIONS))[2] == (2, 202)
    assert levels(open_dataset(split, kind="paired", split="val", cache=cache, **OPTIONS))[2] == (2, 52)
    with pytest.raises(ValueError, match="there is no split 'test'"):
        open_dataset(split, kind="paired", split="test", **OPTIONS)
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'all'"):
        open_dataset(split, kind="paired", split="all", **OPTIONS)


def test_a_broken_half_takes_its_partner_with_it(domains: Path, caplog: pytest.LogCaptureFixture) -> None:
    truncate(noise(domains / "trainB" / "1.png"))
    with pytest.raises(UnreadableImageError, match=r"trainB/1\.png"):
        open_dataset(domains, kind="paired", **OPTIONS)
    with caplog.at_level(logging.WARNING):
        data = open_dataset(domains, kind="paired", on_bad_image="skip", **OPTIONS)
        assert levels(data) == [(10, 20), (12, 22)]
        assert "1.png" in caplog.text
        # On access another pair stands in for it, both halves of it.
        data = open_dataset(domains, kind="paired", on_bad_image="skip", cache=False, **OPTIONS)
        assert levels(data) == [(10, 20), (12, 22), (12, 22)]
        assert [int(image[0, 0, 0]) for image, _ in data.domains[0]] == [10, 12, 12]


def test_pairs_can_be_taken_apart(domains: Path) -> None:
    data = open_dataset(domains, kind="paired", **OPTIONS).unpaired()
    assert not data.paired
    assert level(data[0, 2], "image_b") == 22


# Made from the named sources


def test_thick_digits() -> None:
    paired = open_dataset("digits-thick", kind="paired", resolution=32)
    assert (len(paired), paired.channels, paired.domains[0].num_classes) == (1797, 1, 10)
    thin, thick = (domain.images for domain in paired.domains)
    assert thin is not None
    assert thick is not None
    assert (thick.float().mean() / thin.float().mean()).item() > 1.3
    # Dilation takes nothing away but for what resampling adds.
    assert (thin.int() - thick.int()).max() < 40
    assert torch.equal(paired.domains[0].labels, paired.domains[1].labels)
    unpaired = open_dataset("digits-thick", kind="unpaired", resolution=32, channels=3)
    assert [len(domain) for domain in unpaired.domains] == [899, 898]
    # No picture has its partner in the other domain: A has the even ones, B is made of the odd ones.
    assert torch.equal(unpaired.domains[0].labels, paired.domains[0].labels[::2])
    assert torch.equal(unpaired.domains[0][1][0][0], thin[2, 0])
    assert torch.equal(unpaired.domains[1][1][0][0], thick[3, 0])


def test_thickening_and_edges_against_their_definitions() -> None:
    pictures = torch.randint(0, 256, (3, 7, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    thick, sobel = thicken(pictures), edges(pictures)
    padded = np.pad(pictures.numpy().astype(float), ((0, 0), (1, 1), (1, 1)), mode="edge")
    for n, y, x in ((0, 0, 0), (1, 3, 2), (2, 6, 5), (0, 6, 0), (2, 2, 3)):
        window = padded[n, y : y + 3, x : x + 3]
        assert thick[n, y, x] == window.max()
        across = np.array([1, 2, 1]) / 4
        gradient = np.hypot(across @ (window[:, 2] - window[:, 0]), across @ (window[2] - window[0]))
        assert sobel[n, y, x] == min(round(gradient), 255)
    step = torch.zeros(1, 4, 4, dtype=torch.uint8)
    step[:, :, 2:] = 255
    assert edges(step)[0, 1].tolist() == [0, 255, 255, 0]


def test_edges_of_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "SPLITS", {"test": ("t10k", 4)})
    monkeypatch.setenv("GANFUSE_DATA", str(tmp_path))
    pictures = bytes(range(4)) * (28 * 28)
    for name, shape, content in (
        ("t10k-images-idx3-ubyte.gz", (4, 28, 28), pictures),
        ("t10k-labels-idx1-ubyte.gz", (4,), bytes([3, 1, 4, 1])),
    ):
        idx = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content
        (tmp_path / name).write_bytes(gzip.compress(idx))
        monkeypatch.setitem(fashion_mnist.CHECKSUMS, name, hashlib.sha256(idx).hexdigest())
    data = open_dataset("fashion-edges", kind="paired", resolution=32, split="test")
    assert (len(data), data.domain_names) == (4, ("photo", "edges"))
    assert data.domains[1].labels.tolist() == [3, 1, 4, 1]
    photo, outline = data[0]["image_a"], data[0]["image_b"]
    assert isinstance(photo, torch.Tensor)
    assert torch.equal(edges(photo), outline)
    unpaired = open_dataset("fashion-edges", kind="unpaired", resolution=32, split="test")
    assert [domain.labels.tolist() for domain in unpaired.domains] == [[3, 4], [1, 1]]


# Which source is of which kind


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("digits-thick", {}, "digits-thick is two domains, for models that translate"),
        ("a=x,b=y", {}, "a=x,b=y is two domains"),
        ("digits", {"kind": "paired"}, "digits is one set of images; two domains are needed: a=digits,b=..."),
        ("hf:a/b", {"kind": "unpaired"}, "hf:a/b is one set of images"),
        ("digits", {"kind": "embedded"}, "digits has no captions"),
        ("digits", {"kind": "pairs"}, "kind must be one of 'images', 'unpaired', 'paired', 'embedded', got 'pairs'"),
        ("digits-thick", {"kind": "paired", "split": "test"}, "digits-thick has no option 'split'"),
    ],
)
def test_a_source_of_another_kind(source: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_dataset(source, resolution=8, **options)  # type: ignore[call-overload]


def test_missing_sources_of_domains(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"neither a name \(digits-thick, .*Did you mean 'digits-thick'"):
        open_dataset("digit-thick", kind="paired", resolution=8)
    with pytest.raises(FileNotFoundError, match="'nowhere' is not an existing folder or zip archive"):
        open_dataset(f"a=nowhere,b={tmp_path}", kind="paired", resolution=8)
