import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine import Trainer
from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.engine.precision import Precision
from ganfuse.engine.replay_pool import ReplayPool
from ganfuse.models import create, sn_cnn
from ganfuse.models.logan import LOGANGame
from tests.models import step_checks
from tests.models.plain_layers import count
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
SMALL = {"base": "sn-cnn", "resolution": 32, "width": 2, "channels": 1, "latent_dim": 6}
DEEP = {
    "discriminator_steps": 1,
    "resolution": 32,
    "width": 2,
    "channels": 1,
    "latent_dim": 6,
    "shared_features": 3,
    "attention_resolution": 16,
}


class TinyGenerator(nn.Module):
    """z (B, 3) to (B, 1, 1, 2)."""

    latent_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([[0.5, -0.3, 0.8], [0.2, 0.9, -0.4]], dtype=F64))

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(z @ self.a.t()).view(-1, 1, 1, 2)


class TinyDiscriminator(nn.Module):
    """(B, 1, 1, 2) to (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[1.1, -0.6], [0.4, 0.7], [-0.9, 0.3]], dtype=F64))
        self.v = nn.Parameter(torch.tensor([0.8, -1.2, 0.5], dtype=F64))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(images.flatten(1) @ self.w.t()) @ self.v


def tiny_game(**options: object) -> LOGANGame:
    return LOGANGame(TinyGenerator(), TinyDiscriminator(), "wasserstein", **{"latent_cost": 2.0, **options})


def score_gradient(game: nn.Module, z: Tensor) -> Tensor:
    """∂D(G(z))/∂z, written out: Aᵀ (1 − x²) ∘ Wᵀ ((1 − h²) ∘ v) for x = tanh(Az), h = tanh(Wx)."""
    a, w, v = game.generator.a, game.discriminator.w, game.discriminator.v
    x = torch.tanh(z @ a.t())
    h = torch.tanh(x @ w.t())
    return ((((1 - h**2) * v) @ w) * (1 - x**2)) @ a


def steps_of(game: nn.Module, z: Tensor, chosen: Tensor) -> Tensor:
    """Of the chosen elements alone: the others are constants to the gradient and its Fisher matrix."""
    g = score_gradient(game, z) * chosen
    if game.latent_update == "gradient":
        return game.latent_step_size * g
    # The natural gradient, by solving with the damped Fisher matrix of each latent.
    eye = torch.eye(z.shape[1], dtype=z.dtype)
    matrices = g[:, :, None] * g[:, None, :] + game.latent_damping * eye
    return game.latent_step_size * torch.linalg.solve(matrices, g[:, :, None])[:, :, 0]


@pytest.mark.parametrize("update", ["natural-gradient", "gradient"])
@pytest.mark.parametrize("steps", [1, 2])
def test_latent_step_equals_its_formula(update, steps):
    game = tiny_game(latent_update=update, latent_steps=steps, latent_step_size=1.5, latent_damping=0.7)
    z = torch.rand(5, 3, dtype=F64) * 2 - 1
    z[0] = 0.999 * score_gradient(game, z)[0].detach().sign()  # will be clipped
    chosen = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 0, 1], [1, 1, 1]]).bool()
    optimised, cost = game.optimise(z, None, chosen)
    moved, total = z, torch.zeros_like(z)
    for _ in range(steps):
        step = steps_of(game, moved, chosen)
        moved, total = (moved + step).clamp(-1, 1), total + step
    torch.testing.assert_close(optimised, moved)
    torch.testing.assert_close(cost, (total**2).sum(1).mean())
    assert (optimised.abs() == 1).any()
    assert (optimised.abs() < 1).any()
    assert torch.equal(optimised[~chosen], z[~chosen])
    assert (optimised[chosen] != z[chosen]).sum() > 7
    # The step goes up on the discriminator's score.
    small = tiny_game(latent_update=update, latent_step_size=1e-3, latent_damping=0.7)
    score = [small.discriminate(small.generate(latents, None), None) for latents in (z, small.optimise(z, None)[0])]
    assert (score[1] > score[0]).all()


def loss_of(game: nn.Module, batch: Batch, z: Tensor, chosen: Tensor, player: str, frozen: Tensor | None) -> Tensor:
    """Wasserstein's loss at z′, plus the cost; `frozen` in place of Δz cuts the gradient through it."""
    step = steps_of(game, z, chosen) if frozen is None else frozen
    fake = game.discriminator(game.generator((z + step).clamp(-1, 1)))
    cost = 2.0 * (step**2).sum(1).mean()
    return (fake.mean() - game.discriminator(batch.images).mean() if player == "discriminator" else -fake.mean()) + cost


