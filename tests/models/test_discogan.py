import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.engine.schedules import Progress
from ganfuse.models import create
from ganfuse.models.discogan import feature_matching_loss
from tests.models.step_checks import assert_same
from tests.models.translation_checks import (
    ToyDomains,
    assert_backends_agree,
    assert_names_what_is_wrong,
    assert_trains_and_resumes,
    count,
    play,
    toy_batch,
    unsettle,
)

TINY = {"resolution": 32, "width": 2, "channels": 1}


def convolutions(*sizes):
    return sum(inputs * outputs * 16 for inputs, outputs in sizes)


@pytest.mark.parametrize("extra_layers", [False, True])
def test_parameter_counts_and_shapes(extra_layers):
    """Those of the layers in the authors' code: convolutions without bias, two numbers per normalised channel."""
    with torch.device("meta"):
        game = create("discogan", extra_layers=extra_layers)
        images = torch.empty(2, 3, 64, 64)
        translated, (logits, features) = game.generator_ab(images), game.discriminator_a(images)
    halves = convolutions((3, 64), (64, 128), (128, 256), (256, 512))
    middle = 2 * convolutions((512, 100)) + 2 * (100 + 512) if extra_layers else 0
    assert count(game.generator_ab) == 2 * halves + 2 * (128 + 256 + 512) + 2 * (256 + 128 + 64) + middle
    assert count(game.discriminator_a) == halves + convolutions((512, 1)) + 2 * (128 + 256 + 512)
    assert (translated.shape, logits.shape) == (images.shape, (2,))
    assert [tuple(f.shape[1:]) for f in features] == [(128, 16, 16), (256, 8, 8), (512, 4, 4)]


def test_feature_matching_is_a_hinge_embedding_of_squares():
    generator = torch.Generator().manual_seed(0)
    real, fake = (
        [torch.randn(4, c, s, s, generator=generator, dtype=torch.float64) for c, s in ((3, 4), (5, 2))] for _ in "rf"
    )
    expected = 0.0
    for r, f in zip(real, fake):
        squares = (r.mean(0) - f.mean(0)) ** 2
        expected += F.hinge_embedding_loss(squares, torch.ones_like(squares))
    torch.testing.assert_close(feature_matching_loss(real, fake), expected, rtol=1e-12, atol=0)


