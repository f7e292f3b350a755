import inspect

import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise, Shard
from ganfuse.engine.schedules import Progress
from ganfuse.models import create
from tests.models.plain_layers import count
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes, unsettle

F64 = torch.float64
TINY = {
    "resolution": 16,
    "channels": 1,
    "width": 2,
    "channel_max": 4,
    "latent_dim": 5,
    "style_features": 6,
    "mapping_layers": 2,
}
PHASES = {"stable_kimg": 0.008, "fade_kimg": 0.016, "batch_sizes": None}


def game_of(num_classes: int | None = None, **options: object):
    game = create("stylegan", num_classes=num_classes, **{**TINY, **PHASES, **options}).double()
    unsettle(game)
    return game.train()


def batch_of(n: int, resolution: int = 16) -> Batch:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(n, 1, resolution, resolution, generator=generator, dtype=F64) * 2 - 1
    return Batch(images, torch.arange(n) % 3)


def seeded(seed: int = 0, shard: Shard | None = None) -> Noise:
    return Noise(torch.Generator().manual_seed(seed), shard)


# The networks of figure 1b and of the authors' discriminator in plain PyTorch.


def scaled(layer, gain=2**0.5):
    return layer.weight * (gain / layer.weight[0].numel() ** 0.5)


def enlarged(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def blurred(x):
    taps = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype) / 4
    kernel = torch.outer(taps, taps).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def plain_epilogue(layer, x, w, noise):
    x = x + noise * layer.adain.noise_strength[:, None, None] + layer.adain.prologue_bias[:, None, None]
    x = F.leaky_relu(x, 0.2)
    x = x - x.mean((2, 3), keepdim=True)
    x = x / (x.square().mean((2, 3), keepdim=True) + 1e-8).sqrt()
    dense = layer.adain.style
    style = w @ (dense.weight / w.shape[1] ** 0.5).t() + dense.bias
    gain, bias = style.view(len(w), 2, -1, 1, 1).unbind(1)
    return x * (gain + 1) + bias


def plain_synthesis(net, ws, level, alpha):
    maps = []
    for index, block in enumerate(net.blocks[: level + 1]):
        if index == 0:
            x = block.const.expand(len(ws), -1, -1, -1)
        else:
            x = blurred(F.conv2d(enlarged(maps[-1]), scaled(block.conv0), padding=1))
        x = plain_epilogue(block.epilogue0, x, ws[:, 2 * index], block.epilogue0.noise_const)
        x = F.conv2d(x, scaled(block.conv1), padding=1)
        maps.append(plain_epilogue(block.epilogue1, x, ws[:, 2 * index + 1], block.epilogue1.noise_const))

    def rgb(i):
        return F.conv2d(maps[i], scaled(net.torgb[i], 1.0), net.torgb[i].bias)

    return rgb(level) if alpha == 1.0 else (1 - alpha) * enlarged(rgb(level - 1)) + alpha * rgb(level)


def plain_discriminator(net, images, level, alpha, group):
    def conv(layer, x):
        return F.conv2d(x, scaled(layer), padding=layer.weight.shape[-1] // 2)

    def act(layer, x):
        return F.leaky_relu(x + layer.bias[:, None, None], 0.2)

    h = act(net.fromrgb[level], conv(net.fromrgb[level], images))
    for current in range(level, 0, -1):
        block = net.blocks[current - 1]
        h = blurred(act(block.conv0, conv(block.conv0, h)))
        h = act(block.conv1, F.avg_pool2d(conv(block.conv1, h), 2))
        if current == level and alpha < 1.0:
            small = F.avg_pool2d(images, 2)
            h = (1 - alpha) * act(net.fromrgb[level - 1], conv(net.fromrgb[level - 1], small)) + alpha * h
    # Groups of samples that lie apart by the number of groups.
    groups = len(h) // group
    split = h.view(group, groups, *h.shape[1:])
    deviation = (split.var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3)).repeat(group)
    h = torch.cat([h, deviation.view(-1, 1, 1, 1).expand(-1, 1, 4, 4)], 1)
    h = act(net.conv, conv(net.conv, h)).flatten(1)
    h = F.leaky_relu(h @ scaled(net.fc).t() + net.fc.bias, 0.2)
    return h @ scaled(net.out, 1.0).t() + net.out.bias


