"""Folders of images: classes, order, every kind of file, and broken ones."""

import logging
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganfuse.engine.data import UnreadableImageError, open_dataset
from ganfuse.engine.data.decoders import DecodeOnAccess
from ganfuse.engine.data.image_decoding import decode_image
from tests.engine.pictures import RED, noise, save, truncate

WHITE = (255, 255, 255)


def pixel(path: Path, channels: int = 3) -> tuple[int, ...]:
    """The one colour of an image of one colour."""
    image = decode_image(path, resolution=4, channels=channels)
    assert image.shape == (channels, 4, 4)
    assert image.dtype == torch.uint8
    assert (image == image[:, :1, :1]).all()
    return tuple(image[:, 0, 0].tolist())


# Classes and order


def test_subfolders_are_classes_sorted_by_name(tmp_path: Path) -> None:
    for name, color in (("dog", 20), ("cat", 10), ("eel", 30)):
        for index in (2, 1):
            save(tmp_path / name / f"{index}.png", color + index)
    data = open_dataset(tmp_path, resolution=4, channels=1)
    assert data.class_names == ("cat", "dog", "eel")
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [int(image[0, 0, 0]) for image, _ in data] == [11, 12, 21, 22, 31, 32]
    assert data.images is not None


def test_images_directly_in_the_folder_are_one_class(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path / "flowers" / f"{index}.png", index)
    data = open_dataset(str(tmp_path / "flowers"), resolution=4)
    assert (len(data), data.class_names, data.channels) == (3, ("flowers",), 3)


def test_nested_folders_and_upper_case_suffixes_belong_to_their_class(tmp_path: Path) -> None:
    save(tmp_path / "a" / "deep" / "er" / "X.JPG")
    save(tmp_path / "a" / "y.PNG")
    save(tmp_path / "b" / "z.bmp")
    assert open_dataset(tmp_path, resolution=4).labels.tolist() == [0, 0, 1]


def test_hidden_files_are_left_out_and_others_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a" / "x.png")
    save(tmp_path / "a" / ".hidden.png")
    save(tmp_path / ".thumbnails" / "y.png")
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "empty").mkdir()
    with caplog.at_level(logging.WARNING):
        data = open_dataset(tmp_path, resolution=4)
    assert (len(data), data.class_names) == (1, ("a",))
    assert "left out 1 files that are not images" in caplog.text
    assert "notes.txt" in caplog.text
    assert "sub-folder empty has no image" in caplog.text


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.png")
    save(tmp_path / "stray.png")
    with pytest.raises(ValueError, match=r"images in itself \(stray.png.*sub-folders \(such as a\)"):
        open_dataset(tmp_path, resolution=4)


@pytest.mark.skipif(os.name == "nt", reason="making links needs rights on Windows")
def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.png")
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert open_dataset(tmp_path, resolution=4).labels.tolist() == [0, 1]


def test_no_image_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no image in .*\(it is empty\)"):
        open_dataset(tmp_path, resolution=4)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "readme.md").write_text("x")
    with pytest.raises(ValueError, match=r"1 other files, such as readme\.md"):
        open_dataset(tmp_path, resolution=4)
    with pytest.raises(NotADirectoryError, match="not a folder"):
        open_dataset(tmp_path / "a" / "readme.md", resolution=4)


# Broken files


def broken_files(folder: Path) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is no picture")
    files = {"empty": folder / "empty.png", "text": folder / "text.png"}
    for suffix in ("png", "jpg", "bmp", "gif", "webp", "tif"):
        files[suffix] = truncate(noise(folder / f"cut.{suffix}"))
    return files


@pytest.mark.parametrize("kind", ["empty", "text", "png", "jpg", "bmp", "gif", "webp", "tif"])
def test_a_broken_file_is_named(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "good.png")
    broken = broken_files(tmp_path / "elsewhere")[kind]
    broken = broken.rename(tmp_path / broken.name)
    for path in (tmp_path / "elsewhere").iterdir():
        path.unlink()
    with pytest.raises(UnreadableImageError, match=f"cannot read image .*{broken.name}: "):
        open_dataset(tmp_path, resolution=4)


