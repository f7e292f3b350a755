import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ganfuse.engine.inversion import fine_tune, invert, learning_rate_factor, noise_factor
from ganfuse.engine.latent_encoder import LatentEncoder, train_encoder
from ganfuse.engine.latent_space import LatentSpace, frozen, latent_space
from ganfuse.engine.noise import Noise
from ganfuse.models import create
from tests.engine.inversion_toys import ToyGenerator, ToyStyleGenerator, toy_game


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def known(space: LatentSpace, n: int, labels: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents and the generator's images of them."""
    with torch.no_grad(), frozen(space.generator):
        latents = space.draw(n, Noise(seeded(7)), labels)
        return latents, space.render(latents, labels)


def test_finds_the_latents_that_the_images_were_made_from():
    space = latent_space(toy_game(ToyGenerator()))
    latents, images = known(space, 3)
    found = invert(images, space, steps=150, rng=seeded())
    assert (found.errors < 1e-4 * found.initial_errors).all()
    torch.testing.assert_close(found.latents, latents, atol=0.02, rtol=0)
    torch.testing.assert_close(found.errors, (found.images - images).square().mean((1, 2, 3)))
    assert found.labels is None
    again = invert(images, space, steps=150, rng=seeded())
    assert torch.equal(found.latents, again.latents)


def test_candidates_do_not_disturb_each_other():
    """The best of several starts is as good as the best of the same starts each by itself."""
    space = latent_space(toy_game(ToyGenerator()))
    _, images = known(space, 1)
    with torch.no_grad():
        starts = space.draw(3, Noise(seeded()), None)
    together = invert(images, space, steps=12, restarts=3, noise_strength=0, rng=seeded())
    alone = []
    for start in starts:
        fixed = LatentSpace("z", space.generator, lambda n, noise, labels, z=start: z.expand(n, -1), space.render)
        alone.append(invert(images, fixed, steps=12, restarts=1, noise_strength=0, rng=seeded()).errors)
    torch.testing.assert_close(together.errors, torch.stack(alone).amin(0), rtol=1e-4, atol=1e-8)


def test_more_starts_find_more():
    space = latent_space(toy_game(ToyGenerator()))
    _, images = known(space, 4)
    errors = [invert(images, space, steps=0, restarts=n, rng=seeded()).errors.mean() for n in (1, 64)]
    assert errors[1] < 0.5 * errors[0]


def test_the_class_is_found_where_it_is_not_given():
    space = latent_space(toy_game(ToyGenerator(3), num_classes=3))
    labels = torch.tensor([2, 0])
    _, images = known(space, 2, labels)
    found = invert(images, space, steps=120, restarts=6, rng=seeded())
    assert found.labels.tolist() == [2, 0]
    given = invert(images, space, labels=labels, steps=120, restarts=2, rng=seeded())
    assert given.labels.tolist() == [2, 0]
    assert (given.errors < 1e-3).all()
    wrong = invert(images, space, labels=1 - labels // 2, steps=120, restarts=2, rng=seeded())
    assert (wrong.errors > 10 * given.errors).all()


def test_only_classes_that_were_learnt_are_tried():
    game = toy_game(ToyGenerator(3), num_classes=3)
    game.check_data(SimpleNamespace(labels=[1, 2]))
    space = latent_space(game)
    assert space.learnt_classes.tolist() == [1, 2]
    assert sorted(set(space.draw_labels(50, Noise(seeded())).tolist())) == [1, 2]
    tried = []
    watched = replace(space, render=lambda z, y: tried.extend(y.tolist()) or space.render(z, y))
    invert(known(space, 1, torch.tensor([0]))[1], watched, steps=1, restarts=5, rng=seeded())
    assert sorted(set(tried)) == [1, 2]


def test_bounded_latents_stay_in_their_bounds():
    game = toy_game(ToyGenerator(), latent="uniform")
    space = latent_space(game)
    assert space.bound == 1.0
    with torch.no_grad(), frozen(space.generator):
        images = space.render(torch.full((2, 4), 3.0), None)
    seen = []
    moved = LatentSpace(
        "z", space.generator, space.draw, lambda z, y: seen.append(z.detach().clone()) or space.render(z, y), bound=1.0
    )
    found = invert(images, moved, steps=30, lr=0.5, noise_strength=0, rng=seeded())
    assert max(z.abs().max() for z in seen) <= 1.0
    # Drawn anew, and not set to the bound.
    assert not any((z.abs() == 1.0).any() for z in seen)
    assert found.latents.abs().max() <= 1.0


def test_noise_explores_and_fades():
    seen = []
    space = latent_space(toy_game(ToyGenerator()))
    watched = LatentSpace(
        "z", space.generator, space.draw, lambda z, y: seen.append(z.detach().clone()) or space.render(z, y)
    )
    _, images = known(space, 1)
    for strength in (0.0, 1.0):
        invert(images, watched, steps=40, restarts=1, lr=1e-9, noise_strength=strength, rng=seeded())
    still, moved = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    away = [(a - b).abs().max().item() for a, b in zip(moved, still)]
    steps = away[-42:-2]
    assert min(steps[:8]) > 0.2
    assert steps[29] < 0.02
    assert max(steps[30:]) < 1e-6


def test_schedules_are_those_of_the_projector():
    assert [noise_factor(share, 0.75) for share in (0, 0.375, 0.75, 1)] == [1, 0.25, 0, 0]
    assert noise_factor(0.0, 0.0) == 0
    factors = [learning_rate_factor(share) for share in (0, 0.025, 0.05, 0.5, 0.75, 0.875, 1)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 1, 0.5, 0])


@pytest.mark.parametrize("name", ["w", "w+"])
def test_style_spaces(name):
    space = latent_space(toy_game(ToyStyleGenerator()), name, rng=seeded())
    latents, images = known(space, 2)
    shape = (2, 5) if name == "w" else (2, 3, 5)
    assert latents.shape == shape
    assert space.centre.shape == shape[1:]
    w = space.draw(4000, Noise(seeded(3)), None).reshape(4000, -1, 5)[:, 0].detach()
    torch.testing.assert_close(space.centre.reshape(-1, 5)[0], w.mean(0), atol=0.05, rtol=0)
    assert space.spread == pytest.approx((w - w.mean(0)).square().sum(1).mean().sqrt().item(), rel=0.05)
    # The synthesis is called with the same noise for all: else this could not come down.
    found = invert(images, space, steps=200, restarts=2, rng=seeded())
    assert (found.errors < 1e-4 * found.initial_errors).all()
    assert found.latents.shape == shape


def test_a_game_can_say_how_its_styles_become_images():
    """As one that grows does, whose synthesis has fewer layers at first."""
    game = toy_game(ToyStyleGenerator())
    synthesis = game.generator.synthesis
    game.layers = 2
    game.synthesize = lambda ws: synthesis(torch.cat([ws, ws[:, :1]], 1), "none")
    space = latent_space(game, "w+", rng=seeded())
    assert space.centre.shape == (2, 5)
    ws = space.draw(1, Noise(seeded()), None)
    assert ws.shape == (1, 2, 5)
    torch.testing.assert_close(space.render(ws, None), synthesis(ws[:, [0, 1, 0]], "const"))


def test_more_freedom_in_w_plus():
    """An image of which no single w is the latent."""
    game = toy_game(ToyStyleGenerator())
    spaces = {name: latent_space(game, name, rng=seeded()) for name in ("w", "w+")}
    with torch.no_grad():
        images = spaces["w+"].render(torch.randn(1, 3, 5, generator=seeded(5)), None)
    errors = {name: invert(images, space, steps=200, restarts=2, rng=seeded()).errors for name, space in spaces.items()}
    assert errors["w+"] < 0.01 * errors["w"]


def test_encoder_learns_and_its_guess_is_a_good_start():
    torch.manual_seed(0)
    space = latent_space(toy_game(ToyGenerator()))
    _, images = known(space, 4)
    encoder = LatentEncoder((1, 8, 8), (4,), width=8)
    first = train_encoder(encoder, space, steps=1, rng=seeded())
    steps: list[tuple[int, float]] = []
    last = train_encoder(
        encoder, space, steps=150, batch_size=32, lr=3e-3, rng=seeded(), on_step=lambda *a: steps.append(a)
    )
    assert last < 0.2 * first
    assert [step for step, _ in steps] == list(range(1, 151))
    plain = invert(images, space, steps=0, restarts=1, rng=seeded())
    guessed = invert(images, space, steps=0, restarts=1, encoder=encoder, rng=seeded())
    assert guessed.errors.mean() < 0.3 * plain.errors.mean()
    hybrid = invert(images, space, steps=60, restarts=1, encoder=encoder, encoder_weight=1e-4, rng=seeded())
    assert hybrid.errors.mean() < 0.02 * guessed.errors.mean()
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_encoder_weight_keeps_the_latent_where_the_encoder_is_right():
    space = latent_space(toy_game(ToyGenerator()))
    latents, images = known(space, 1)

    class Fixed(nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), 4)

    pulled = invert(images, space, steps=100, restarts=1, encoder=Fixed(), encoder_weight=100.0, rng=seeded())
    assert pulled.latents.abs().max() < 0.05 < latents.abs().max()


