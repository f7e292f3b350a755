import copy

import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine import Trainer
from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.schedules import Progress
from ganfuse.models import create
from tests.models import step_checks
from tests.models.plain_layers import count
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
TINY = {"resolution": 8, "width": 6, "latent_dim": 3}
CONV = {"resolution": 32, "width": 2, "latent_dim": 3, "architecture": "convolutional"}


def noise():
    return Noise(torch.Generator().manual_seed(0))


def toy_batch(config, n: int = 4, dtype=F64) -> Batch:
    size = config["resolution"]
    return Batch(torch.rand(n, 1, size, size, dtype=dtype) * 2 - 1)


def test_parameter_counts_and_shapes():
    generator = 50 * 1024 + (1024 + 50) * 1024 + 1024 * 784 + 784
    encoder = 784 * 1024 + 1024 + 1024 * 1024 + 1024 * 50 + 50
    discriminator = 784 * 1024 + 1024 + (1024 + 50) * 1024 + 1024 + 1
    with torch.device("meta"):
        game = create("bigan")
        z = torch.empty(2, 50)
        images = game.generator(z)
        assert (images.shape, game.encoder(images).shape) == ((2, 1, 28, 28), (2, 50))
        assert game.discriminator(images, z).shape == (2,)
        assert [count(m) for m in (game.generator, game.encoder, game.discriminator)] == [
            generator,
            encoder,
            discriminator,
        ]
        game = create("bigan", architecture="convolutional", resolution=64, channels=3)
        images = game.generator(torch.empty(2, 200))
        assert game.discriminator(images, game.encoder(images)).shape == (2,)
    maps = 25 * (512 * 256 + 256 * 128 + 128 * 64)
    biases = 200 * (256 + 128 + 64)
    assert count(game.generator) == 200 * 512 * 16 + maps + biases + 25 * 64 * 3 + 3
    assert count(game.encoder) == 25 * 3 * 64 + 64 + maps + 8192 * 200 + 200
    assert count(game.discriminator) == 25 * 3 * 64 + 64 + maps + 200 * (128 + 256 + 512) + 8192 + 1


def normalised(x, slope):
    dims = [d for d in range(x.dim()) if d != 1]
    x = (x - x.mean(dims, keepdim=True)) / (x.var(dims, correction=0, keepdim=True) + 1e-8).sqrt()
    return torch.where(x > 0, x, slope * x)


def spread(bias, h):
    return bias if h.dim() == 2 else bias[:, :, None, None]


@pytest.mark.parametrize("config", [TINY, CONV])
def test_networks_are_those_of_the_appendix(config):
    game = create("bigan", **config).double().train()
    step_checks.unsettle(game)
    z, images = torch.rand(4, 3, dtype=F64) * 2 - 1, toy_batch(config).images
    g, e, d = game.generator, game.encoder, game.discriminator
    first, *later = g.layers
    h = normalised(first.main(z if config is TINY else z[:, :, None, None]), 0.0)
    for layer in later:
        h = layer.main(h)
        h = normalised(h + spread(z @ layer.latent.weight.t(), h), 0.0)
    pixels = torch.sigmoid(g.output(h)).view_as(images)
    torch.testing.assert_close(g(z), 2 * pixels - 1)
    for network, result in ((e, e(images)), (d, d(images, z)[:, None])):
        h = (images + 1) / 2 if config is CONV else (images.flatten(1) + 1) / 2
        first, *later = network.trunk.layers
        h = F.leaky_relu(first.main(h), 0.2)
        assert first.norm is None
        for layer in later:
            h = layer.main(h)
            h = normalised(h if network is e else h + spread(z @ layer.latent.weight.t(), h), 0.2)
        torch.testing.assert_close(result, network.output(h.flatten(1)))