def test_broken_files_are_skipped_with_names_and_a_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = broken_files(tmp_path)
    for index in (0, 1):
        save(tmp_path / f"good{index}.png", 100 * index)
    with caplog.at_level(logging.WARNING):
        data = open_dataset(tmp_path, resolution=4, on_bad_image="skip", channels=1)
    assert [int(image[0, 0, 0]) for image, _ in data] == [0, 100]
    assert all(path.name in caplog.text for path in files.values())
    assert "skipped 8 of 10 images" in caplog.text


def test_labels_stay_right_when_files_are_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, color in (("a", 10), ("c", 30)):
        truncate(noise(tmp_path / name / "0.png"))
        save(tmp_path / name / "1.png", color)
    truncate(noise(tmp_path / "b" / "0.png"))
    with caplog.at_level(logging.WARNING):
        data = open_dataset(tmp_path, resolution=4, on_bad_image="skip", channels=1)
    assert [(int(image[0, 0, 0]), label) for image, label in data] == [(10, 0), (30, 2)]
    assert data.num_classes == 3
    assert "class b has no image that can be read" in caplog.text


def test_only_broken_files(tmp_path: Path) -> None:
    broken_files(tmp_path)
    with pytest.raises(UnreadableImageError, match=r"none of the 8 images can be read; the first: .*cut\.bmp"):
        open_dataset(tmp_path, resolution=4, on_bad_image="skip")


def test_read_on_access_agrees_with_in_memory(tmp_path: Path) -> None:
    for index in range(6):
        noise(tmp_path / "ab"[index % 2] / f"{index}.png", 20 + index)
    in_memory = open_dataset(tmp_path, resolution=16)
    on_access = open_dataset(tmp_path, resolution=16, cache=False)
    assert on_access.images is None
    assert len(on_access) == 6
    on_access = pickle.loads(pickle.dumps(on_access))
    for index in range(6):
        assert torch.equal(in_memory[index][0], on_access[index][0])
        assert in_memory[index][1] == on_access[index][1]


def test_on_access_a_broken_file_raises_or_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path / "a" / "0.png", 10)
    truncate(noise(tmp_path / "a" / "1.png"))
    save(tmp_path / "b" / "2.png", 20)
    strict = open_dataset(tmp_path, resolution=4, cache=False)
    with pytest.raises(UnreadableImageError, match=r"1\.png"):
        strict[1]
    lenient = open_dataset(tmp_path, resolution=4, cache=False, on_bad_image="skip")
    with caplog.at_level(logging.WARNING):
        image, label = lenient[1]
    assert (int(image[0, 0, 0]), label) == (10, 0)  # of its own class, though b/2.png is next
    assert "1.png" in caplog.text
    (tmp_path / "a" / "0.png").unlink()
    with pytest.raises(UnreadableImageError, match="no image of this class can be read"):
        lenient[1]
    assert isinstance(lenient._load, DecodeOnAccess)


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png")
    data = open_dataset(tmp_path, resolution=4, cache=False)
    path.unlink()
    with pytest.raises(UnreadableImageError, match=r"x\.png: no such file"):
        data[0]


# Every kind of file


def test_gray_becomes_three_equal_channels_and_colour_becomes_luma(tmp_path: Path) -> None:
    assert pixel(save(tmp_path / "gray.png", 77)) == (77, 77, 77)
    assert pixel(save(tmp_path / "gray.png", 77), channels=1) == (77,)
    assert pixel(save(tmp_path / "red.png", RED), channels=1) == (76,)  # 0.299 · 255


def test_transparency_lies_over_white(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(path)
    assert pixel(path) == WHITE
    Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(path)
    assert pixel(path) == pytest.approx((255, 127, 127), abs=1)
    Image.new("LA", (8, 8), (0, 128)).save(path)
    assert pixel(path, channels=1) == pytest.approx((127,), abs=1)
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(path, transparency=1)
    assert pixel(path) == WHITE
    palette.save(path)
    assert pixel(path) == RED


def test_cmyk_and_one_bit(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "x.jpg", quality=95)
    assert pixel(tmp_path / "x.jpg") == pytest.approx(RED, abs=4)
    Image.new("1", (8, 8), 1).save(tmp_path / "x.png")
    assert pixel(tmp_path / "x.png") == WHITE


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_gray_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    for value, expected in ((0, 0), (25700, 100), (65535, 255)):
        Image.fromarray(np.full((8, 8), value, dtype=np.uint16)).save(path)
        assert pixel(path, channels=1) == (expected,)
        assert pixel(path) == (expected,) * 3


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    # Pillow cannot write 16-bit RGB, so the PNG is put together here.
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + struct.pack(">3H", 65535, 25700, 0) * 8
    header = struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)
    path = tmp_path / "x.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 8)) + chunk(b"IEND", b"")
    )
    assert pixel(path) == (255, 100, 0)


