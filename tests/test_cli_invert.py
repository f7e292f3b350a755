"""`ganfuse invert` on a tiny run, with pictures that its generator made."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner, Result

from ganfuse import cli
from ganfuse.commands import invert as command
from ganfuse.engine import load_run
from ganfuse.engine.grid import save_grid
from tests.engine.inversion_toys import ToyStyleGenerator, toy_game

TINY = ["width=2", "latent_dim=3", "num_classes=3", "channels=1"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def errors(result: Result) -> dict[str, float]:
    """Mean square errors by what is printed before them."""
    lines = [line.split("mean square error") for line in result.stdout.splitlines() if "mean square error" in line]
    return {label.strip(): float(rest.split(",")[0]) for label, rest in lines}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of two steps, and a picture of class 2 that it made. Tests must not change it."""
    folder = tmp_path_factory.mktemp("runs")
    settings = [argument for setting in TINY for argument in ("--set", setting)]
    options = ["--resolution", 32, "--batch-size", 4, "--steps", 2]
    pictures = folder / "pictures"
    generator = torch.Generator().manual_seed(0)
    for label in "abc":
        for index in range(4):
            images = torch.rand(1, 1, 32, 32, generator=generator) * 2 - 1
            save_grid(images, pictures / label / f"{index}.png", padding=0)
    result = run("train", "sagan", "--data", pictures, "--out", folder / "run", *options, *settings)
    assert result.exit_code == 0, result.stderr
    game = load_run(folder / "run")
    image = game.sample(1, labels=2, rng=torch.Generator().manual_seed(5))
    save_grid(image, folder / "made.png", padding=0)
    return folder / "run", folder / "made.png"


def test_finds_a_latent_and_writes_it(trained: tuple[Path, Path], tmp_path: Path) -> None:
    folder, picture = trained
    out = tmp_path / "inverted"
    call = ("invert", folder, picture, "--steps", 30, "--restarts", 2, "--class", "c", "--device", "cpu")
    result = run(*call, "--out", out)
    assert result.exit_code == 0, result.stderr
    found = errors(result)
    assert found["found"] < 0.5 * found["at the start"]
    assert "PSNR" in result.stdout
    assert [line.split() for line in result.stdout.splitlines() if "class" in line] == [["class", "c"]]
    assert sorted(path.name for path in out.iterdir()) == ["comparison.png", "latent.safetensors", "reconstruction.png"]
    latent = load_file(out / "latent.safetensors")
    assert latent["labels"].tolist() == [2]
    with safe_open(out / "latent.safetensors", "pt") as file:
        assert file.metadata()["space"] == "z"
        assert float(file.metadata()["error"]) == pytest.approx(found["found"], rel=0.01)
    game = load_run(folder)
    with torch.no_grad():
        image = game.generator(latent["latents"], latent["labels"])
    save_grid(image, tmp_path / "again.png", padding=0)
    with Image.open(tmp_path / "again.png") as again, Image.open(out / "reconstruction.png") as written:
        assert again.tobytes() == written.tobytes()
        assert written.size == (32, 32)
    with Image.open(out / "comparison.png") as both:
        assert both.size == (70, 36)
    assert run(*call, "--out", tmp_path / "twice").exit_code == 0
    assert torch.equal(load_file(tmp_path / "twice/latent.safetensors")["latents"], latent["latents"])
    assert run(*call, "--noise-strength", 0, "--out", tmp_path / "quiet").exit_code == 0
    assert not torch.equal(load_file(tmp_path / "quiet/latent.safetensors")["latents"], latent["latents"])


def test_encoder_features_and_fine_tuning(trained: tuple[Path, Path], tmp_path: Path) -> None:
    folder, picture = trained
    network = torch.jit.trace(nn.Sequential(nn.AvgPool2d(4), nn.Flatten()), torch.zeros(1, 1, 32, 32))
    torch.jit.save(network, tmp_path / "features.pt")
    more = ["--encoder-steps", 3, "--encoder-weight", 0.001, "--features", tmp_path / "features.pt"]
    more += ["--fine-tune-steps", 15, "--steps", 5, "--restarts", 3, "--device", "cpu"]
    before = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    result = run("invert", folder, picture, "--out", tmp_path / "out", *more)
    assert result.exit_code == 0, result.stderr
    found = errors(result)
    assert found["fine-tuned"] < found["found"] <= found["at the start"]
    game, tensors = load_run(folder), load_file(tmp_path / "out/latent.safetensors")
    game.generator.load_state_dict(load_file(tmp_path / "out/generator.safetensors"))
    with torch.no_grad():
        image = game.generator(tensors["latents"], tensors["labels"])
    save_grid(image, tmp_path / "again.png", padding=0)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "out/reconstruction.png").read_bytes()
    assert before == {path: path.read_bytes() for path in folder.rglob("*.safetensors")}


