"""`ganfuse translate` on a tiny run, and on a translator that is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.commands import translate
from ganfuse.engine import load_run
from ganfuse.engine.data.image_decoding import decode_image

TINY = ["width=2", "blocks=1", "discriminator_layers=1", "num_samples=6", "log_every=1"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A run of two steps in colour. Tests must not change it."""
    out = tmp_path_factory.mktemp("runs") / "colour"
    settings = [argument for setting in (*TINY, "channels=3") for argument in ("--set", setting)]
    options = ["--resolution", 16, "--batch-size", 2, "--steps", 2]
    result = run("train", "cyclegan", "--data", "digits-thick", "--out", out, *options, *settings)
    assert result.exit_code == 0, result.stderr
    return out, result


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for name, (height, width) in {"a.png": (16, 16), "b/a.png": (13, 18), "b/c.jpg": (5, 40)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
    Image.new("L", (20, 20), 99).save(folder / "gray.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_run_of_a_translator_says_how_to_use_it(trained):
    out, result = trained
    assert "899 and 898 images of 3×16×16" in result.stderr
    assert f"ganfuse translate {out} IN OUT" in result.stdout
    assert "ganfuse sample" not in result.stdout


def test_fewer_images_than_usual_are_all_shown(trained, photos, tmp_path):
    """Of a small domain there need not be eight."""
    few = tmp_path / "few"
    for name, count in (("A", 3), ("B", 2)):
        (few / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (16, 16), (80 * index, 0, 0)).save(few / name / f"{index}.png")
    result = run("sample", trained[0], "--data", few, "--out", tmp_path / "grid.png")
    assert result.exit_code == 0, result.stderr
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (6 * 18 + 2, 2 * 18 + 2)
    more = run("sample", trained[0], "--data", few, "--out", tmp_path / "grid.png", "--num", 3)
    assert (more.exit_code, f"--num: {few} has 2 images, got 3" in more.stderr) == (2, True)


def test_a_grid_of_sources_translations_and_cycles(trained, tmp_path):
    folder, grid = trained[0], tmp_path / "grid.png"
    result = run("sample", folder, "--num", 3, "--out", grid, "--seed", 5)
    assert result.exit_code == 0, result.stderr
    with Image.open(grid) as picture:
        assert picture.size == (6 * 18 + 2, 3 * 18 + 2)
        cells = [np.array(picture.crop((2 + 18 * i, 2, 18 + 18 * i, 18))) for i in range(6)]
    game = load_run(folder)
    for source, there in ((0, "ab"), (3, "ba")):
        image = torch.from_numpy(cells[source]).permute(2, 0, 1)[None] / 127.5 - 1
        translated = game.translate(image, there)
        for cell, expected in ((source + 1, translated), (source + 2, game.translate(translated, there[::-1]))):
            pixels = expected[0].permute(1, 2, 0).add(1).mul(127.5)
            assert (torch.from_numpy(cells[cell]) - pixels).abs().max() <= 0.51
    assert run("sample", folder, "--num", 3, "--out", tmp_path / "other.png", "--seed", 6).exit_code == 0
    assert (tmp_path / "other.png").read_bytes() != grid.read_bytes()


def test_a_grid_of_other_pictures(trained, photos, tmp_path):
    grid = tmp_path / "grid.png"
    source = f"a={photos / 'b'},b={photos / 'b'}"
    result = run("sample", trained[0], "--num", 2, "--columns", 12, "--data", source, "--out", grid)
    assert result.exit_code == 0, result.stderr
    with Image.open(grid) as picture:
        assert picture.size == (12 * 18 + 2, 18 + 2)
    result = run("sample", trained[0], "--num", 3, "--data", source, "--out", grid)
    assert result.exit_code == 2
    assert "has 2 images, got 3" in result.stderr
    for option in (("--npz", tmp_path / "x.npz"), ("--classes", "each"), ("--truncation", 0.5), ("--domain", "a")):
        result = run("sample", trained[0], *option)
        assert result.exit_code == 2
        assert f"{option[0]}: nothing is drawn from noise here" in result.stderr
    result = run("sample", trained[0], "--reconstruct")
    assert (result.exit_code, "--reconstruct: cyclegan has no encoder" in result.stderr) == (2, True)


def test_scores_of_translations(trained, tmp_path):
    common = ("--extractor", "random", "--num", 20, "--device", "cpu")
    result = run("evaluate", trained[0], *common, "--metrics", "fid")
    assert result.exit_code == 0, result.stderr
    header, row, about = result.stdout.splitlines()
    assert header.split() == ["step", "fid", "fid_ab", "fid_ba", "cycle_a", "cycle_b"]
    assert row.split()[0] == "2"
    assert about.startswith("20 raw samples against 20 images of digits-thick; features: random")
    result = run("evaluate", trained[0], *common, "--paired", "--metrics", "kid", "--json", tmp_path / "scores.json")
    assert result.exit_code == 0, result.stderr
    header, _, about = result.stdout.splitlines()
    assert header.split() == ["step", "kid", "kid_ab", "kid_ba", "cycle_a", "cycle_b", "paired_ab", "paired_ba"]
    assert "against 20 pairs of digits-thick" in about
    result = run("evaluate", trained[0], *common, "--truncation", 0.5)
    assert (result.exit_code, "truncation: cyclegan translates images" in result.stderr) == (2, True)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_folder_with_names_sizes_and_padding(trained, photos, tmp_path, batch_size):
    folder, out = trained[0], tmp_path / "translated"
    result = run("translate", folder, photos, out, "--batch-size", batch_size, "--direction", "ba")
    assert result.exit_code == 0, result.stderr
    assert names(out) == ["a.png", "b/a.png", "b/c.jpg", "gray.png"]
    for name in names(out):
        with Image.open(photos / name) as before, Image.open(out / name) as after:
            assert (after.size, after.mode) == (before.size, "RGB")
    assert "Translated 4 pictures" in result.stdout
    assert "2 of 4 pictures were padded as in a mirror and cropped back: cyclegan takes sides" in result.stderr
    # The same as from Python, to the rounding of the file.
    game = load_run(folder)
    with Image.open(photos / "a.png") as picture, Image.open(out / "a.png") as after:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        expected = game.translate(pixels, "ba")[0].permute(1, 2, 0).add(1).mul(127.5)
        assert (torch.from_numpy(np.array(after)) - expected).abs().max() <= 0.51
        assert (game.translate(pixels, "ab") - game.translate(pixels, "ba")).abs().max() > 0.02


class Identity(nn.Module):
    def forward(self, images):
        assert images.shape[2] % 8 == images.shape[3] % 8 == 0
        assert min(images.shape[2:]) >= 32
        return images


def test_padding_and_cropping_give_back_every_pixel(trained, photos, tmp_path, monkeypatch):
    game = load_run(trained[0])
    game.generator_ab, game.size_multiple, game.least_size = Identity(), 8, 32
    monkeypatch.setattr(translate, "load_for_sampling", lambda *a: game)
    result = run("translate", trained[0], photos, tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    for name in ("a.png", "b/a.png"):
        with Image.open(photos / name) as before, Image.open(tmp_path / "out" / name) as after:
            assert np.array_equal(np.array(before), np.array(after))
    assert "4 of 4 pictures were padded" in result.stderr


def test_a_network_of_one_size(trained, photos, tmp_path, monkeypatch):
    game = load_run(trained[0])
    game.generator_ab, game.least_size, game.one_size = nn.Identity(), 16, True
    monkeypatch.setattr(translate, "load_for_sampling", lambda *a: game)
    result = run("translate", trained[0], photos / "b" / "a.png", tmp_path / "out")
    assert result.exit_code == 2
    assert "is 18×13, and this cyclegan takes 16×16 alone" in result.stderr
    assert "--resize train" in result.stderr
    assert run("translate", trained[0], photos, tmp_path / "out", "--resize", "train").exit_code == 0


def test_where_the_network_looks(trained, photos, tmp_path, monkeypatch):
    game = load_run(trained[0])
    monkeypatch.setattr(translate, "load_for_sampling", lambda *a: game)
    options = ("--heat-map", tmp_path / "heat", "--batch-size", 2)
    result = run("translate", trained[0], photos, tmp_path / "out", *options)
    assert result.exit_code == 2
    assert "--heat-map: cyclegan does not say where it looks" in result.stderr
    shown = []

    def heat_map(images, direction):
        shown.append((tuple(images.shape), direction))
        return torch.ones(len(images), 1, *images.shape[2:])

    game.heat_map = heat_map
    result = run("translate", trained[0], photos, tmp_path / "out", *options, "--direction", "ba")
    assert result.exit_code == 0, result.stderr
    assert names(tmp_path / "heat") == names(tmp_path / "out") == ["a.png", "b/a.png", "b/c.jpg", "gray.png"]
    assert {direction for _, direction in shown} == {"ba"}
    with Image.open(tmp_path / "heat/b/a.png") as picture, Image.open(photos / "b/a.png") as before:
        assert picture.size == before.size
        pixels, gray = np.array(picture).astype(float), np.array(before).mean(2)
    assert np.abs(pixels - (gray[:, :, None] + 255) / 2).max() <= 1
    assert "already there" in run("translate", trained[0], photos, tmp_path / "new", *options).stderr
    same = run("translate", trained[0], photos, tmp_path / "x", "--heat-map", tmp_path / "x")
    assert "would have the same names" in same.stderr


def test_there_and_back(trained, photos, tmp_path):
    folder = trained[0]
    result = run("translate", folder, photos, tmp_path / "out", "--cycle", tmp_path / "back", "--batch-size", 2)
    assert result.exit_code == 0, result.stderr
    assert names(tmp_path / "back") == names(tmp_path / "out")
    game = load_run(folder)
    with Image.open(photos / "a.png") as picture, Image.open(tmp_path / "back/a.png") as after:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 127.5 - 1
        expected = game.translate(game.translate(pixels, "ab"), "ba")[0].permute(1, 2, 0).add(1).mul(127.5)
        assert (torch.from_numpy(np.array(after)) - expected).abs().max() <= 0.51
    with Image.open(photos / "b/a.png") as before, Image.open(tmp_path / "back/b/a.png") as after:
        assert after.size == before.size
    same = run("translate", folder, photos, tmp_path / "x", "--cycle", tmp_path / "x")
    assert "--cycle: pictures of both kinds would have the same names" in same.stderr
    assert "already there" in run("translate", folder, photos, tmp_path / "x", "--cycle", tmp_path / "back").stderr


@pytest.fixture(scope="module")
def cropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the full U-GAT-IT on crops: it takes one size alone, and says where it looks."""
    out = tmp_path_factory.mktemp("runs") / "crops"
    settings = ["width=2", "blocks=1", "crop=16", "channels=3", "num_samples=6"]
    options = ["--resolution", 20, "--batch-size", 2, "--steps", 1]
    sets = [argument for setting in settings for argument in ("--set", setting)]
    result = run("train", "ugatit", "--data", "digits-thick", "--out", out, *options, *sets)
    assert result.exit_code == 0, result.stderr
    return out


def test_the_size_of_training_is_that_of_the_crops(cropping, photos, tmp_path):
    result = run("translate", cropping, photos, tmp_path / "out", "--resize", "train")
    assert result.exit_code == 0, result.stderr
    for name in names(tmp_path / "out"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.size == (16, 16)
    # The whole picture is there, not its middle.
    game = load_run(cropping)
    pixels = decode_image(photos / "b" / "a.png", resolution=16, channels=3)[None] / 127.5 - 1
    with Image.open(tmp_path / "out/b/a.png") as after:
        expected = game.translate(pixels)[0].permute(1, 2, 0).add(1).mul(127.5)
        assert (torch.from_numpy(np.array(after)) - expected).abs().max() <= 0.51
    result = run("translate", cropping, photos / "a.png", tmp_path / "kept")
    assert result.exit_code == 0, result.stderr
    result = run("translate", cropping, photos / "gray.png", tmp_path / "kept")
    assert "takes 16×16 alone" in result.stderr
    assert "--resize train" in result.stderr
    Image.new("RGB", (9, 16)).save(tmp_path / "narrow.png")
    result = run("translate", cropping, tmp_path / "narrow.png", tmp_path / "kept")
    assert "1 of 1 pictures were padded as in a mirror and cropped back: ugatit takes 16×16 alone" in result.stderr


@pytest.mark.parametrize("option", ["--heat-map", "--cycle"])
def test_pictures_to_translate_are_never_written_over(cropping, photos, tmp_path, option):
    """Whatever the option and the way to it, --overwrite included."""

    def error(source: Path, out: Path, *arguments: object) -> str:
        result = run("translate", cropping, source, out, "--resize", "train", "--overwrite", *arguments)
        assert result.exit_code == 2
        return result.stderr

    before = {name: (photos / name).read_bytes() for name in names(photos)}
    assert f"{option}: {photos} lies in IN" in error(photos, tmp_path / "out", option, photos)
    assert f"{option}: {photos / 'b'} lies in IN" in error(photos, tmp_path / "out", option, photos / "b")
    one = error(photos / "a.png", tmp_path / "out", option, photos)
    assert f"{option}: {photos / 'a.png'} is a picture to translate itself" in one
    # Names under the folder above those to translate may be theirs.
    (photos / "b" / "b").mkdir()
    (photos / "b" / "b" / "a.png").write_bytes(before["a.png"])
    assert "OUT: " in error(photos / "b", photos)
    assert "a.png is a picture to translate itself" in error(photos / "b", tmp_path / "out", option, photos)
    assert {name: (photos / name).read_bytes() for name in before} == before
    assert not (tmp_path / "out").exists()


def test_one_picture_and_the_size_of_training(trained, photos, tmp_path):
    folder = trained[0]
    assert run("translate", folder, photos / "b" / "a.png", tmp_path / "one.webp", "--resize", "train").exit_code == 0
    with Image.open(tmp_path / "one.webp") as picture:
        assert picture.size == (16, 16)
    (tmp_path / "into").mkdir()
    result = run("translate", folder, photos / "b" / "a.png", tmp_path / "into", "--weights", "raw")
    assert result.exit_code == 0
    assert names(tmp_path / "into") == ["a.png"]
    assert "Translated 1 picture to" in result.stdout


def test_nothing_is_replaced_unasked(trained, photos, tmp_path):
    out = tmp_path / "out"
    (out / "b").mkdir(parents=True)
    (out / "a.png").write_text("precious")
    (out / "b" / "c.jpg").write_text("too")
    result = run("translate", trained[0], photos, out)
    assert result.exit_code == 2
    assert f"OUT: {out / 'a.png'} and 1 more already there" in result.stderr
    assert "--overwrite" in result.stderr
    assert names(out) == ["a.png", "b/c.jpg"]
    assert (out / "a.png").read_text() == "precious"
    assert run("translate", trained[0], photos, out, "--overwrite").exit_code == 0
    assert len(names(out)) == 4


def test_broken_pictures(trained, photos, tmp_path):
    (photos / "b" / "broken.png").write_bytes((photos / "a.png").read_bytes()[:200])
    result = run("translate", trained[0], photos, tmp_path / "one")
    assert result.exit_code == 2
    assert f"cannot read image {photos / 'b' / 'broken.png'}" in result.stderr
    result = run("translate", trained[0], photos, tmp_path / "two", "--on-bad-image", "skip")
    assert result.exit_code == 0
    assert "Translated 4 pictures" in result.stdout
    assert "skipped 1 that cannot be read" in result.stdout
    assert str(photos / "b" / "broken.png") in result.stderr
    result = run("translate", trained[0], photos / "b" / "broken.png", tmp_path / "x.png", "--on-bad-image", "skip")
    assert result.exit_code == 1
    assert "none of the 1 pictures can be read" in result.stderr


def test_what_cannot_be_done_is_refused_with_a_reason(trained, photos, tmp_path):
    folder = trained[0]

    def error(*arguments: object) -> str:
        result = run("translate", *arguments)
        assert result.exit_code == 2
        return result.stderr

    file = tmp_path / "file"
    file.write_text("")
    assert "no such file or folder" in error(folder, tmp_path / "nothing", tmp_path / "out")
    assert "lies in IN" in error(folder, photos, photos)
    assert "lies in IN" in error(folder, photos, photos / "b" / "out")
    assert "is a picture to translate itself" in error(folder, photos / "a.png", photos, "--overwrite")
    assert "must name a format" in error(folder, photos / "notes.txt", tmp_path / "out")
    assert "is a file, expected a folder" in error(folder, photos, file)
    (tmp_path / "empty").mkdir()
    assert "there is no picture" in error(folder, tmp_path / "empty", tmp_path / "out")
    assert "no checkpoint of step 7" in error(folder, photos, tmp_path / "out", "--checkpoint", 7)
    assert "'latest', 'best' or a step, got 'x'" in error(folder, photos, tmp_path / "out", "--checkpoint", "x")
    assert "not the folder of a run" in error(tmp_path / "empty", photos, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_does_not_translate(photos, tmp_path):
    options = ["--data", "digits", "--resolution", 32, "--steps", 1, "--batch-size", 2, "--out", tmp_path / "run"]
    assert run("train", "sagan", *options, "--set", "width=2", "--set", "num_samples=2").exit_code == 0
    result = run("translate", tmp_path / "run", photos, tmp_path / "out")
    assert result.exit_code == 2
    assert "is a run of sagan, which does not translate pictures" in result.stderr
    assert "ganfuse sample" in result.stderr