def test_float_tiff_in_unit_range_only(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.full((8, 8), 0.4, dtype=np.float32)).save(path)
    assert pixel(path, channels=1) == (102,)
    for bad in (np.float32(12.0), np.float32("nan")):
        Image.fromarray(np.full((8, 8), bad, dtype=np.float32)).save(path)
        with pytest.raises(UnreadableImageError, match=r"x\.tif: its values span .* expected 0 to 1"):
            decode_image(path, resolution=4, channels=1)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_of_several_pictures_in_a_file_the_first(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 0, 255), (0, 255, 0))]
    path = tmp_path / f"x.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))
    with Image.open(path) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert pixel(path) == RED


def test_one_colour_declared_transparent(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for mode, color in (("L", 7), ("RGB", RED)):
        Image.new(mode, (8, 8), color).save(path, transparency=color)
        assert pixel(path) == WHITE
        Image.new(mode, (8, 8), color).save(path, transparency=9 if mode == "L" else (1, 2, 3))
        assert pixel(path) == (RED if mode == "RGB" else (7, 7, 7))
    # A palette whose entries have an opacity each.
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(path, transparency=bytes([255, 128]))
    assert pixel(path) == pytest.approx((255, 127, 127), abs=1)


def test_a_picture_too_large_to_be_meant_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "x.png", size=(64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImageError, match=r"x\.png: Image size \(4096 pixels\) exceeds limit"):
        open_dataset(tmp_path, resolution=4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 16), dtype=np.uint8)
    upright[:8, :8], upright[:8, 8:], upright[8:, :8] = 255, 170, 85
    # What a camera would store so that this orientation makes it upright again (EXIF 2.3, tag 274).
    store = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.T,
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(store[orientation](upright))).save(tmp_path / "x.png", exif=exif)
    image = decode_image(tmp_path / "x.png", resolution=16, channels=1)
    assert torch.equal(image[0], torch.from_numpy(upright))


def test_broken_exif_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), RED).save(tmp_path / "x.jpg", exif=b"Exif\0\0" + b"\xff" * 40, quality=95)
    assert pixel(tmp_path / "x.jpg") == pytest.approx(RED, abs=4)


@pytest.mark.parametrize("size", [(40, 20), (20, 40), (41, 20)])
def test_centre_square_is_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    array = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    left, top = (size[0] - 20) // 2, (size[1] - 20) // 2
    array[top : top + 20, left : left + 20] = 255
    Image.fromarray(array).save(tmp_path / "x.png")
    image = decode_image(tmp_path / "x.png", resolution=20, channels=3)
    assert (image == 255).all()


def test_large_jpeg_decoded_at_reduced_size_looks_the_same(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    array = np.stack([np.broadcast_to(ramp, (800, 800)), np.broadcast_to(ramp[:, None], (800, 800))], 2)
    array = np.concatenate([array, np.full((800, 800, 1), 99, np.uint8)], 2)
    Image.fromarray(array).save(tmp_path / "x.png")
    Image.fromarray(array).save(tmp_path / "x.jpg", quality=95, subsampling=0)
    exact = decode_image(tmp_path / "x.png", resolution=32, channels=3)
    draft = decode_image(tmp_path / "x.jpg", resolution=32, channels=3)
    assert (exact.int() - draft.int()).abs().max() <= 3


def test_tiny_images_are_enlarged(tmp_path: Path) -> None:
    assert pixel(save(tmp_path / "x.png", 9, size=(1, 1)), channels=1) == (9,)
    assert pixel(save(tmp_path / "x.png", 9, size=(1, 300)), channels=1) == (9,)
