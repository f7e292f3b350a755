"""`ganfuse sample` and `ganfuse evaluate` of models that draw pairs, or reconstruct images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.engine import load_run
from ganfuse.engine.data import open_dataset


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step of CoGAN. Tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "pairs"
    tiny = [argument for key in ("width", "discriminator_width") for argument in ("--set", f"{key}=1")]
    result = run("train", "cogan", "--out", out, "--steps", 1, "--batch-size", 2, "--resolution", 28, *tiny)
    assert result.exit_code == 0, result.stderr
    return out


def test_rows_of_a_above_rows_of_b(trained, tmp_path):
    def drawn(*options: object) -> np.ndarray:
        result = run("sample", trained, "--num", 4, "--columns", 2, "--out", tmp_path / "grid.png", *options)
        assert result.exit_code == 0, result.stderr
        with Image.open(tmp_path / "grid.png") as picture:
            return np.array(picture)[2:, 2:]

    both = drawn().reshape(4, 30, -1)
    first, second = (drawn("--domain", domain).reshape(2, 30, -1) for domain in "ab")
    assert np.array_equal(both[::2], first)
    assert np.array_equal(both[1::2], second)
    assert not np.array_equal(first, second)
    assert np.array_equal(drawn("--domain", "both").reshape(4, 30, -1), both)
    pairs = load_run(trained).sample_pairs(4, rng=torch.Generator().manual_seed(0))
    pixels = pairs[1][0, 0].add(1).mul(127.5).round()
    assert np.array_equal(second[0, :28, :28], pixels.numpy().astype(np.uint8))


def test_rows_that_are_not_filled(trained, tmp_path):
    result = run("sample", trained, "--num", 9, "--out", tmp_path / "grid.png")
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "grid.png") as picture:
        cells = np.array(picture)[2:, 2:].reshape(4, 30, 8, 30)[:, :28, :, :28]
    assert (cells[2:, :, 1:] == 255).all()
    pairs = load_run(trained).sample_pairs(9, rng=torch.Generator().manual_seed(0))
    for row, images in zip((2, 3), pairs):
        pixels = images[8, 0].add(1).mul(127.5).round()
        assert np.array_equal(cells[row, :, 0], pixels.numpy().astype(np.uint8))


def test_what_does_not_go_together(trained, tmp_path):
    result = run("sample", trained, "--npz", tmp_path / "x.npz", "--num", 3, "--domain", "both")
    assert (result.exit_code, "an archive holds one domain" in result.stderr) == (2, True)
    assert run("sample", trained, "--npz", tmp_path / "x.npz", "--num", 3).exit_code == 0
    assert np.load(tmp_path / "x.npz")["arr_0"].shape == (3, 28, 28, 1)
    for option in ("--data", "--split"):
        result = run("sample", trained, option, "digits-thick")
        assert (result.exit_code, f"{option}: cogan draws from noise" in result.stderr) == (2, True)


def test_scores_of_both_domains(trained):
    result = run("evaluate", trained, "--extractor", "random", "--num", 20, "--device", "cpu", "--metrics", "fid")
    assert result.exit_code == 0, result.stderr
    header, row, about = result.stdout.splitlines()
    assert header.split() == ["step", "fid", "fid_a", "fid_b"]
    mean, first, second = (float(value) for value in row.split()[1:])
    assert mean == pytest.approx((first + second) / 2, rel=1e-3)
    assert about.startswith("20 raw samples against 20 images of digits-thick")


def test_images_above_their_reconstructions(tmp_path):
    out, grid = tmp_path / "run", tmp_path / "grid.png"
    tiny = ("--steps", 1, "--batch-size", 2, "--resolution", 12, "--set", "width=4", "--set", "num_samples=4")
    assert run("train", "bigan", "--data", "digits", "--out", out, *tiny).exit_code == 0
    result = run("sample", out, "--reconstruct", "--num", 4, "--columns", 2, "--out", grid)
    assert result.exit_code == 0, result.stderr
    with Image.open(grid) as picture:
        rows = torch.from_numpy(np.array(picture)[2:, 2:].reshape(4, 14, 2, 14)[:, :12, :, :12].transpose(0, 2, 1, 3))
    images, shown = (rows[start::2].reshape(4, 1, 12, 12) / 127.5 - 1 for start in (0, 1))
    torch.testing.assert_close(load_run(out).reconstruct(images), shown, atol=0.005, rtol=0)
    result = run("evaluate", out, "--extractor", "random", "--num", 1797, "--metrics", "fid", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    header, row, _ = result.stdout.splitlines()
    assert header.split() == ["step", "fid", "reconstruction"]
    pixels = torch.stack([image for image, _ in open_dataset("digits", resolution=12)]) / 127.5 - 1
    lost = (load_run(out).reconstruct(pixels) - pixels).abs().mean()
    assert float(row.split()[2]) == pytest.approx(float(lost), rel=1e-3)


def test_reconstructions_of_fewer_images_than_are_usual(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        Image.new("L", (8, 8), 60 * index).save(pictures / f"{index}.png")
    options = ("--resolution", 8, "--steps", 1, "--batch-size", 2, "--set", "width=2", "--device", "cpu")
    result = run("train", "bigan", "--data", pictures, "--out", tmp_path / "run", *options)
    assert result.exit_code == 0, result.stderr
    result = run("sample", tmp_path / "run", "--reconstruct", "--out", tmp_path / "grid.png")
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (3 * 10 + 2, 2 * 10 + 2)