def test_style_spaces(trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = toy_game(ToyStyleGenerator())
    monkeypatch.setattr(command, "load_for_sampling", lambda *_: game)
    for space, shape in (("w", (1, 5)), ("w+", (1, 3, 5))):
        options = ("--space", space, "--steps", 5, "--out", tmp_path / space)
        result = run("invert", *trained, *options)
        assert result.exit_code == 0, result.stderr
        assert load_file(tmp_path / space / "latent.safetensors")["latents"].shape == shape


def test_a_games_own_encoder_gives_the_start(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Encoder(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.full((len(images), 4), 0.25)

    game = toy_game(ToyStyleGenerator())
    game.encoder = Encoder()
    monkeypatch.setattr(command, "load_for_sampling", lambda *_: game)
    result = run("invert", *trained, "--steps", 0, "--restarts", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert load_file(tmp_path / "latent.safetensors")["latents"].tolist() == [[0.25] * 4]
    # It is one for the loss that keeps the latent near its guess, too.
    near = []
    for weight in (0, 1000):
        options = ("--steps", 40, "--restarts", 1, "--encoder-weight", weight, "--out", tmp_path / str(weight))
        result = run("invert", *trained, *options)
        assert result.exit_code == 0, result.stderr
        latents = load_file(tmp_path / str(weight) / "latent.safetensors")["latents"]
        near.append((latents - 0.25).abs().max())
    assert near[1] < 0.2 * near[0]


def test_errors_are_one_line(trained: tuple[Path, Path], tmp_path: Path) -> None:
    folder, picture = trained
    for arguments, message in (
        ((folder, tmp_path / "no.png"), "no.png"),
        ((tmp_path, picture), "error:"),
        ((folder, picture, "--space", "w"), "has no mapping network"),
        ((folder, picture, "--class", "x"), "--class: there is no class 'x'"),
        ((folder, picture, "--class", "a,b"), "--class expects one class"),
        ((folder, picture, "--encoder-weight", 1), "--encoder-weight needs an encoder, and sagan has none of its own"),
        ((folder, picture, "--feature-weight", 2), "--feature-weight goes with --features"),
        ((folder, picture, "--domain", "b"), "domain: sagan draws images of one domain, got 'b'"),
        ((folder, picture, "--features", tmp_path / "no.pt"), "--features: there is no file"),
        ((folder, picture, "--features", picture), "is not a TorchScript file"),
        ((folder, picture, "--lr", 0), "lr: expected a positive"),
    ):
        result = run("invert", *arguments, "--out", tmp_path / "out", "--device", "cpu")
        assert result.exit_code == 2, (arguments, result.stderr)
        assert message in result.stderr
        assert not (tmp_path / "out").exists()


def test_a_text_to_image_model_tries_the_texts_that_it_keeps(tmp_path: Path) -> None:
    settings = [argument for key in ("width=2", "discriminator_width=2", "latent_dim=3") for argument in ("--set", key)]
    options = ["--resolution", 32, "--batch-size", 4, "--steps", 1]
    result = run("train", "gan-cls", "--out", tmp_path / "run", *options, *settings)
    assert result.exit_code == 0, result.stderr
    game = load_run(tmp_path / "run")
    image = game.sample(1, embeddings=game.texts[7], rng=torch.Generator().manual_seed(5))
    save_grid(image, tmp_path / "made.png", padding=0)
    call = ("invert", tmp_path / "run", tmp_path / "made.png", "--steps", 20, "--restarts", 2, "--device", "cpu")
    result = run(*call, "--out", tmp_path / "found")
    assert result.exit_code == 0, result.stderr
    assert errors(result)["found"] <= errors(result)["at the start"]
    latent = load_file(tmp_path / "found/latent.safetensors")
    label = int(latent["labels"])
    assert f"number {label} of {len(game.texts)} of the data" in result.stdout
    assert torch.equal(latent["embeddings"], game.texts[label : label + 1])
    with torch.no_grad():
        again = game.eval().generator(latent["latents"], latent["embeddings"])
    save_grid(again, tmp_path / "again.png", padding=0)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "found/reconstruction.png").read_bytes()