@pytest.mark.parametrize("update", ["natural-gradient", "gradient"])
@pytest.mark.parametrize("through", ["both", "d_only", "none"])
@pytest.mark.parametrize("player", ["discriminator", "generator"])
def test_gradients_go_through_the_step_where_they_should(update, through, player):
    """Against central differences of the written-out loss, with Δz held still where no gradient goes through it."""
    game = tiny_game(latent_update=update, through=through, latent_step_size=0.5, latent_damping=0.7)
    batch = Batch(torch.rand(6, 1, 1, 2, dtype=F64))
    turn = next(turn for turn in game.turns() if turn.player == player)
    values = turn.loss(batch, Noise(torch.Generator().manual_seed(4)))
    parameters = list(game.get_submodule(player).parameters())
    gradients = torch.autograd.grad(values["loss"], parameters)
    noise = Noise(torch.Generator().manual_seed(4))
    z = noise.uniform(6, 3, dtype=F64) * 2 - 1
    chosen = noise.uniform(6, 3) < 0.5
    goes_through = through == "both" or (through == "d_only" and player == "discriminator")
    with torch.no_grad():
        frozen = None if goes_through else steps_of(game, z, chosen)
        torch.testing.assert_close(values["loss"].detach(), loss_of(game, batch, z, chosen, player, frozen))
        for parameter, gradient in zip(parameters, gradients):
            for index in range(parameter.numel()):
                ends = []
                for change in (1e-6, -1e-6):
                    parameter.view(-1)[index] += change
                    ends.append(loss_of(game, batch, z, chosen, player, frozen))
                    parameter.view(-1)[index] -= change
                torch.testing.assert_close(
                    gradient.reshape(-1)[index], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8
                )


def test_an_undamped_share_and_normal_latents():
    nobody = tiny_game(latent_fraction=0.0)
    values = nobody.discriminator_loss(Batch(torch.rand(4, 1, 1, 2, dtype=F64)), Noise())
    assert values["step_length"] == 0
    normal = tiny_game(latent="normal", latent_step_size=50.0, latent_update="gradient")
    z = torch.randn(8, 3, dtype=F64)
    assert normal.optimise(z, None)[0].abs().max() > 3


def test_share_of_the_elements():
    """Half of each latent's elements take the step, others in every turn."""
    game = tiny_game(latent_update="gradient")
    assert game.latent_fraction == 0.5
    moved = torch.zeros(500, 3)
    for seed in range(2):
        noise = Noise(torch.Generator().manual_seed(seed))
        drawn = game.draw_latents(500, Noise(torch.Generator().manual_seed(seed)))
        z, _ = game._optimised_latents(500, None, noise, through=False)
        moved += z != drawn
    assert 0.45 < (moved == 1).double().mean() < 0.55  # in one turn of the two
    assert (moved == 0).any(1).double().mean() > 0.4


def test_settings_of_the_paper():
    """Of BigGAN-deep in section 5.2; of the small networks those of PyTorch-StudioGAN."""
    names = ("latent_step_size", "latent_damping", "latent_cost", "latent_fraction")
    with torch.device("meta"):
        deep, small = create("logan"), create("logan", **SMALL)
        own = create("logan", **SMALL, latent_damping=2.0, latent_cost=0.0, latent_fraction=1.0)
    assert [getattr(deep, name) for name in names] == [0.9, 5.0, 300.0, 0.5]
    assert [getattr(small, name) for name in names] == [0.9, 0.1, 0.1, 0.8]
    assert [getattr(own, name) for name in names] == [0.9, 2.0, 0.0, 1.0]