def test_features_take_part():
    space = latent_space(toy_game(ToyGenerator()))
    latents, images = known(space, 1)
    perceptual = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten())

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = perceptual

        def forward(self, images):
            return [self.net(images), images.mean((2, 3))]

    found = invert(images, space, steps=150, pixel_weight=0.0, features=Two(), rng=seeded())
    torch.testing.assert_close(found.latents, latents, atol=0.05, rtol=0)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in perceptual.parameters())


def test_generator_is_as_before():
    game = toy_game(ToyGenerator()).train()
    game.generator.norm.eval()
    before = {name: value.clone() for name, value in game.state_dict().items()}
    space = latent_space(game)
    _, images = known(space, 2)
    invert(images, space, steps=3, rng=seeded())
    assert game.generator.training
    assert not game.generator.norm.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in game.parameters())
    assert all(torch.equal(value, before[name]) for name, value in game.state_dict().items())


def test_fine_tuning_reaches_images_that_the_generator_cannot_make():
    game = toy_game(ToyGenerator()).train()
    space = latent_space(game)
    images = torch.rand(1, 1, 8, 8, generator=seeded()) * 1.6 - 0.8
    found = invert(images, space, steps=60, rng=seeded())
    mean = game.generator.norm.running_mean.clone()
    tuned = fine_tune(images, space, found, steps=60, lr=1e-2)
    assert found.errors > 0.01
    assert tuned.errors < 0.01 * found.errors
    assert torch.equal(tuned.latents, found.latents)
    assert torch.equal(game.generator.norm.running_mean, mean)
    assert game.generator.training
    with torch.no_grad(), frozen(game.generator):
        torch.testing.assert_close(game.generator(tuned.latents), tuned.images)