def norm_act(norm, x, slope):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    y = (x - mean) / (var + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
    return F.leaky_relu(y, slope)


def plain_generator(net, images):
    """Images in [0, 1]."""
    h = F.leaky_relu(F.conv2d(images, net.input_conv.weight, stride=2, padding=1), 0.2)
    for conv, norm in net.encoder:
        h = norm_act(norm, F.conv2d(h, conv.weight, stride=2, padding=1), 0.2)
    for conv, norm in net.decoder:
        h = norm_act(norm, F.conv_transpose2d(h, conv.weight, stride=2, padding=1), 0.0)
    return torch.sigmoid(F.conv_transpose2d(h, net.output_conv.weight, stride=2, padding=1))


def plain_discriminator(net, images):
    h = F.leaky_relu(F.conv2d(images, net.input_conv.weight, stride=2, padding=1), 0.2)
    features = []
    for conv, norm in net.blocks:
        h = norm_act(norm, F.conv2d(h, conv.weight, stride=2, padding=1), 0.2)
        features.append(h)
    return torch.sigmoid(F.conv2d(h, net.output_conv.weight)).flatten(), features


@pytest.mark.parametrize("rate", [0.01, 0.5])
def test_losses_are_the_authors_on_images_from_0_to_1(rate):
    game = create("discogan", **TINY).double()
    unsettle(game)
    game.rate.fill_(rate)
    batch = toy_batch(game, 3)
    found = play(game, batch)
    a, b = (batch.images + 1) / 2, (batch.images_b + 1) / 2
    fake_b, fake_a = plain_generator(game.generator_ab, a), plain_generator(game.generator_ba, b)
    back_a, back_b = plain_generator(game.generator_ba, fake_b), plain_generator(game.generator_ab, fake_a)
    losses = {"discriminators": 0.0, "generators": 0.0}
    for net, real, fake, source, back in (
        (game.discriminator_b, b, fake_b, a, back_a),
        (game.discriminator_a, a, fake_a, b, back_b),
    ):
        p_real, real_features = plain_discriminator(net, real)
        p_fake, fake_features = plain_discriminator(net, fake)
        p_detached, _ = plain_discriminator(net, fake.detach())
        losses["discriminators"] += -0.5 * p_real.log().mean() - 0.5 * (1 - p_detached).log().mean()
        matching = sum(((r.mean(0) - f.mean(0)) ** 2).mean() for r, f in zip(real_features, fake_features))
        adversarial = -0.1 * p_fake.log().mean() + 0.9 * matching
        losses["generators"] += (1 - rate) * adversarial + rate * ((back - source) ** 2).mean()
    expected = {}
    for player in game.players():
        loss = losses[player.name]
        gradients = torch.autograd.grad(loss, player.parameters(game), retain_graph=True)
        expected[f"{player.name}/loss"] = loss.detach()
        expected |= {f"{player.name}/{player.name} {i}": gradient for i, gradient in enumerate(gradients)}
    assert_same({key: found[key] for key in expected}, expected)


def test_who_moves_when_and_the_share_of_the_reconstruction():
    game = create("discogan", **TINY, curriculum_steps=4)
    moved = [[turn.name for turn in game.turns() if turn.is_played(step)] for step in range(1, 8)]
    assert moved == [["discriminators"], ["generators"], ["generators"]] * 2 + [["discriminators"]]
    rates = []
    for step in range(1, 8):
        game.before_step(Progress(step=step))
        rates.append(game.rate.item())
    assert rates == pytest.approx([0.01] * 4 + [0.5] * 3)
    with torch.device("meta"):
        assert create("discogan").curriculum_steps == 10_000
    for player in game.players():
        (group,) = player.optimizer(player.parameters(game)).param_groups
        assert (group["lr"], group["weight_decay"], tuple(group["betas"])) == (2e-4, 1e-5, (0.5, 0.999))


def test_trains_resumes_and_translates(tmp_path):
    game = assert_trains_and_resumes(lambda: create("discogan", **TINY), ToyDomains(1, 32), tmp_path)
    assert game.translate(torch.zeros(1, 1, 48, 64)).shape == (1, 1, 48, 64)


def test_with_extra_layers_one_size_only():
    game = create("discogan", **TINY, extra_layers=True)
    assert game.translate(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)
    with pytest.raises(ValueError, match="images: discogan was made for images of 32×32 alone, got a side of 64"):
        game.translate(torch.zeros(1, 1, 32, 64))
    assert game.generator_loss(toy_batch(game.double(), 2), Noise(torch.Generator()))["loss"].isfinite()


@pytest.mark.slow
@pytest.mark.interpreter
def test_backends_agree():
    assert_backends_agree(create("discogan", **{**TINY, "width": 1}))


def test_names_what_is_wrong():
    assert_names_what_is_wrong(
        lambda **more: create("discogan", **{**TINY, **more}),
        betas=(0.5, ("a", "b"), None),
        weight_decay=("x", -1),
        extra_layers=("no", 2),
    )


def test_refuses_what_it_is_not_made_for():
    for key in ("channels", "width", "resolution"):
        with pytest.raises(ValueError, match=f"{key}: expected a positive whole number, got 0"):
            create("discogan", **{**TINY, key: 0})
    for key, value in (("starting_rate", 2), ("feature_matching", -1), ("curriculum_steps", -1), ("betas", (0.5,))):
        with pytest.raises(ValueError, match=key):
            create("discogan", **TINY, **{key: value})
    with pytest.raises(ValueError, match=r"discriminator_interval: .* at least 2"):
        create("discogan", **TINY, discriminator_interval=1)
    for resolution in (16, 40):
        with pytest.raises(ValueError, match=r"resolution: discogan takes .* multiples of 16 and at least 32"):
            create("discogan", **{**TINY, "resolution": resolution})
    game = create("discogan", **TINY)
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, 32, 32\)"):
        game.discriminator_a(torch.zeros(1, 1, 48, 48))
    with pytest.raises(ValueError, match="multiples of 16"):
        game.generator_ab(torch.zeros(1, 1, 40, 48))
    with pytest.raises(ValueError, match="images_b"):
        game.generator_loss(Batch(torch.zeros(2, 1, 32, 32)), Noise(torch.Generator()))