def test_relativistic_loss_and_penalties():
    options = {"latent_fraction": 1.0, "latent_cost": 2.0}
    game = LOGANGame(TinyGenerator(), TinyDiscriminator(), "relativistic", r1_gamma=3.0, **options)
    batch = Batch(torch.rand(4, 1, 1, 2, dtype=F64))
    z = Noise(torch.Generator().manual_seed(0)).uniform(4, 3, dtype=F64) * 2 - 1
    step = steps_of(game, z, torch.ones(4, 3))
    fake, real = game.discriminator(game.generator((z + step).clamp(-1, 1))), game.discriminator(batch.images)
    cost = 2.0 * step.square().sum(1).mean()
    values = game.generator_loss(batch, Noise(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(values["loss"], F.softplus(real - fake).mean() + cost)
    leaf = batch.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(game.discriminator(leaf).sum(), leaf)
    penalty = 3.0 * 0.5 * slope.square().sum((1, 2, 3)).mean()
    values = game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(values["loss"], F.softplus(fake - real).mean() + cost + penalty)
    torch.testing.assert_close(values["r1"], penalty)


@pytest.mark.parametrize("through", ["both", "none"])
def test_a_step_that_overflows_is_taken_back(through):
    """Of scaled gradients in float16: the latents stay, and no gradient is a number, so that the scale is halved."""
    game = LOGANGame(TinyGenerator(), TinyDiscriminator(), latent_fraction=1.0, through=through).float()
    batch = Batch(torch.rand(4, 1, 1, 2))
    precision = Precision("fp16", torch.device("cpu"))

    def overflow(gradient: Tensor) -> Tensor:
        return torch.where(torch.arange(4)[:, None] == 1, torch.inf, gradient)

    def spoil(module: nn.Module, args: tuple[Tensor]) -> None:
        if args[0].is_leaf and args[0].requires_grad:  # latents before their step
            args[0].register_hook(overflow)

    game.generator.register_forward_pre_hook(spoil)
    for player in ("discriminator", "generator"):
        with precision.penalties(precision.scaler(player)):
            z = torch.rand(4, 3)
            moved, cost = game.optimise(z, None, through=through == "both")
            assert moved.isfinite().all()
            assert torch.equal(moved[1], z[1])
            assert cost.isnan()
            turn = next(turn for turn in game.turns() if turn.player == player)
            loss = turn.loss(batch, Noise(torch.Generator().manual_seed(0)))["loss"]
            parameters = list(game.get_submodule(player).parameters())
            assert all(gradient.isnan().any() for gradient in torch.autograd.grad(loss, parameters))


def test_trains_in_float16(tmp_path):
    """The loss scaling begins so high that the first gradients of the latents overflow."""
    game = create("logan", num_classes=3, **SMALL)
    before = [p.detach().clone() for p in game.parameters()]
    options = {"steps": 8, "batch_size": 4, "device": "cpu", "precision": "fp16", "progress": False, "sample_every": 0}
    Trainer(game, ToyImages(1, 32), out=tmp_path / "run", **options).fit()
    assert all(value.isfinite().all() for value in game.state_dict().values())
    assert any(not torch.equal(p, old) for p, old in zip(game.parameters(), before))


def test_parameter_counts_and_shapes():
    with torch.device("meta"):
        game = create("logan")
        # BigGAN-deep's, but for 128 more latents in its first layer and 84 batch normalisations.
        deep = create("biggan-deep")
        assert count(game.discriminator) == count(deep.discriminator) == 34_590_210
        more = 16 * 16 * 128 + 2 * sum(
            bn.num_features for b in deep.generator.blocks for bn in (b.bn1, b.bn2, b.bn3, b.bn4)
        )
        assert count(game.generator) == count(deep.generator) + 128 * more
        small = create("logan", base="sn-cnn", resolution=32, num_classes=None, latent_dim=128)
    # Table 3 of the paper: 3×3 and 4×4 convolutions of 64, 64, 128, 128, 256, 256, 512 channels, here then a sum.
    widths = [(3, 64, 3), (64, 64, 4), (64, 128, 3), (128, 128, 4), (128, 256, 3), (256, 256, 4), (256, 512, 3)]
    assert count(small.discriminator) == sum(i * o * k * k + o for i, o, k in widths) + 513
    ups = [(512, 256), (256, 128), (128, 64)]
    norms = 2 * (512 + 256 + 128 + 64)
    expected = 129 * 8192 + sum(i * o * 16 + o for i, o in ups) + norms + 64 * 27 + 3
    assert count(small.generator) == expected


@pytest.mark.parametrize("resolution", [32, 64])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_small_networks(resolution, num_classes):
    game = create("logan", num_classes=num_classes, **{**SMALL, "resolution": resolution})
    labels = None if num_classes is None else torch.tensor([0, 2])
    images = game.generator(torch.rand(2, 6), labels)
    assert images.shape == (2, 1, resolution, resolution)
    game.discriminator(images, labels).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in game.parameters())
    named = {name for name, _ in game.named_parameters()}
    assert any("weight_orig" in name for name in named if name.startswith("discriminator"))
    assert not any("weight_orig" in name for name in named if name.startswith("generator"))


def test_latents_are_uniform_and_networks_leaky():
    game = create("logan", num_classes=3, **DEEP)
    z = game.draw_latents(500, Noise(torch.Generator().manual_seed(0)))
    assert -1 <= z.min() < -0.99 < 0.99 < z.max() <= 1
    assert abs(z.std() - 3**-0.5) < 0.02
    assert game.generator.blocks[0].bn1.activation == "leaky_relu"
    assert game.discriminator.layers.activate(torch.tensor(-1.0)) == F.leaky_relu(torch.tensor(-1.0), 0.2)
    assert all(turn.second_order for turn in game.turns())


@pytest.mark.parametrize("config", [DEEP, SMALL])
def test_power_methods_step_once_per_turn_and_the_gradient_is_right(config):
    """Both forwards see the same weights, so that the loss is what the formula says, with u of the first forward."""
    game = create("logan", num_classes=3, **config).double().train()
    step_checks.unsettle(game)
    batch = Batch(torch.rand(4, 1, 32, 32, dtype=F64) * 2 - 1, torch.tensor([0, 1, 2, 0]))
    once = copy.deepcopy(game)
    values = game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(0)))
    noise = Noise(torch.Generator().manual_seed(0))
    labels = once.draw_labels(4, noise)
    once.discriminator(once.generator(once.draw_latents(4, noise), labels), labels)
    for (name, ours), stepped in zip(game.named_buffers(), once.buffers()):
        if name.endswith(("weight_u", "weight_v")):
            torch.testing.assert_close(ours, stepped, rtol=0, atol=1e-12, msg=name)
    # Along one direction of the weights the loss changes as its gradient says, in which u and v are constants, so that
    # evaluation mode holds them still.
    game.eval()
    parameters = list(game.discriminator.parameters())
    loss = game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(0)))["loss"]
    gradients = torch.autograd.grad(loss, parameters)
    directions = [torch.randn_like(p) for p in parameters]
    ends = []
    for change in (1e-7, -2e-7):
        with torch.no_grad():
            torch._foreach_add_(parameters, directions, alpha=change)
        ends.append(game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(0)))["loss"].detach())
    slope = sum((g * d).sum() for g, d in zip(gradients, directions))
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-7, slope, rtol=1e-4, atol=1e-5)
    assert values["loss"].isfinite()