def test_both_losses_come_from_the_same_logits():
    game = create("bigan", **TINY).double().train()
    step_checks.unsettle(game)
    batch = toy_batch(TINY)
    values = game.joint_loss(batch, noise())
    z = 2 * noise().uniform(4, 3, dtype=F64) - 1
    real = torch.sigmoid(game.discriminator(batch.images, game.encoder(batch.images)))
    fake = torch.sigmoid(game.discriminator(game.generator(z), z))
    expected = -0.5 * (real.log().mean() + (1 - fake).log().mean())
    flipped = -0.5 * ((1 - real).log().mean() + fake.log().mean())
    torch.testing.assert_close(values["loss/discriminator"], expected)
    torch.testing.assert_close(values["loss/generator_encoder"], flipped)
    # As its authors' log has it: an undecided discriminator costs ln 2.
    with torch.no_grad():
        for parameter in game.discriminator.output.parameters():
            parameter.zero_()
    undecided = game.joint_loss(batch, noise())
    for name in ("loss/discriminator", "loss/generator_encoder"):
        torch.testing.assert_close(undecided[name], torch.tensor(2.0, dtype=F64).log())


def test_encoder_learns_through_the_pair_it_is_in():
    """Its gradient is that of −log(1 − D(x, E(x))), which a detached E(x) would not have."""
    game = create("bigan", **TINY).double().train()
    step_checks.unsettle(game)
    batch = toy_batch(TINY)
    weights = list(game.encoder.parameters())
    found = torch.autograd.grad(game.joint_loss(batch, noise())["loss/generator_encoder"], weights)
    real = torch.sigmoid(game.discriminator(batch.images, game.encoder(batch.images)))
    expected = torch.autograd.grad(-0.5 * (1 - real).log().mean(), weights)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert all(gradient.any() for gradient in found)


def test_players_move_at_once_each_along_its_own_loss(tmp_path):
    """The step of the trainer is that of two optimisers on gradients of the same weights."""
    torch.manual_seed(0)
    game = create("bigan", **TINY)
    before = copy.deepcopy(game)
    seen = []
    original = game.joint_loss
    game.joint_loss = lambda batch, draws: seen.append((batch, draws.normal(1))) or original(batch, noise())
    Trainer(game, ToyImages(1, 8), out=tmp_path, steps=1, batch_size=4, device="cpu", progress=False).fit()
    values = before.train().joint_loss(seen[0][0], noise())
    for player in before.players():
        parameters = player.parameters(before)
        gradients = torch.autograd.grad(values[f"loss/{player.name}"], parameters, retain_graph=True)
        # The first step of Adam is the gradient's sign, times the rate.
        for parameter, gradient, now in zip(parameters, gradients, player.parameters(game), strict=True):
            g = gradient + 2.5e-5 * parameter
            torch.testing.assert_close(now, parameter - 2e-4 * g / (g.abs() + 1e-8), rtol=0, atol=2e-6)


@pytest.mark.parametrize("inference", ["adversarial", "latent-regressor"])
def test_latent_regressor(inference):
    game = create("bigan", inference=inference, latent_regressor=0.25, **TINY).double().train()
    step_checks.unsettle(game)
    batch = toy_batch(TINY)
    values = game.joint_loss(batch, noise())
    z = 2 * noise().uniform(4, 3, dtype=F64) - 1
    fakes = game.generator(z)
    error = 0.5 * (game.encoder(fakes) - z).square().sum() / (4 * 3)
    torch.testing.assert_close(values["latent_regression"], error.detach())
    if inference == "adversarial":
        game.regression = 0.0
        expected = game.joint_loss(batch, noise())["loss/generator_encoder"] + 0.25 * error
    else:
        expected = -torch.sigmoid(game.discriminator(fakes)).log().mean() + 0.25 * error
    torch.testing.assert_close(values["loss/generator_encoder"], expected)
    (found,) = torch.autograd.grad(values["loss/generator_encoder"], game.generator.output.weight)
    adversarial = expected if inference == "adversarial" else expected - 0.25 * error
    (wanted,) = torch.autograd.grad(adversarial, game.generator.output.weight)
    # The baseline's generator is that of a plain GAN; the joint objective's also makes its latents recoverable.
    torch.testing.assert_close(found, wanted)
    assert game.discriminator.joint == (inference == "adversarial")


