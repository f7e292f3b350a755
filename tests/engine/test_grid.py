"""Sample grids: layout, values, files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganfuse.engine.grid import make_grid, save_grid


def levels(*values: float, channels: int = 1, height: int = 2, width: int = 3) -> torch.Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, channels, height, width)


def test_layout() -> None:
    grid = make_grid(levels(-1.0, 0.0, 1.0, -0.5, 0.5), columns=3, padding=1)
    assert grid.dtype == torch.uint8
    assert grid.shape == (1, 1 + 2 * (2 + 1), 1 + 3 * (3 + 1))
    cells = grid[0, 1:, 1:].unfold(0, 2, 3).unfold(1, 3, 4)  # rows, columns, height, width
    assert (cells == cells[..., :1, :1]).all()
    assert cells[..., 0, 0].tolist() == [[0, 128, 255], [64, 191, 255]]  # the last cell is blank
    lines = grid[0, ::3], grid[0, :, ::4]
    assert all((line == 255).all() for line in lines)


def test_values_are_rounded_and_clipped() -> None:
    images = levels(-3.0, -1.0, -0.999, 0.999, 1.0, 3.0)
    assert make_grid(images, columns=6, padding=0)[0, 0, ::3].tolist() == [0, 0, 0, 255, 255, 255]
    # Every 8-bit level survives the round trip through [-1, 1], whatever the float type.
    every = torch.arange(256).view(1, 1, 16, 16)
    for dtype in (torch.float32, torch.float64):
        assert torch.equal(make_grid(every.to(dtype) / 127.5 - 1, padding=0).long(), every[0])


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4), (64, 8)])
def test_about_square_by_default(count: int, columns: int) -> None:
    assert make_grid(torch.zeros(count, 1, 1, 1), padding=0).shape[2] == columns


def test_more_columns_than_images() -> None:
    assert make_grid(torch.zeros(3, 1, 1, 1), columns=10, padding=0).shape == (1, 1, 3)


def test_scale_repeats_pixels() -> None:
    image = torch.tensor([[-1.0, 1.0], [0.0, -1.0]]).view(1, 1, 2, 2)
    expected = np.kron(np.array([[0, 255], [128, 0]]), np.ones((3, 3), dtype=int))
    assert make_grid(image, padding=0, scale=3)[0].tolist() == expected.tolist()
    assert make_grid(image, padding=2, scale=3).shape == (1, 10, 10)


def test_file_has_the_pixels_of_the_grid(tmp_path: Path) -> None:
    images = torch.rand(6, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    path = save_grid(images, tmp_path / "new" / "folder" / "grid.png", columns=3)
    assert path == tmp_path / "new" / "folder" / "grid.png"
    with Image.open(path) as picture:
        assert picture.mode == "RGB"
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert torch.equal(pixels, make_grid(images, columns=3))
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]
    gray = save_grid(images[:, :1], str(tmp_path / "gray.png"))
    with Image.open(gray) as picture:
        assert picture.mode == "L"


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp"])
def test_other_formats_by_the_ending(tmp_path: Path, suffix: str) -> None:
    path = save_grid(torch.zeros(1, 3, 4, 4), tmp_path / f"grid.{suffix}")
    with Image.open(path) as picture:
        assert picture.size == (8, 8)


def test_tensors_with_gradients_and_low_precision() -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    assert make_grid(images, padding=0).unique().tolist() == [128]
    nhwc = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert make_grid(nhwc).shape == (3, 8, 14)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 4, 4), r"\(N, C, H, W\) with C = 1 or 3, got shape \(3, 4, 4\)"),
        (torch.zeros(1, 2, 4, 4), r"C = 1 or 3, got shape \(1, 2, 4, 4\)"),
        (torch.zeros(0, 3, 4, 4), "at least one pixel"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), r"float in \[-1, 1\], got torch.uint8"),
        (levels(0.0, float("nan"), float("inf")), "2 of 3 images have NaN or infinite"),
    ],
)
def test_wrong_images(images: torch.Tensor, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_grid(images, tmp_path / "grid.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", [{"columns": 0}, {"padding": -1}, {"scale": 0}])
def test_wrong_settings(setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        make_grid(torch.zeros(1, 1, 2, 2), **setting)


@pytest.mark.parametrize("name", ["grid", "grid.txt"])
def test_unknown_ending(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="its ending must name a format"):
        save_grid(torch.zeros(1, 1, 2, 2), tmp_path / name)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_grid(torch.zeros(1, 1, 2, 2), tmp_path / "grid.png")
    before = path.read_bytes()

    def fail(self: Image.Image, file: object, format: str) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_grid(torch.ones(1, 1, 2, 2), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]
