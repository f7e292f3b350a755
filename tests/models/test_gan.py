import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam, RMSprop
from ganfuse.models import create
from tests.models import step_checks
from tests.models.plain_layers import count
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
TINY = {"resolution": 8, "width": 4, "latent_dim": 5}


@pytest.mark.parametrize(("config", "generator", "discriminator"), [
    ({}, 30 * 100 + 100 + 100 * 150 + 150 + 150 * 784 + 784, 784 * 150 + 150 + 150 * 100 + 100 + 101),
    ({"architecture": "batch-norm"}, 1_510_032, 784 * 512 + 512 + 512 * 256 + 256 + 257),
    ({"minibatch_kernels": 100}, 136_634, 132_951 + 100 * 500 + 100),
])  # fmt: skip
def test_parameter_counts_and_shapes(config, generator, discriminator):
    with torch.device("meta"):
        game = create("gan", **config)
        images = game.generator(torch.empty(3, *game.latent_shape))
        logits = game.discriminator(images)
    assert (count(game.generator), count(game.discriminator)) == (generator, discriminator)
    assert (images.shape, logits.shape) == ((3, 1, 28, 28), (3,))


def test_networks_are_the_formula():
    game = create("gan", **TINY).double()
    step_checks.unsettle(game)
    (g1, g2), (d1, d2) = game.generator.hidden, game.discriminator.features.hidden
    z, images = torch.randn(3, 5, dtype=F64), torch.rand(3, 1, 8, 8, dtype=F64) * 2 - 1
    output, last = game.generator.output, game.discriminator.output
    pixels = torch.sigmoid(output(F.gelu(g2.linear(F.gelu(g1.linear(z))))))
    torch.testing.assert_close(game.generator(z), (2 * pixels - 1).view(3, 1, 8, 8))
    hidden = F.gelu(d2.linear(F.gelu(d1.linear((images.flatten(1) + 1) / 2))))
    torch.testing.assert_close(game.discriminator(images), last(hidden)[:, 0])


def test_batch_norm_networks_are_the_formula():
    game = create("gan", architecture="batch-norm", **TINY).double().train()
    step_checks.unsettle(game)
    z = torch.randn(6, 5, dtype=F64)
    h = z
    for index, layer in enumerate(game.generator.hidden):
        h = h @ layer.linear.weight.t() + layer.linear.bias
        if index > 0:
            h = (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt() * layer.bn.weight + layer.bn.bias
        h = torch.where(h > 0, h, 0.2 * h)
    expected = torch.tanh(game.generator.output(h)).view(6, 1, 8, 8)
    torch.testing.assert_close(game.generator(z), expected)
    assert [layer.bn is None for layer in game.generator.hidden] == [True, False, False, False]


@pytest.mark.parametrize("loss", ["non-saturating", "minimax"])
@pytest.mark.parametrize("minibatch_kernels", [0, 3])
def test_losses_are_those_of_the_paper(loss, minibatch_kernels):
    game = create("gan", loss=loss, minibatch_kernels=minibatch_kernels, **TINY).double()
    batch = Batch(torch.rand(4, 1, 8, 8, dtype=F64) * 2 - 1)

    def noise():
        return Noise(torch.Generator().manual_seed(0))

    fakes = game.generator(noise().normal(4, 5, dtype=F64))
    real, fake = torch.sigmoid(game.discriminator(batch.images)), torch.sigmoid(game.discriminator(fakes))
    value = real.log().mean() + (1 - fake).log().mean()
    torch.testing.assert_close(game.discriminator_loss(batch, noise())["loss"], -value)
    expected = (1 - fake).log().mean() if loss == "minimax" else -fake.log().mean()
    torch.testing.assert_close(game.generator_loss(batch, noise())["loss"], expected)


def test_recipes():
    with torch.device("meta"):
        first, second = create("gan"), create("gan", architecture="batch-norm", generator_lr=1e-4)
    rms = RMSprop(1e-3, alpha=0.9, eps=1e-7)
    assert {p.name: p.optimizer for p in first.players()} == {"discriminator": rms, "generator": rms}
    assert {p.name: p.optimizer for p in second.players()} == {
        "discriminator": Adam(2e-4, (0.5, 0.999)),
        "generator": Adam(1e-4, (0.5, 0.999)),
    }
    assert first.ema_targets() == ()


def test_replay_shows_the_discriminator_older_images_and_is_saved():
    game = create("gan", replay=8, **TINY)
    batch = Batch(torch.zeros(8, 1, 8, 8))
    discriminator, generator = game.turns()
    assert (discriminator.capturable, generator.capturable) == (False, True)
    noise = Noise(torch.Generator().manual_seed(0))
    first, _ = game.fakes_to_judge(batch, noise)
    assert torch.equal(game.replay.images, first)
    second, _ = game.fakes_to_judge(batch, noise)
    old = [any(torch.equal(image, older) for older in first) for image in second]
    assert 0 < sum(old) < 8
    assert {"replay.images", "replay.filled"} <= set(game.state_dict())


@pytest.mark.interpreter
@pytest.mark.parametrize("config", [{"architecture": "batch-norm"}, {"minibatch_kernels": 2}])
def test_backends_agree_on_a_step(config):
    game = create("gan", **{**TINY, "resolution": 4, "width": 2}, **config)
    assert_backends_agree(game, Batch(torch.rand(4, 1, 4, 4) * 2 - 1))


@pytest.mark.parametrize("config", [{"replay": 5}, {"architecture": "batch-norm", "minibatch_kernels": 3}])
def test_trains_resumes_and_is_sampled(tmp_path, config):
    assert_trains_and_resumes(lambda: create("gan", **TINY, **config), ToyImages(1, 8), tmp_path)


def test_refuses_what_it_is_not_made_for():
    for key, value, message in (
        ("architecture", "conv", "architecture: expected one of 'gelu', 'batch-norm', got 'conv'"),
        ("loss", "hinge", "loss: expected one of 'non-saturating', 'minimax', got 'hinge'"),
        ("width", 0, "width: expected a positive whole number, got 0"),
        ("replay", -1, "replay: expected a whole number of at least 0, got -1"),
        ("minibatch_kernels", -1, "minibatch_kernels: expected a whole number of at least 0, got -1"),
        ("minibatch_kernels", 1.5, "minibatch_kernels: expected a whole number of at least 0, got 1.5"),
        ("betas", [0.9, 0.999], "betas: of Adam, and architecture='gelu' has RMSprop; got"),
        ("betas", 0.9, "betas: of Adam, and architecture='gelu' has RMSprop; got 0.9"),
    ):
        with pytest.raises(ValueError, match=message):
            create("gan", **{key: value})
    # Configurations of earlier runs have them.
    create("gan", **TINY, betas=[0.5, 0.999])
    for betas, found in ((None, (0.5, 0.999)), ([0.9, 0.99], (0.9, 0.99))):
        for player in create("gan", **TINY, architecture="batch-norm", betas=betas).players():
            assert player.optimizer.betas == found
    game = create("gan", **TINY)
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, 8, 8\), got \(2, 1, 9, 8\)"):
        game.discriminator(torch.zeros(2, 1, 9, 8))
    with pytest.raises(ValueError, match=r"condition: expected None, got \(2, 3\)"):
        game.discriminator.features(torch.zeros(2, 1, 8, 8), torch.zeros(2, 3))
