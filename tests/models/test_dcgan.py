import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.models import create
from tests.models import step_checks
from tests.models.plain_layers import count
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
TINY = {"resolution": 32, "channels": 1, "width": 2, "latent_dim": 5}
SMALL = {**TINY, "resolution": 28}


@pytest.mark.parametrize(("config", "generator", "discriminator"), [
    ({}, 3_576_704, 2_765_568),  # published
    ({"resolution": 128}, 12_786_560, 11_164_416),
    ({"resolution": 32}, 1_068_928, 663_296),
    ({"width": 128, "kernel_size": 5}, 18_855_040, 17_232_768),
    ({"resolution": 28, "channels": 1}, 840_321, 212_865),
])  # fmt: skip
def test_parameter_counts_and_shapes(config, generator, discriminator):
    with torch.device("meta"):
        game = create("dcgan", **config)
        images = game.generator(torch.empty(2, 100))
        logits = game.discriminator(images)
    assert (count(game.generator), count(game.discriminator)) == (generator, discriminator)
    size = config.get("resolution", 64)
    assert (images.shape, logits.shape) == ((2, config.get("channels", 3), size, size), (2,))


def normalised(layer, x, slope=None):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    x = (x - mean) / (var + 1e-5).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]
    return x if slope is None else torch.where(x > 0, x, slope * x)


@pytest.mark.parametrize("kernel_size", [4, 5])
def test_networks_are_those_of_the_figure(kernel_size):
    game = create("dcgan", kernel_size=kernel_size, **TINY).double().train()
    step_checks.unsettle(game)
    generator, features = game.generator, game.discriminator.features
    h = torch.randn(3, 5, dtype=F64)
    images = generator(h)
    h = F.conv_transpose2d(h[:, :, None, None], generator.project.weight)
    for conv, norm in zip(generator.convs, generator.norms, strict=True):
        h = normalised(norm, h, 0.0)
        # A transposed convolution is a convolution of the map with zeros between its pixels.
        spread = torch.zeros(3, h.shape[1], 2 * h.shape[2] - 1, 2 * h.shape[3] - 1, dtype=F64)
        spread[:, :, ::2, ::2] = h
        weight = conv.weight.flip(2, 3).transpose(0, 1)
        padding = (2, 2, 2, 2) if kernel_size == 4 else (2, 3, 2, 3)
        h = F.conv2d(F.pad(spread, padding), weight)
    torch.testing.assert_close(images, torch.tanh(h))
    h = torch.where((h := features.convs[0](images)) > 0, h, 0.2 * h)
    for conv, norm in zip(features.convs[1:], features.norms, strict=True):
        h = normalised(norm, conv(h), 0.2)
    expected = (h.flatten(1) * game.discriminator.output.weight).sum(1)
    assert h.shape == (3, 8, 4, 4)
    torch.testing.assert_close(game.discriminator(images), expected)


def test_small_variant_normalises_after_the_activation():
    game = create("dcgan", **SMALL).double().train()
    step_checks.unsettle(game)
    net, z = game.generator, torch.randn(3, 5, dtype=F64)
    h = normalised(net.norm1, net.linear(z).view(3, 4, 7, 7))
    h = normalised(net.norm2, torch.relu(net.conv1(h)))
    assert h.shape == (3, 2, 14, 14)
    torch.testing.assert_close(net(z), torch.tanh(net.conv2(h)))
    images = torch.rand(3, 1, 28, 28, dtype=F64)
    dropped = game.discriminator(images)
    assert not torch.equal(dropped, game.discriminator(images))
    game.eval()
    features = game.discriminator.features
    h = F.leaky_relu(features.conv2(F.leaky_relu(features.conv1(images), 0.2)), 0.2)
    torch.testing.assert_close(game.discriminator(images), game.discriminator.output(h.flatten(1))[:, 0])