def test_samples_of_optimised_latents():
    # Unsettled scores are so large that float32 would not show what a step adds to them.
    game = create("logan", num_classes=3, **SMALL).double()
    step_checks.unsettle(game)
    state = copy.deepcopy(game.state_dict())

    def draw(**options: object) -> Tensor:
        return game.sample(3, labels=[0, 1, 2], rng=torch.Generator().manual_seed(0), **options)

    plain, optimised = draw(), draw(optimised=True)
    assert not torch.allclose(plain, optimised, rtol=0.0, atol=1e-9)
    torch.testing.assert_close(draw(optimised=True, batch_size=1), optimised, rtol=0.0, atol=1e-12)
    assert torch.equal(draw(), plain)
    assert draw(optimised=True, truncation=0.5, standing_statistics=1).isfinite().all()
    assert all(torch.equal(value, state[name]) for name, value in game.state_dict().items())
    game.eval()
    labels = torch.tensor([0, 1, 2])
    with torch.no_grad():
        scores = [game.discriminate(images, labels).mean() for images in (plain, optimised)]
    assert scores[1] > scores[0]


@pytest.mark.parametrize("config", [DEEP, SMALL])
def test_trains_resumes_and_is_sampled(tmp_path, config):
    assert_trains_and_resumes(lambda: create("logan", num_classes=3, **config), ToyImages(1, 32), tmp_path)


@pytest.mark.slow
@pytest.mark.interpreter
def test_a_step_is_the_same_in_all_backends(monkeypatch):
    # One block: an interpreted program costs milliseconds.
    monkeypatch.setattr(sn_cnn, "RESOLUTIONS", (8,))
    game = create("logan", num_classes=2, **{**SMALL, "resolution": 8, "width": 1})
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert_backends_agree(game, Batch(images, torch.tensor([0, 1])), penalty=False)


def test_refuses_options_that_its_losses_would_pass_over():
    for options in ({"augment": "diffaugment"}, {"replay": ReplayPool(4, (1, 1, 2))}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: LOGAN has losses of its own"):
            tiny_game(**options)


def test_refuses_what_it_is_not_made_for():
    for options, message in (
        ({"base": "dcgan"}, "base: expected one of 'biggan-deep', 'sn-cnn', got 'dcgan'"),
        ({"resolution": 48}, "resolution: LOGAN on biggan-deep is made for 32, 64, 128, 256, 512 px, got 48"),
        ({**SMALL, "resolution": 128}, "resolution: LOGAN on sn-cnn is made for 32, 64 px, got 128"),
        ({**SMALL, "attention_resolution": 16}, "attention_resolution: the small networks have no attention, got 16"),
        ({**SMALL, "latent_update": "newton"}, "latent_update: expected one of 'natural-gradient', 'gradient'"),
        ({**SMALL, "through": "g"}, "through: expected one of 'both', 'd_only', 'none', got 'g'"),
        ({**SMALL, "latent_damping": 0.0}, "latent_damping: expected a number"),
        ({**SMALL, "latent_fraction": 1.5}, r"latent_fraction: expected a number in \[0, 1\], got 1.5"),
        ({**SMALL, "latent_steps": 0}, "latent_steps: expected a positive whole number, got 0"),
        ({**SMALL, "latent_step_size": -1.0}, "latent_step_size: expected a number of at least 0"),
        ({**SMALL, "latent_cost": -1.0}, "latent_cost: expected a number of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            create("logan", **options)
