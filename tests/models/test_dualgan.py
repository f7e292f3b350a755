from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine.noise import Noise
from ganfuse.models import create
from ganfuse.models.dualgan_networks import SameConv2d, SameConvTranspose2d
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

F64 = torch.float64
TINY = {"resolution": 32, "width": 2, "channels": 1}


def test_parameter_counts_and_shapes():
    """Those of the layers: weight, bias, and gain and bias of each normalised channel."""
    with torch.device("meta"):
        game = create("dualgan")
        images = torch.empty(2, 3, 256, 256)
        translated, scores = game.generator_ab(images), game.discriminator_a(images)
    assert (translated.shape, scores.shape) == (images.shape, (2,))
    widths = [64, 128, 256, 512, 512, 512, 512, 512]
    down = sum(9 * i * o + 3 * o for i, o in pairwise(widths))
    up = 9 * 512 * 512 + 3 * 512 + sum(18 * i * o + 3 * o for i, o in zip(widths[6:0:-1], widths[5::-1]))
    assert count(game.generator_ab) == (25 * 3 * 64 + 64) + down + up + (25 * 128 * 3 + 3)
    critic = [64, 128, 256, 512, 512]
    down = sum(9 * i * o + 3 * o for i, o in pairwise(critic))
    assert count(game.discriminator_a) == (25 * 3 * 64 + 64) + down + (512 * 8 * 8 + 1)


@pytest.mark.parametrize("kernel_size", [3, 5])
def test_padding_as_same_in_tensorflow(kernel_size):
    """Output i of a SAME convolution of stride 2 sees pixels 2i - before ... : one pixel more behind than before."""
    conv, transposed = SameConv2d(2, 3, kernel_size).double(), SameConvTranspose2d(3, 2, kernel_size).double()
    x = torch.randn(1, 2, 8, 6, dtype=F64)
    y = conv(x)
    assert y.shape == (1, 3, 4, 3)
    total = kernel_size - 2
    padded = F.pad(x, (total // 2, total - total // 2) * 2)
    for i, j in ((0, 0), (2, 1), (3, 2)):
        window = padded[0, :, 2 * i : 2 * i + kernel_size, 2 * j : 2 * j + kernel_size]
        torch.testing.assert_close(y[0, :, i, j], (conv.weight * window).sum((1, 2, 3)) + conv.bias)
    # The transposed one is its adjoint: <conv(x), y> = <x, transposed(y)>.
    transposed.weight.data.copy_(conv.weight)
    transposed.bias.data.zero_()
    inner = ((y - conv.bias[:, None, None]) * y).sum()
    torch.testing.assert_close((x * transposed(y)).sum(), inner)


def norm(layer, x):
    mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
    return (x - mean) / (var + 1e-6).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]


def plain_generator(net, x, innermost_norm=True):
    passed = [net.input_conv(x)]
    for stage in net.encoder:
        h = stage[0](F.leaky_relu(passed[-1], 0.2))
        passed.append(norm(stage[1], h) if h.shape[2] > 1 or innermost_norm else h)
    h = passed[-1]
    for stage, skip in zip(net.decoder, passed[-2::-1]):
        h = torch.cat([norm(stage[1], stage[0](h.relu())), skip], 1)
    return torch.tanh(net.output_conv(h.relu()))


def plain_critic(net, x):
    h = F.leaky_relu(net.input_conv(x), 0.2)
    for conv, layer in net.blocks:
        h = F.leaky_relu(norm(layer, conv(h)), 0.2)
    return h.flatten(1) @ net.linear.weight[0] + net.linear.bias


@pytest.mark.parametrize("innermost_norm", [True, False])
def test_losses_and_gradients_are_the_formulas(innermost_norm):
    game = create("dualgan", **TINY, innermost_norm=innermost_norm, lambda_a=300.0).double()
    unsettle(game)
    batch = toy_batch(game, 2)
    found = play(game, batch)
    a, b = batch.images, batch.images_b

    def ab(x):
        return plain_generator(game.generator_ab, x, innermost_norm)

    def ba(x):
        return plain_generator(game.generator_ba, x, innermost_norm)

    fake_b, fake_a = ab(a), ba(b)
    generators = -plain_critic(game.discriminator_b, fake_b).mean() - plain_critic(game.discriminator_a, fake_a).mean()
    generators = generators + 300 * (ba(fake_b) - a).abs().mean() + 1000 * (ab(fake_a) - b).abs().mean()
    noise, critics = Noise(torch.Generator().manual_seed(0)), 0.0
    for net, real, fake in ((game.discriminator_a, a, fake_a.detach()), (game.discriminator_b, b, fake_b.detach())):
        critics = critics + plain_critic(net, fake).mean() - plain_critic(net, real).mean()
        mix = noise.uniform(2, 1, 1, 1, dtype=F64)
        between = (real + mix * (fake - real)).requires_grad_()
        (slope,) = torch.autograd.grad(plain_critic(net, between).sum(), between, create_graph=True)
        critics = critics + 10 * ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
    expected = {}
    for player, loss in (("generators", generators), ("discriminators", critics)):
        mine = next(p for p in game.players() if p.name == player).parameters(game)
        gradients = torch.autograd.grad(loss, mine, retain_graph=True, allow_unused=True)
        expected[f"{player}/loss"] = loss.detach()
        expected |= {f"{player}/{player} {i}": g for i, g in enumerate(gradients) if g is not None}
    assert_same({key: found[key] for key in expected}, expected)


def test_a_normalised_pixel_is_the_bias():
    """Defined behaviour of the innermost map: constant with its normalisation, alive without."""
    for innermost_norm in (True, False):
        game = create("dualgan", **TINY, innermost_norm=innermost_norm).double()
        unsettle(game)
        stage, seen = game.generator_ab.encoder[-1], []
        stage.register_forward_hook(lambda module, args, y, seen=seen: seen.append(y))
        translated = game.generator_ab(torch.randn(2, 1, 32, 32, dtype=F64))
        assert seen[0].shape[2:] == (1, 1)
        if innermost_norm:
            torch.testing.assert_close(seen[0], stage[1].bias.view(1, -1, 1, 1).expand_as(seen[0]), rtol=0, atol=0)
        else:
            assert (seen[0][0] - seen[0][1]).abs().min() > 1e-3
        weights = [stage[0].weight, game.generator_ab.input_conv.weight]
        gradient, other = torch.autograd.grad(translated.square().sum(), weights)
        # Nothing but rounding with the normalisation: what cancels is 1/sqrt(eps), a thousand, times as large.
        assert (gradient.abs().max() < 1e-9 * other.abs().max()) == innermost_norm


def test_critics_are_clipped_and_move_more_often(tmp_path):
    recipe = {"discriminator": "patch", "wgan_gp": 0.0, "clip": 0.01, "discriminator_steps": 2}
    game = create("dualgan", **TINY, **recipe)
    with torch.no_grad():
        game.after_step("generators", 1)
        assert game.discriminator_a.output_conv.weight.abs().max() > 0.01
        game.after_step("discriminators", 1)
    assert max(p.abs().max() for p in game.discriminator_a.parameters()) <= 0.01
    played = [[turn.name for turn in game.turns() if turn.is_played(step)] for step in (1, 2)]
    assert played == [["discriminators"], ["discriminators", "generators"]]
    assert not any(turn.second_order for turn in game.turns())
    assert [turn.second_order for turn in create("dualgan", **TINY).turns()] == [True, False]
    assert game.discriminator_b(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 2, 2)
    assert_trains_and_resumes(lambda: create("dualgan", **TINY, **recipe), ToyDomains(1, 32), tmp_path)


def test_recipe():
    with torch.device("meta"):
        game = create("dualgan")
    for player in game.players():
        optimizer = player.optimizer(player.parameters(game))
        assert isinstance(optimizer, torch.optim.RMSprop)
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["alpha"]) == (5e-5, 0.9)
    gains = create("dualgan", **{**TINY, "width": 64}).generator_ab.encoder[-1][1].weight
    assert (gains.mean().item(), gains.std().item()) == pytest.approx((1, 0.02), abs=0.005)