def test_encode_reconstruct_and_preview():
    game = create("bigan", **TINY)
    data = ToyImages(1, 8, length=20)
    game.check_data(data)
    assert int(game.num_known) == 8
    torch.testing.assert_close(game.known_images[3], data[7][0] / 127.5 - 1)
    images = game.known_images[:2]
    game.train()
    codes = game.encode(images)
    assert codes.shape == (2, 3)
    assert not codes.requires_grad
    again = game.reconstruct(images)
    assert game.encoder.training
    game.eval()
    torch.testing.assert_close(again, game.generator(codes))
    grid, columns = game.preview(30, rng=torch.Generator().manual_seed(0))
    assert (len(grid), columns) == (24, 8)
    torch.testing.assert_close(grid[8:16], game.known_images)
    torch.testing.assert_close(grid[16:], game.reconstruct(game.known_images))
    grid, columns = game.preview(12, rng=torch.Generator().manual_seed(0))
    assert (len(grid), columns) == (12, None)
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, 8, 8\)"):
        game.check_data(ToyImages(1, 9))


def test_recipe_of_the_paper():
    with torch.device("meta"):
        game = create("bigan")
    assert [player.name for player in game.players()] == ["discriminator", "generator_encoder"]
    for player in game.players():
        assert player.optimizer == Adam(2e-4, (0.5, 0.999), weight_decay=2.5e-5)
        rates = [player.schedule(Progress(images=epoch * 10, dataset_size=10)) for epoch in (0, 200, 300, 400)]
        torch.testing.assert_close(rates, [1.0, 1.0, 0.1, 0.01])
    assert game.latent == "uniform"
    assert game.ema_targets() == ()


@pytest.mark.slow
@pytest.mark.interpreter
@pytest.mark.parametrize("config", [TINY, {**CONV, "latent_regressor": 0.25, "width": 1}])
def test_backends_agree_on_a_step(config):
    small = {**config, "width": 2, "resolution": 4} if config is TINY else config
    assert_backends_agree(create("bigan", **small), toy_batch(small, n=3), penalty=False)


@pytest.mark.parametrize("config", [TINY, CONV, {**TINY, "inference": "latent-regressor"}])
def test_trains_resumes_and_is_sampled(tmp_path, config):
    game = assert_trains_and_resumes(lambda: create("bigan", **config), ToyImages(1, config["resolution"]), tmp_path)
    assert int(game.num_known) == 8


def test_refuses_what_it_is_not_made_for():
    for config, message in (
        ({"architecture": "alexnet"}, "architecture: expected one of 'mlp', 'convolutional', got 'alexnet'"),
        ({"inference": "vae"}, "inference: expected one of 'adversarial', 'latent-regressor', got 'vae'"),
        ({"architecture": "convolutional"}, "resolution: a convolutional BiGAN is made for 32, 64, 128 px, got 28"),
        ({"latent_dim": 0}, "latent_dim: expected a positive whole number, got 0"),
        ({"constant_epochs": -1}, "constant_epochs: expected a number of at least 0, got -1"),
        ({"constant_epochs": "x"}, "constant_epochs: expected a number of at least 0, got 'x'"),
        ({"decay_epochs": 0}, "decay_epochs: expected a number above 0, got 0"),
        ({"lr": "fast"}, "lr: expected a learning rate of at least 0, got 'fast'"),
        ({"betas": ["a", "b"]}, r"betas: expected two numbers with 0 <= beta < 1, got \('a', 'b'\)"),
        ({"latent_regressor": -1.0}, "latent_regressor: expected a number of at least 0"),
        ({"inference": "latent-regressor", "latent_regressor": 0}, "latent_regressor: without its loss"),
    ):
        with pytest.raises(ValueError, match=message):
            create("bigan", **config)
    joint, alone = create("bigan", **TINY), create("bigan", inference="latent-regressor", **TINY)
    images = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"latents: expected \(B, 3\), got None"):
        joint.discriminator(images)
    with pytest.raises(ValueError, match=r"latents: expected \(2, 3\), got \(2, 4\)"):
        joint.discriminator(images, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="latents: expected none"):
        alone.discriminator(images, torch.zeros(2, 3))
