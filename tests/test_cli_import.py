"""`ganfuse import`."""

from importlib import import_module
from pathlib import Path

import torch
from PIL import Image
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.interop import sources
from tests.interop import biggan_layouts as layouts
from tests.interop.plain_networks import drawn
from tests.interop.test_cyclegan_pix2pix import generator_layout


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def test_sample_from_an_imported_generator(tmp_path: Path) -> None:
    torch.save(drawn(layouts.generator(4, classes=5, shared=6, piece=5, attention_after=1)), tmp_path / "G.pth")
    result = run("import", "biggan-pytorch", tmp_path / "G.pth", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "biggan" in result.stdout
    drawn_images = run("sample", tmp_path / "run", "--out", tmp_path / "grid.png", "--classes", "0,3", "--num", 4)
    assert drawn_images.exit_code == 0, drawn_images.output
    assert (tmp_path / "grid.png").is_file()
    again = run("import", "biggan-pytorch", tmp_path / "G.pth", tmp_path / "run")
    assert again.exit_code == 2
    assert "already holds a run" in again.stderr


def test_an_imported_translator_translates_and_is_scored_on_data_that_are_named(tmp_path: Path) -> None:
    for name in "AB":
        torch.save(drawn(generator_layout(2, 1)), tmp_path / f"G_{name}.pth")
    back = ("--also", f"generator_ba={tmp_path / 'G_B.pth'}", "--set", "resolution=24")
    result = run("import", "cyclegan-pix2pix", tmp_path / "G_A.pth", tmp_path / "run", *back)
    assert result.exit_code == 0, result.output
    assert f"ganfuse translate {tmp_path / 'run'} IN OUT" in result.stdout
    grid = ("sample", tmp_path / "run", "--num", 2, "--out", tmp_path / "grid.png")
    refused = run(*grid)
    assert refused.exit_code == 2
    assert "hint: --data names some" in refused.stderr
    shown = run(*grid, "--data", "digits-thick")
    assert shown.exit_code == 0, shown.stderr
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (6 * 26 + 2, 2 * 26 + 2)
    scoring = ("evaluate", tmp_path / "run", "--num", 4, "--metrics", "fid", "--extractor", "random")
    refused = run(*scoring)
    assert refused.exit_code == 2
    assert "does not say which data the run was trained on" in refused.stderr
    assert "--data" in refused.stderr
    scored = run(*scoring, "--data", "digits-thick", "--paired")
    assert scored.exit_code == 0, scored.stderr
    assert scored.stdout.splitlines()[0].split()[-2:] == ["paired_ab", "paired_ba"]
    assert "4 raw samples against 4 pairs of digits-thick" in scored.stdout


def test_both_players(tmp_path: Path) -> None:
    torch.save(drawn(layouts.generator(4, classes=5, shared=6, piece=5, attention_after=1)), tmp_path / "G.pth")
    torch.save(drawn(layouts.discriminator(4, classes=5, attention_after=(0,))), tmp_path / "D.pth")
    both = ("--also", f"discriminator={tmp_path / 'D.pth'}")
    assert run("import", "biggan-pytorch", tmp_path / "G.pth", tmp_path / "run", *both).exit_code == 0
    wrong = run("import", "biggan-pytorch", tmp_path / "G.pth", tmp_path / "x", "--also", "D.pth")
    assert (wrong.exit_code, "--also expects PART=FILE" in wrong.stderr) == (2, True)


def test_what_cannot_be_imported(tmp_path: Path) -> None:
    missing = run("import", "biggan-pytorch", tmp_path / "G.pth", tmp_path / "run")
    assert (missing.exit_code, "there is no file" in missing.stderr) == (2, True)
    unknown = run("import", "biggan", tmp_path / "G.pth", tmp_path / "run")
    assert unknown.exit_code == 2
    assert all(name in unknown.stderr for name in sources())
    assert not (tmp_path / "run").exists()


def test_the_help_names_the_sources() -> None:
    text = " ".join((import_module("ganfuse.commands.import_").import_.__doc__ or "").split())
    listed = text.partition("Sources: ")[2].partition(".")[0].split(", ")
    assert listed == sources()
