"""What every system must show: a training step is the same in all backends, and runs stop, go on and can be sampled."""

import copy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import torch
from torch import Tensor

from ganfuse.engine import Trainer, load_run
from ganfuse.engine.game import Batch, Game
from ganfuse.engine.noise import Noise
from ganfuse.engine.regularizers import input_gradient
from ganfuse.kernels import use_backend

Step = dict[str, Tensor]


class ToyImages:
    """A few images of one size, each class with a brightness of its own."""

    name = "toy"

    def __init__(self, channels: int, resolution: int, num_classes: int = 3, length: int = 8) -> None:
        generator = torch.Generator().manual_seed(5)
        self.channels, self.resolution, self.num_classes = channels, resolution, num_classes
        self.labels = torch.arange(length) % num_classes
        noise = torch.randint(0, 99, (length, channels, resolution, resolution), generator=generator)
        self.images = (noise + 50 * self.labels.view(-1, 1, 1, 1)).to(torch.uint8)
        self.class_names = tuple("abcdefghij"[:num_classes])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


def unsettle(game: Game) -> None:
    """Moves what begins at 0 or 1 (biases, gains, the attention's γ) away from there, so that it takes part."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in game.parameters():
            if parameter.dim() < 2 or not parameter.any():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def play(game: Game, batch: Batch, *, penalty: bool = False) -> Step:
    """Losses, logged values, gradients and moved buffers of one turn of each player, without optimisers.

    Args:
        penalty: also the gradients of an R1 penalty, so that second derivatives through the discriminator count.
    """
    # Dropout draws from the global generator.
    torch.manual_seed(0)
    found: Step = {}
    for turn in game.turns():
        values = turn.loss(batch, Noise(torch.Generator().manual_seed(0)))
        for name in turn.players:
            mine = next(player for player in game.players() if player.name == name).parameters(game)
            loss = values["loss"] if "loss" in values else values[f"loss/{name}"]
            # None where nothing flows is 0 where zeros do.
            gradients = torch.autograd.grad(loss, mine, materialize_grads=True, retain_graph=True)
            found |= {f"{turn.name}/{name}/gradient {i}": g for i, g in enumerate(gradients)}
        found |= {f"{turn.name}/{key}": value.detach() for key, value in values.items()}
    if penalty:
        images = batch.images.clone().requires_grad_()
        logits = game.discriminate(images, batch.labels if game.num_classes else None)  # type: ignore[attr-defined]
        (slope,) = input_gradient(logits, [images])
        weights = list(game.get_submodule("discriminator").parameters())
        gradients = torch.autograd.grad(slope.square().sum(), weights, allow_unused=True)
        found |= {f"penalty/gradient {i}": g for i, g in enumerate(gradients) if g is not None}
    return found | {f"after/{name}": buffer for name, buffer in game.named_buffers()}


def assert_same(ours: Step, expected: Step, *, rtol: float = 1e-6, atol: float = 1e-8) -> None:
    """Each entry is as expected, measured against its largest value."""
    assert ours.keys() == expected.keys()
    for key, value in expected.items():
        scale = max(1.0, value.abs().max().item() if value.numel() and value.is_floating_point() else 1.0)
        torch.testing.assert_close(ours[key], value, rtol=rtol, atol=atol * scale, msg=lambda m, key=key: f"{key}: {m}")


def assert_backends_agree(game: Game, batch: Batch, *, penalty: bool = True) -> None:
    """One whole step in Triton, under its interpreter, is one in plain PyTorch, in float64."""
    unsettle(game.double().train())
    present = {entry.name: getattr(batch, entry.name) for entry in fields(batch)}
    batch = Batch(**{k: v.double() if v is not None and v.is_floating_point() else v for k, v in present.items()})
    results = []
    for backend in ("reference", "triton"):
        with use_backend(backend):
            # Of noise that is drawn inside networks.
            torch.manual_seed(0)
            results.append(play(copy.deepcopy(game), batch, penalty=penalty))
    assert_same(results[1], results[0])
    assert any("gradient" in key and value.any() for key, value in results[0].items())


def assert_trains_and_resumes(make: Callable[[], Game], data: ToyImages, folder: Path, **options: object) -> Game:
    """Two steps in one go and in two give the same weights; the run can be loaded and sampled. Returns the loaded."""
    common = {"batch_size": 4, "device": "cpu", "progress": False, "num_samples": 4, "sample_every": 0, **options}

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
    images = game.sample(3, rng=torch.Generator().manual_seed(1))
    assert images.shape == (3, data.channels, data.resolution, data.resolution)
    assert images.abs().max() <= 1
    assert torch.equal(images, game.sample(3, rng=torch.Generator().manual_seed(1)))
    assert len(list((folder / "whole" / "samples").glob("*.png"))) == 1
    return game