def test_a_search_that_goes_astray_gives_its_start():
    space = latent_space(toy_game(ToyGenerator()))
    _, images = known(space, 2)
    found = invert(images, space, steps=5, lr=1e6, restarts=2, rng=seeded())
    assert (found.errors <= found.initial_errors).all()


def test_inverts_a_model_of_the_library():
    """Spectral norms, conditional batch norms and attention, in evaluation mode."""
    torch.manual_seed(0)
    game = create("sagan", resolution=32, num_classes=3, channels=1, width=2, latent_dim=3)
    with torch.no_grad():
        for _ in range(20):
            game.generator(torch.randn(16, 3), torch.randint(3, (16,)))
    space = latent_space(game)
    labels = torch.tensor([1])
    _, images = known(space, 1, labels)
    found = invert(images, space, labels=labels, steps=60, restarts=2, rng=seeded())
    assert found.errors < 0.05 * found.initial_errors


@pytest.mark.parametrize("name", ["stylegan", "stylegan2"])
@pytest.mark.parametrize("kind", ["w", "w+"])
def test_style_models_of_the_library(name, kind):
    torch.manual_seed(0)
    sizes = {"latent_dim": 8, "style_features": 8, "channel_max": 8, "width": 4}
    game = create(name, resolution=16, channels=1, **sizes)
    space = latent_space(game, kind, rng=seeded())
    _, images = known(space, 1)
    found = invert(images, space, steps=25, restarts=1, rng=seeded())
    assert found.errors < 0.5 * found.initial_errors
    assert found.latents.shape == ((1, 8) if kind == "w" else (1, game.layers, 8))


