"""What every system that translates must show, on toy domains."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ganfuse.engine import Trainer, load_run
from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.engine.translation import TranslationGame
from ganfuse.kernels import use_backend
from tests.models.step_checks import Step, assert_same


class ToyDomain:
    """Random images around a brightness."""

    def __init__(self, brightness: int, length: int, channels: int, side: int) -> None:
        generator = torch.Generator().manual_seed(brightness)
        shape = (length, channels, side, side)
        self.images = (torch.randint(0, 99, shape, generator=generator) + brightness).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], 0


class ToyDomains:
    """Dark images and bright ones, with the interface of the library's data sets of two domains."""

    name = "toy domains"

    def __init__(self, channels: int, resolution: int, *, paired: bool = False) -> None:
        self.channels, self.resolution, self.paired = channels, resolution, paired
        lengths = (6, 6) if paired else (6, 5)
        self.domains = tuple(ToyDomain(b, n, channels, resolution) for b, n in zip((20, 150), lengths))

    def __len__(self) -> int:
        return len(self.domains[0])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"image_a": self.domains[0][index][0], "image_b": self.domains[1][index][0]}


def toy_batch(game: TranslationGame, n: int = 1, *, seed: int = 0) -> Batch:
    """Random images of the two domains, in float64."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(n, *game.image_shape, generator=generator, dtype=torch.float64) * 2 - 1 for _ in "ab")
    return Batch(a, images_b=b)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def unsettle(game: TranslationGame) -> None:
    """Biases and gains away from 0 and 1, and weights so large that all layers matter."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in game.parameters():
            if parameter.dim() < 2:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
            else:
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) / fan_in**0.5)


def play(game: TranslationGame, batch: Batch) -> Step:
    """Losses, logged values, each player's gradients and the moved buffers of every turn, without optimisers."""
    found: Step = {}
    for turn in game.turns():
        values = turn.loss(batch, Noise(torch.Generator().manual_seed(0)))
        found |= {f"{turn.name}/{key}": value.detach() for key, value in values.items()}
        for player in game.players():
            if player.name in turn.players:
                loss = values.get("loss", values.get(f"loss/{player.name}"))
                mine = player.parameters(game)
                gradients = torch.autograd.grad(loss, mine, allow_unused=True, retain_graph=True)
                found |= {f"{turn.name}/{player.name} {i}": g for i, g in enumerate(gradients) if g is not None}
    return found | {f"after/{name}": buffer for name, buffer in game.named_buffers()}


def assert_backends_agree(game: TranslationGame) -> None:
    """One whole step in Triton, under its interpreter, is one in plain PyTorch, in float64."""
    unsettle(game.double().train())
    results = []
    for backend in ("reference", "triton"):
        with use_backend(backend):
            results.append(play(copy.deepcopy(game), toy_batch(game)))
    assert_same(results[1], results[0])
    gradients = [value for key, value in results[0].items() if "generators " in key or "discriminators " in key]
    assert len(gradients) > 10
    # Biases in front of a normalisation without gain and bias have none.
    assert sum(bool(value.abs().max() > 1e-12) for value in gradients) > len(gradients) / 3


def assert_names_what_is_wrong(make: Callable[..., TranslationGame], **further: Sequence[object]) -> None:
    """Values of the wrong kind, for the settings that all systems have and for `further` ones, are named.

    Args:
        make: builds the smallest game from settings.
        further: by name, values that are wrong.
    """
    wrong: dict[str, Sequence[object]] = {
        "generator_lr": ("fast", -1, None),
        "discriminator_lr": ("fast", -1, None),
        "ema_decay": ("x", 1),
        "crop": ("x", 24.0),
        "channels": ("x", 0),
        "width": ("wide", 2.5),
        **further,
    }
    for key, values in wrong.items():
        for value in values:
            with pytest.raises(ValueError, match=f"^{key}: expected"):
                make(**{key: value})


def assert_trains_and_resumes(
    make: Callable[[], TranslationGame], data: ToyDomains, folder: Path, *, shown: int = 6, **options: object
) -> TranslationGame:
    """Two steps in one go and in two give the same state; the run can be loaded and translates. Returns the loaded.

    `shown` is how many pictures a row of its grids has.
    """
    common = {"batch_size": 2, "device": "cpu", "progress": False, "num_samples": 12, "sample_every": 0, **options}

    def fit(out: str, steps: int, **more: object) -> None:
        torch.manual_seed(0)
        summary = Trainer(make(), data, out=folder / out, steps=steps, **{**common, **more}).fit()
        assert summary.steps == steps
        assert all(torch.tensor(value).isfinite() for value in summary.losses.values())

    fit("whole", 2)
    fit("parts", 1)
    fit("parts", 2, resume=True)
    whole, parts = (load_run(folder / out, weights="raw").state_dict() for out in ("whole", "parts"))
    different = [name for name, value in whole.items() if not torch.equal(parts[name], value)]
    assert not different
    game = load_run(folder / "whole")
    assert isinstance(game, TranslationGame)
    side, columns = game.training_size, shown
    images = torch.rand(2, data.channels, side, side) * 2 - 1
    for direction in ("ab", "ba"):
        translated = game.translate(images, direction)
        assert translated.shape == images.shape
        assert translated.abs().max() <= 1
        assert torch.equal(translated, game.translate(images, direction))
    assert not torch.equal(game.translate(images, "ab"), game.translate(images, "ba"))
    with pytest.raises(ValueError, match="ganfuse translate"):
        game.sample(1)
    with Image.open(folder / "whole" / "samples" / "step_000002.png") as grid:
        assert grid.size == (columns * (side + 2) + 2, 2 * (side + 2) + 2)
    return game