@pytest.mark.parametrize(("level", "alpha"), [(0, 1.0), (1, 0.25), (2, 1.0)])
def test_networks_and_fade(level, alpha):
    game = game_of()
    share = None if alpha == 1.0 else torch.tensor(alpha, dtype=F64)
    synthesis = game.generator.synthesis
    ws = torch.randn(3, 2 * (level + 1), 6, dtype=F64)
    images = synthesis(ws, level, share, "const")
    torch.testing.assert_close(images, plain_synthesis(synthesis, ws, level, alpha))
    batch = torch.randn(8, 1, 4 << level, 4 << level, dtype=F64)
    logits = game.discriminator(batch, level=level, alpha=share)
    torch.testing.assert_close(logits, plain_discriminator(game.discriminator, batch, level, alpha, 4).squeeze(1))


def test_the_label_chooses_the_logit():
    game = game_of(3)
    images, labels = torch.randn(4, 1, 16, 16, dtype=F64), torch.tensor([2, 0, 1, 1])
    expected = plain_discriminator(game.discriminator, images, 2, 1.0, 4)
    torch.testing.assert_close(game.discriminator(images, labels), expected[range(4), labels])


def test_parameter_counts_and_shapes():
    with torch.device("meta"):
        game = create("stylegan")
        images = game.generator(torch.empty(2, 512))
        assert game.discriminator(images).shape == (2,)
    assert images.shape == (2, 3, 1024, 1024)
    # As the authors' code prints them.
    assert (count(game.generator), count(game.discriminator)) == (26_219_627, 23_087_249)
    assert count(game.generator.mapping) == 8 * (512 * 512 + 512)
    assert torch.equal(create("stylegan", **TINY).generator.synthesis.blocks[0].const, torch.ones(4, 4, 4))


def test_crossover_lies_within_the_layers_that_are_there():
    game = game_of()
    for images, layers in ((0, 4), (12, 6), (60, 6)):
        game.before_step(Progress(images=images))
        assert game.layers == layers
        drawn = [game.draw_mixing(2, seeded(seed)) for seed in range(120)]
        assert {int(crossover) for _, crossover in drawn} == set(range(1, layers + 1))
        unmixed = sum(int(crossover) == layers for _, crossover in drawn) / len(drawn)
        assert 0.02 < unmixed < 0.25
    # One for all shares of a batch.
    shares = [game.draw_mixing(2, seeded(5, Shard(i, 2)))[1] for i in range(2)]
    assert torch.equal(shares[0], shares[1])


def test_mixed_and_truncated_styles():
    game = game_of().eval()
    generator = game.generator
    generator.mapping.w_avg.value.normal_()
    z, other = torch.randn(2, 3, 5, dtype=F64).unbind(0)
    w, second, mean = generator.mapping(z), generator.mapping(other), generator.mapping.w_avg.value
    mixed = generator(z, level=1, mixed=(other, torch.tensor([3])))
    ws = torch.stack([w, w, w, second], 1)
    torch.testing.assert_close(mixed, plain_synthesis(generator.synthesis, ws, 1, 1.0))
    truncated = generator(z, level=2, truncation=0.7, truncation_cutoff=4)
    ws = torch.stack([mean + 0.7 * (w - mean)] * 4 + [w] * 2, 1)
    torch.testing.assert_close(truncated, plain_synthesis(generator.synthesis, ws, 2, 1.0))