def test_either_image_of_a_pair():
    torch.manual_seed(0)
    game = create("cogan", resolution=28, width=2, channels=1)
    for domain, other in ("ab", "ba"):
        space = latent_space(game, domain=domain)
        _, images = known(space, 1)
        assert (images - known(latent_space(game, domain=other), 1)[1]).abs().max() > 1e-4
        found = invert(images, space, steps=20, restarts=2, rng=seeded())
        assert found.errors < 0.5 * found.initial_errors
    with pytest.raises(ValueError, match="domain: expected one of 'a', 'b', got 'c'"):
        latent_space(game, domain="c")


def test_refuses_what_makes_no_sense():
    game = toy_game(ToyGenerator())
    space = latent_space(game)
    images = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match="space: expected one of 'z', 'w', 'w\\+', got 'x'"):
        latent_space(game, "x")
    with pytest.raises(ValueError, match="space: toy has no mapping network"):
        latent_space(game, "w")
    translator = create("ugatit", resolution=8, channels=1, width=1, blocks=1)
    with pytest.raises(ValueError, match="game: ugatit has no generator that draws images from latents"):
        latent_space(translator)
    for key, value in (("steps", -1), ("restarts", 0), ("lr", 0.0), ("noise_strength", -1.0), ("noise_share", 2.0)):
        with pytest.raises(ValueError, match=f"{key}: expected"):
            invert(images, space, **{key: value})
    with pytest.raises(ValueError, match="pixel_weight: expected a weight"):
        invert(images, space, pixel_weight=-1.0)
    with pytest.raises(ValueError, match="pixel_weight: at least one"):
        invert(images, space, pixel_weight=0.0)
    with pytest.raises(ValueError, match=r"encoder_weight: 1.0 needs an encoder"):
        invert(images, space, encoder_weight=1.0)
    with pytest.raises(ValueError, match=r"images: the generator makes \(1, 8, 8\), got \(1, 4, 4\)"):
        invert(images[:, :, :4, :4], space)
    with pytest.raises(ValueError, match="images: expected float"):
        invert(images.to(torch.uint8), space)
    with pytest.raises(ValueError, match="labels: this generator has no classes"):
        invert(images, space, labels=torch.zeros(2, dtype=torch.int64))
    conditional = latent_space(toy_game(ToyGenerator(3), num_classes=3))
    with pytest.raises(ValueError, match=r"labels: expected values from 0 to 2, got \[0, 3\]"):
        invert(images, conditional, labels=torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"labels: expected int64 \(2,\)"):
        invert(images, conditional, labels=torch.tensor([0]))
    with pytest.raises(ValueError, match=r"encoder: expected latents \(2, 4\), got \(2, 5\)"):
        invert(images, space, encoder=LatentEncoder((1, 8, 8), (5,), width=2))
    with pytest.raises(ValueError, match="width: expected positive sizes"):
        LatentEncoder((1, 8, 8), (4,), width=0)
    with pytest.raises(ValueError, match="batch_size: expected a positive number, got 0"):
        train_encoder(LatentEncoder((1, 8, 8), (4,), width=2), space, batch_size=0)
    found = invert(images, space, steps=0, rng=seeded())
    with pytest.raises(ValueError, match="found: expected latents of 1 images, got 2"):
        fine_tune(images[:1], space, found)
    with pytest.raises(ValueError, match="steps: expected a positive number, got 0"):
        fine_tune(images, space, found, steps=0)
    assert math.isfinite(found.errors.sum())