def test_trains_resumes_and_translates(tmp_path):
    game = assert_trains_and_resumes(lambda: create("dualgan", **TINY, dropout=0.5), ToyDomains(1, 32), tmp_path)
    assert game.translate(torch.zeros(1, 1, 64, 32)).shape == (1, 1, 64, 32)


@pytest.mark.slow
@pytest.mark.interpreter
def test_backends_agree():
    assert_backends_agree(create("dualgan", **{**TINY, "width": 1}))


def test_names_what_is_wrong():
    assert_names_what_is_wrong(
        lambda **more: create("dualgan", **{**TINY, **more}),
        decay=("x", 1),
        clip=(0, "x"),
        innermost_norm=("maybe",),
        crop=(),
    )


def test_refuses_what_it_is_not_made_for():
    for key in ("channels", "width", "discriminator_steps"):
        with pytest.raises(ValueError, match=f"{key}: expected a positive whole number, got 0"):
            create("dualgan", **{**TINY, key: 0})
    with pytest.raises(ValueError, match="resolution: DualGAN is made for 32, 64, 128, 256, 512 px, got 48"):
        create("dualgan", resolution=48)
    with pytest.raises(ValueError, match="crop: DualGAN is made for"):
        create("dualgan", resolution=286, crop=250)
    with pytest.raises(ValueError, match="discriminator: expected one of 'global', 'patch', got 'local'"):
        create("dualgan", **TINY, discriminator="local")
    for key in ("lambda_a", "lambda_b", "wgan_gp", "clip", "dropout", "decay"):
        with pytest.raises(ValueError, match=f"{key}: expected a number"):
            create("dualgan", **TINY, **{key: -1})
    game = create("dualgan", **TINY)
    with pytest.raises(ValueError, match="multiples of 32"):
        game.generator_ab(torch.zeros(1, 1, 48, 32))
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, 32, 32\)"):
        game.discriminator_a(torch.zeros(1, 1, 64, 64))