def test_losses_in_a_fade():
    game, batch = game_of(style_mixing=0.0, group_size=2), batch_of(4)
    with torch.no_grad():
        for name, parameter in game.generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.zero_()
    game.before_step(Progress(images=12))
    values = game.discriminator_loss(batch, seeded())
    z = game.draw_latents(4, seeded())
    ws = game.generator.mapping(z).unsqueeze(1).expand(-1, 6, -1)
    fake = plain_synthesis(game.generator.synthesis, ws, 2, 0.25).detach()
    real = 0.75 * enlarged(F.avg_pool2d(batch.images, 2)) + 0.25 * batch.images

    def judge(images):
        return plain_discriminator(game.discriminator, images, 2, 0.25, 2).squeeze(1)

    leaf = real.clone().requires_grad_()
    (slope,) = torch.autograd.grad(judge(leaf).sum(), leaf)
    expected = F.softplus(-judge(real)).mean() + F.softplus(judge(fake)).mean()
    expected = expected + 10 / 2 * slope.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(values["loss"], expected)
    torch.testing.assert_close(game.generator_loss(batch, seeded())["loss"], F.softplus(-judge(fake)).mean())


def test_recipe_of_the_paper():
    with torch.device("meta"):
        game = create("stylegan")
    starts = [int(1.2e6 * phase) for phase in range(8)]
    assert [game.stage(Progress(images=start)).name for start in starts][:2] == ["8 px", "16 px"]
    assert [game.stage(Progress(images=s)).batch_size for s in starts] == [256, 128, 64, 32, 32, 32, 32, 32]
    for player in game.players():
        assert (player.optimizer.lr, player.optimizer.betas) == (1e-3, (0.0, 0.99))
        rates = [1e-3 * player.schedule(Progress(images=start)) for start in starts]
        assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 1e-3, 1.5e-3, 2e-3, 3e-3, 3e-3])
    (average,) = game.ema_targets()
    assert average.half_life == 10_000.0
    # R1 in every step, within the discriminator's turn.
    assert [(turn.name, turn.second_order) for turn in game.turns()] == [("discriminator", True), ("generator", False)]
    assert game.penalties["r1"] == 10.0


@pytest.mark.parametrize("num_classes", [None, 3])
def test_trains_resumes_and_samples(tmp_path, num_classes):
    def make():
        return create("stylegan", **{**TINY, **PHASES, "stable_kimg": 0.002}, num_classes=num_classes)

    game = assert_trains_and_resumes(make, ToyImages(1, 16), tmp_path)
    # The second step, after 4 images, is in the first fade.
    assert game.growth.level == 2
    assert float(game.growth.alpha) == pytest.approx(2 / 16)
    assert game.generator.mapping.w_avg.value.any()
    assert "truncation" in inspect.signature(game.sample).parameters
    fixed = game.sample(2, rng=torch.Generator().manual_seed(0), truncation=0.0, noise_mode="none")
    if num_classes is None:
        torch.testing.assert_close(fixed[0], fixed[1], rtol=1e-4, atol=1e-4)


@pytest.mark.interpreter
def test_backends_agree():
    game = create("stylegan", **{**TINY, **PHASES, "resolution": 8, "start": 4})
    game.before_step(Progress(images=12))
    assert_backends_agree(game, batch_of(2, 8), penalty=False)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"resolution": 20}, "resolution: StyleGAN is made for 8, 16"),
    ({"start": 32}, "start: expected one of 4, 8, 16"),
    ({"width": 0}, "width: expected a positive whole number"),
    ({"style_mixing": 2}, "style_mixing: expected a number"),
    ({"lr_by_resolution": {"x": 1}}, "lr_by_resolution: expected resolutions for keys"),
    ({"r1_gamma": -1}, "r1_gamma: expected a number of at least 0"),
    ({"ema_kimg": 0}, "ema_kimg: expected a number"),
])  # fmt: skip
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        create("stylegan", **{**TINY, **wrong})


def test_bad_inputs_are_named():
    game = create("stylegan", **TINY)
    with pytest.raises(ValueError, match=r"ws: expected \(B, 4, 6\), got \(2, 6, 6\)"):
        game.generator.synthesis(torch.randn(2, 6, 6), 1, None, "none")
    with pytest.raises(ValueError, match="noise_mode: expected one of 'random', 'const', 'none'"):
        game.generator(torch.randn(2, 5), noise_mode="loud")
