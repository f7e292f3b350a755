"""Fashion-MNIST: where it is found, checksums, the download (from a server in this process), the IDX format."""

import gzip
import hashlib
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from ganfuse.engine.data import fashion_mnist, open_dataset
from ganfuse.engine.data.download import DownloadError, download
from ganfuse.engine.data.idx import parse_idx

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a set of three images in Fashion-MNIST's form; it is on no search path."""
    monkeypatch.setattr(fashion_mnist, "SPLITS", {"train": ("train", 3), "test": ("t10k", 3)})
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("GANFUSE_DATA", raising=False)
    folder = tmp_path / "published"
    folder.mkdir()
    contents = {
        IMAGES: idx((3, 28, 28), b"".join(bytes([value]) * 784 for value in (50, 100, 150))),
        LABELS: idx((3,), bytes([9, 0, 4])),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content))
        monkeypatch.setitem(fashion_mnist.CHECKSUMS, name, hashlib.sha256(content).hexdigest())
    return folder


def open_test_split(**options: object) -> object:
    return open_dataset("fashion-mnist", split="test", resolution=32, **options)  # type: ignore[arg-type]


@pytest.fixture
def server(small_set: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(small_set)))
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}/"
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.skipif(not fashion_mnist.DEBIAN_FOLDER.exists(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_set() -> None:
    data = open_dataset("fashion-mnist", split="test", resolution=28)
    assert len(data) == 10_000
    assert torch.bincount(data.labels).tolist() == [1000] * 10
    assert data.class_names[data[0][1]] == "Ankle boot"
    # Mean and deviation that the data set's users normalise with (0.2860, 0.3530 on the training half).
    assert data.images is not None
    pixels = data.images.float() / 255
    assert float(pixels.mean()) == pytest.approx(0.2868, abs=5e-4)
    assert float(pixels.std()) == pytest.approx(0.3524, abs=5e-4)


def test_margin_at_32_and_as_published_at_28(small_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANFUSE_DATA", str(small_set))
    data = open_dataset("fashion-mnist", split="test", resolution=32, channels=3)
    image, label = data[0]
    assert (label, data.class_names[label], image.shape) == (9, "Ankle boot", (3, 32, 32))
    assert (image[:, 2:30, 2:30] == 50).all()
    assert int(image.sum()) == 3 * 50 * 28 * 28
    small = open_dataset("fashion-mnist", split="test", resolution=28)
    assert (small[1][0] == 100).all()
    assert open_dataset("fashion-mnist", split="test", resolution=64)[2][0][0, 32, 32] == 150


@pytest.mark.parametrize("place", ["GANFUSE_DATA/fashion-mnist", "debian", "cache"])
def test_places_where_it_is_found(small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if place.startswith("GANFUSE_DATA"):
        monkeypatch.setenv("GANFUSE_DATA", str(tmp_path / "data"))
    target = {"debian": "debian", "cache": "cache/ganfuse/fashion-mnist"}.get(place, "data/fashion-mnist")
    (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
    small_set.rename(tmp_path / target)
    assert open_test_split().labels.tolist() == [9, 0, 4]  # type: ignore[attr-defined]


def test_absent_and_offline_says_three_ways(small_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ("http://127.0.0.1:9/",))
    with pytest.raises(FileNotFoundError) as caught:
        open_test_split()
    message = str(caught.value)
    for part in ("apt install dataset-fashion-mnist", str(tmp_path / "cache"), "GANFUSE_DATA", "127.0.0.1:9"):
        assert part in message


def test_download(small_set: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "MIRRORS", (server + "nowhere/", server))
    assert open_test_split().labels.tolist() == [9, 0, 4]  # type: ignore[attr-defined]
    cache = tmp_path / "cache" / "ganfuse" / "fashion-mnist"
    assert sorted(file.name for file in cache.iterdir()) == [IMAGES, LABELS]
    # The second time nothing is fetched.
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ())
    assert len(open_test_split()) == 3  # type: ignore[arg-type]


def test_a_damaged_download_is_not_kept(
    small_set: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gzip.decompress((small_set / IMAGES).read_bytes())
    (small_set / IMAGES).write_bytes(gzip.compress(content[:-1] + b"\x07"))
    monkeypatch.setattr(fashion_mnist, "MIRRORS", (server,))
    with pytest.raises(FileNotFoundError, match=r"SHA-256 is .* expected"):
        open_test_split()
    cache = tmp_path / "cache"
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_damaged_local_file_is_named(small_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANFUSE_DATA", str(small_set))
    content = (small_set / LABELS).read_bytes()
    (small_set / LABELS).write_bytes(content[:-9])
    with pytest.raises(ValueError, match=f"{LABELS}: not a complete gzip file .*delete it"):
        open_test_split()
    (small_set / LABELS).write_bytes(gzip.compress(idx((3,), bytes(3))))
    with pytest.raises(ValueError, match=f"{LABELS}: SHA-256 is"):
        open_test_split()


def test_unknown_split() -> None:
    with pytest.raises(ValueError, match="split must be one of train, test, got 'val'"):
        open_dataset("fashion-mnist", resolution=32, split="val")
    with pytest.raises(ValueError, match="fashion-mnist has no option 'fold'"):
        open_dataset("fashion-mnist", resolution=32, fold=1)


def test_download_reports_every_address(server: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"/a: .*not found; .*/b: .*not found"):
        download([server + "a", server + "b"], tmp_path / "new" / "x", check=lambda content: None)
    assert not (tmp_path / "new").exists()


def test_idx_round_trip() -> None:
    array = parse_idx(idx((2, 3), bytes(range(6))), source="x")
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    array[0, 0] = 9  # its own memory


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x1f\x8b\x08\x00", "not an IDX file"),
        (b"\0\0\x0d\x01" + bytes(8), "element type 0x0d"),
        (b"\0\0\x08\x03" + bytes(4), "truncated IDX header"),
        (b"\0\0\x08\x00", "truncated IDX header"),
        (idx((2, 3), bytes(5)), "promises 2 × 3 = 6 values, the file has 5"),
        (idx((2, 3), bytes(7)), "promises 2 × 3 = 6 values, the file has 7"),
        (idx((2**31, 2**31, 16), b""), "the file has 0"),
    ],
)
def test_broken_idx(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_idx(content, source="x")
