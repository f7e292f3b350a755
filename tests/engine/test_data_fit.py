"""How pictures become square: crop, squash and pad; pictures side by side."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganfuse.engine.data import UnreadableImageError, open_dataset
from ganfuse.engine.data.image_decoding import decode_columns, decode_image
from ganfuse.engine.data.image_fit import fit_image


def stripes(*levels: int, width: int = 12, height: int = 12) -> Image.Image:
    """Vertical stripes of equal width."""
    row = np.repeat(np.array(levels, dtype=np.uint8), width // len(levels))
    return Image.fromarray(np.broadcast_to(row, (height, len(row))).copy())


def test_crop_keeps_the_middle_squash_and_pad_the_whole() -> None:
    wide = stripes(10, 100, 200, width=36)
    assert set(np.unique(np.asarray(fit_image(wide, 12, "crop")))) == {100}
    squashed = np.asarray(fit_image(wide, 12, "squash"))
    assert [squashed[6, x] for x in (1, 6, 10)] == pytest.approx([10, 100, 200], abs=2)
    padded = np.asarray(fit_image(wide, 12, "pad"))
    assert not padded[:4].any()
    assert not padded[8:].any()
    assert [padded[6, x] for x in (1, 6, 10)] == pytest.approx([10, 100, 200], abs=2)
    tall = np.asarray(fit_image(wide.transpose(Image.Transpose.ROTATE_90), 12, "pad"))
    assert not tall[:, :4].any()
    assert not tall[:, 8:].any()


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(1, 300), (300, 1), (7, 5), (64, 64)])
def test_any_shape_becomes_the_square(resize: str, size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (9, 99, 199)).save(tmp_path / "x.png")
    image = decode_image(tmp_path / "x.png", resolution=16, channels=3, resize=resize)  # type: ignore[arg-type]
    assert image.shape == (3, 16, 16)
    assert image.amax(dim=(1, 2)).tolist() == [9, 99, 199]


def test_the_option_reaches_files(tmp_path: Path) -> None:
    stripes(10, 100, 200, width=36).save(tmp_path / "x.png")
    corners = {
        resize: int(open_dataset(tmp_path, resolution=12, channels=1, resize=resize)[0][0][0, 6, 0])  # type: ignore[arg-type]
        for resize in ("crop", "squash", "pad")
    }
    assert corners == pytest.approx({"crop": 100, "squash": 10, "pad": 10}, abs=2)
    with pytest.raises(ValueError, match="resize must be one of 'crop', 'squash', 'pad', got 'stretch'"):
        open_dataset(tmp_path, resolution=12, resize="stretch")  # type: ignore[call-overload]


def test_columns_are_fitted_each_by_itself(tmp_path: Path) -> None:
    stripes(50, 150, width=48, height=12).save(tmp_path / "x.png")
    both = decode_columns(tmp_path / "x.png", 2, resolution=8, channels=1)
    assert both.shape == (2, 1, 8, 8)
    assert (both[0] == 50).all()
    assert (both[1] == 150).all()
    whole = decode_columns(tmp_path / "x.png", 1, resolution=8, channels=1)
    assert torch.equal(whole[0], decode_image(tmp_path / "x.png", resolution=8, channels=1))
    with pytest.raises(UnreadableImageError, match="48 pixels wide, which 5 pictures side by side cannot be"):
        decode_columns(tmp_path / "x.png", 5, resolution=8, channels=1)


def test_columns_of_a_large_jpeg(tmp_path: Path) -> None:
    stripes(40, 200, width=1028, height=514).save(tmp_path / "x.jpg", quality=95)
    both = decode_columns(tmp_path / "x.jpg", 2, resolution=16, channels=1)
    # Right up to the seam: nothing of one picture is in the other.
    assert (both[0].int() - 40).abs().max() <= 3
    assert (both[1].int() - 200).abs().max() <= 3