def test_recipe_of_the_paper():
    torch.manual_seed(0)
    game = create("dcgan", resolution=32)
    assert {p.name: p.optimizer for p in game.players()} == dict.fromkeys(
        ("discriminator", "generator"), Adam(2e-4, (0.5, 0.999))
    )
    weights = torch.cat([p.detach().flatten() for name, p in game.named_parameters() if p.dim() > 1])
    gains = torch.cat([p.detach() for name, p in game.named_parameters() if "norms" in name and "weight" in name])
    assert abs(weights.std().item() - 0.02) < 2e-4
    assert abs(gains.mean().item() - 1) < 0.01
    assert 0.015 < gains.std().item() < 0.025
    assert not any(p.any() for name, p in game.named_parameters() if name.endswith("bias"))
    assert create("dcgan", latent="uniform", **TINY).latent == "uniform"


def test_feature_maps_are_channels_last():
    game = create("dcgan", **{**TINY, "channels": 3})
    seen = []
    for conv in (*game.generator.convs[:-1], *game.discriminator.features.convs):
        conv.register_forward_hook(
            lambda module, args, y: seen.append(y.is_contiguous(memory_format=torch.channels_last))
        )
    game.discriminator(game.generator(torch.randn(2, 5)).contiguous())
    assert len(seen) == 5
    assert all(seen)


def test_wgan_gp():
    game = create("dcgan", loss="wasserstein", wgan_gp=10.0, **SMALL).double().eval()
    step_checks.unsettle(game)
    real = torch.rand(3, 1, 28, 28, dtype=torch.float64) * 2 - 1
    noise = torch.Generator().manual_seed(0)
    values = game.discriminator_loss(Batch(real), Noise(noise))
    noise.manual_seed(0)
    fake = game.generator(torch.randn(3, 5, generator=noise, dtype=torch.float64)).detach()
    share = torch.rand(3, 1, 1, 1, generator=noise, dtype=torch.float64)
    between = (real + share * (fake - real)).requires_grad_()
    (slope,) = torch.autograd.grad(game.discriminator(between).sum(), between)
    penalty = 10.0 * (slope.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
    torch.testing.assert_close(values["wgan_gp"], penalty)
    critic = game.discriminator(fake).mean() - game.discriminator(real).mean()
    torch.testing.assert_close(values["loss"], critic + penalty)


@pytest.mark.interpreter
def test_backends_agree_on_a_step():
    game = create("dcgan", **{**TINY, "width": 1})
    assert_backends_agree(game, Batch(torch.rand(2, 1, 32, 32) * 2 - 1))


@pytest.mark.parametrize("config", [
    TINY,
    {**SMALL, "replay": 5, "minibatch_kernels": 2, "ema_decay": 0.9},
    {**SMALL, "loss": "wasserstein", "wgan_gp": 10.0},
])  # fmt: skip
def test_trains_resumes_and_is_sampled(tmp_path, config):
    assert_trains_and_resumes(lambda: create("dcgan", **config), ToyImages(1, config["resolution"]), tmp_path)


def test_refuses_what_it_is_not_made_for():
    for key, value, message in (
        ("resolution", 48, "resolution: DCGAN is made for 28, 32, 64, 128 px, got 48"),
        ("kernel_size", 3, "kernel_size: expected 4 or 5, got 3"),
        ("latent", "gauss", "latent: expected one of 'normal', 'uniform', got 'gauss'"),
        ("latent_dim", 0, "latent_dim: expected a positive whole number, got 0"),
        ("loss", "hing", "loss: expected one of"),
        ("minibatch_kernels", 1.5, "minibatch_kernels: expected a whole number of at least 0, got 1.5"),
        ("r1_gamma", -1, "r1_gamma: expected a weight of at least 0, got -1"),
        ("wgan_gp", "much", "wgan_gp: expected a weight of at least 0, got 'much'"),
    ):
        with pytest.raises(ValueError, match=message):
            create("dcgan", **{key: value})
    with pytest.raises(ValueError, match=r"z: expected \(B, 5\), got \(2, 4\)"):
        create("dcgan", **TINY).generator(torch.zeros(2, 4))
