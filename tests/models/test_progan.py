import copy

import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine import Trainer, load_run
from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.engine.schedules import Progress
from ganfuse.models import create
from ganfuse.models.progan import BATCH_SIZES
from tests.models.plain_layers import count
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_same, assert_trains_and_resumes, unsettle

F64 = torch.float64
TINY = {"resolution": 16, "channels": 1, "width": 2, "channel_max": 4, "latent_dim": 5}
# Ends of phases of 4×4, 8×8 and 16×16, in thousands of images.
PHASES = {"stable_kimg": 0.008, "fade_kimg": 0.016, "batch_sizes": None}


def game_of(**options: object):
    game = create("progan", **{**TINY, **PHASES, **options}).double()
    unsettle(game)
    return game.train()


def batch_of(n: int) -> Batch:
    generator = torch.Generator().manual_seed(2)
    return Batch(torch.rand(n, 1, 16, 16, generator=generator, dtype=F64) * 2 - 1)


def seeded() -> Noise:
    return Noise(torch.Generator().manual_seed(0))


# The networks of table 2 in plain PyTorch.


def conv(layer, x, gain=2**0.5):
    weight = layer.weight * (gain / layer.weight[0].numel() ** 0.5)
    return F.conv2d(x, weight, layer.bias, padding=layer.weight.shape[-1] // 2)


def pixel_normed(x):
    return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


def enlarged(x):
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


def plain_generator(net, z, level, alpha):
    base = net.base
    h = pixel_normed(z) @ (base.fc.weight * (2**0.5 / 4 / z.shape[1] ** 0.5)).t()
    h = h.view(len(z), -1, 4, 4) + base.bias[:, None, None]
    h = pixel_normed(F.leaky_relu(h, 0.2))
    maps = [pixel_normed(F.leaky_relu(conv(base.conv, h), 0.2))]
    for block in net.blocks[:level]:
        h = pixel_normed(F.leaky_relu(conv(block.conv0, enlarged(maps[-1])), 0.2))
        maps.append(pixel_normed(F.leaky_relu(conv(block.conv1, h), 0.2)))
    image = conv(net.torgb[level], maps[level], 1.0)
    if alpha == 1.0:
        return image
    return (1 - alpha) * enlarged(conv(net.torgb[level - 1], maps[level - 1], 1.0)) + alpha * image


def plain_discriminator(net, images, level, alpha):
    h = F.leaky_relu(conv(net.fromrgb[level], images), 0.2)
    for current in range(level, 0, -1):
        block = net.blocks[current - 1]
        h = F.leaky_relu(conv(block.conv0, h), 0.2)
        h = F.avg_pool2d(F.leaky_relu(conv(block.conv1, h), 0.2), 2)
        if current == level and alpha < 1.0:
            old = F.leaky_relu(conv(net.fromrgb[level - 1], F.avg_pool2d(images, 2)), 0.2)
            h = (1 - alpha) * old + alpha * h
    deviation = (h.var(0, correction=0) + 1e-8).sqrt().mean()
    h = torch.cat([h, deviation.expand(len(h), 1, 4, 4)], 1)
    h = F.leaky_relu(conv(net.conv, h), 0.2).flatten(1)
    h = F.leaky_relu(h @ (net.fc.weight * (2 / h.shape[1]) ** 0.5).t() + net.fc.bias, 0.2)
    return (h @ net.out.weight.t() / h.shape[1] ** 0.5 + net.out.bias).squeeze(1)


@pytest.mark.parametrize(("level", "alpha"), [(0, 1.0), (1, 0.25), (1, 1.0), (2, 0.75), (2, 1.0)])
def test_networks_and_fade(level, alpha):
    game = game_of()
    share = None if alpha == 1.0 else torch.tensor(alpha, dtype=F64)
    z, images = torch.randn(3, 5, dtype=F64), torch.randn(3, 1, 4 << level, 4 << level, dtype=F64)
    ours = game.generator(z, level=level, alpha=share)
    assert ours.shape == images.shape
    torch.testing.assert_close(ours, plain_generator(game.generator, z, level, alpha))
    logits = game.discriminator(images, level=level, alpha=share)
    torch.testing.assert_close(logits, plain_discriminator(game.discriminator, images, level, alpha))


def test_parameter_counts_and_shapes():
    with torch.device("meta"):
        game = create("progan")
        images = game.generator(torch.empty(2, 512))
        assert game.discriminator(images).shape == (2,)
    assert images.shape == (2, 3, 1024, 1024)
    # Table 2 of the paper: 23.1 million each; the authors' code prints these numbers.
    assert (count(game.generator), count(game.discriminator)) == (23_079_115, 23_087_249)


def test_losses_in_a_fade():
    game, batch = game_of(), batch_of(4)
    # A quarter into the fade of 8×8.
    game.before_step(Progress(images=12))
    assert (game.growth.level, float(game.growth.alpha)) == (1, 0.25)
    values = game.discriminator_loss(batch, seeded())
    noise = seeded()
    z = game.draw_latents(4, noise)
    mix = noise.uniform(4, 1, 1, 1, dtype=F64)
    eight = F.avg_pool2d(batch.images, 2)
    real = 0.75 * enlarged(F.avg_pool2d(eight, 2)) + 0.25 * eight
    fake = plain_generator(game.generator, z, 1, 0.25).detach()
    scores = [plain_discriminator(game.discriminator, images, 1, 0.25) for images in (real, fake)]
    between = (real + mix * (fake - real)).requires_grad_()
    score = plain_discriminator(game.discriminator, between, 1, 0.25).sum()
    (slope,) = torch.autograd.grad(score, between, create_graph=True)
    norms = slope.square().sum((1, 2, 3)).sqrt()
    expected = scores[1].mean() - scores[0].mean() + 10 * (norms - 1).square().mean()
    expected = expected + 1e-3 * scores[0].square().mean()
    torch.testing.assert_close(values["loss"], expected)
    parameters = list(game.discriminator.parameters())
    ours = torch.autograd.grad(values["loss"], parameters, materialize_grads=True)
    theirs = torch.autograd.grad(expected, parameters, materialize_grads=True)
    for mine, other in zip(ours, theirs):
        torch.testing.assert_close(mine, other)
    generated = game.generator_loss(batch, seeded())["loss"]
    torch.testing.assert_close(generated, -scores[1].mean())


def test_recipe_of_the_paper():
    with torch.device("meta"):
        game = create("progan")
    for player in game.players():
        assert (player.optimizer.lr, player.optimizer.betas, player.optimizer.eps) == (1e-3, (0.0, 0.99), 1e-8)
    (average,) = game.ema_targets()
    assert (average.decay, average.warmup) == (0.999, False)
    sizes = [game.stage(Progress(images=int(1.2e6 * phase))).batch_size for phase in range(9)]
    assert sizes == [16, 16, 16, 16, 16, 16, 14, 6, 3]
    assert BATCH_SIZES[1024] == 3
    assert game.turns()[0].second_order


def test_samples_are_enlarged_to_full_resolution():
    game = create("progan", **TINY, **PHASES)
    images = game.sample(2, rng=torch.Generator().manual_seed(0))
    assert images.shape == (2, 1, 16, 16)
    assert torch.equal(images, F.interpolate(images[..., ::4, ::4], scale_factor=4))


def test_resumes_in_the_middle_of_a_fade_bit_for_bit(tmp_path):
    data = ToyImages(1, 16)
    # Batches of 4: 4×4 for 2 steps and a bit, 8×8 fades in for 4 steps, is stable for 2, then 16×16 fades in.
    options = {"batch_size": 4, "device": "cpu", "progress": False, "num_samples": 4, "sample_every": 0}

    def fit(out, steps, **more):
        torch.manual_seed(0)
        game = create("progan", **TINY, **PHASES)
        Trainer(game, data, out=tmp_path / out, steps=steps, **{**options, **more}).fit()
        return game

    whole = fit("whole", 11)
    assert whole.growth.level == 2
    for steps in (5, 9, 11):
        fit("parts", steps, resume=steps > 5)
    half = load_run(tmp_path / "parts", weights="raw")
    assert (half.growth.level, float(half.growth.alpha)) == (2, float(whole.growth.alpha))
    different = [k for k, v in whole.state_dict().items() if not torch.equal(half.state_dict()[k], v)]
    assert not different
    # Step 5 lay within a fade: the run that was loaded there sampled 8×8.
    fit("early", 5)
    early = load_run(tmp_path / "early")
    assert early.growth.level == 1
    assert 0.0 < float(early.growth.alpha) < 1.0
    images = early.sample(2, rng=torch.Generator().manual_seed(0))
    assert torch.equal(images, F.interpolate(images[..., ::2, ::2], scale_factor=2))


def test_optimisers_start_anew_with_every_phase(tmp_path):
    seen = []

    def note(trainer):
        state = trainer.turn_runner.optimizers["generator"].state
        seen.append((trainer.phase, max((int(s["step"]) for s in state.values()), default=0)))

    game = create("progan", **TINY, **PHASES)
    options = {"batch_size": 4, "device": "cpu", "progress": False, "num_samples": 1, "sample_every": 0}
    Trainer(game, ToyImages(1, 16), out=tmp_path / "run", steps=9, hooks=[note], **options).fit()
    assert seen == [
        ("4 px", 1), ("4 px", 2), ("4 px", 3),
        ("8 px, fading in", 1), ("8 px, fading in", 2), ("8 px, fading in", 3),
        ("8 px", 1), ("8 px", 2), ("8 px", 3),
    ]  # fmt: skip


def test_trains_resumes_and_samples(tmp_path):
    assert_trains_and_resumes(
        lambda: create("progan", **{**TINY, "batch_sizes": {"4": 4}}), ToyImages(1, 16), tmp_path, batch_size=2
    )


@pytest.mark.interpreter
def test_backends_agree():
    game = create("progan", **{**TINY, **PHASES, "resolution": 8})
    game.before_step(Progress(images=12))
    batch = batch_of(2)
    assert_backends_agree(game, Batch(F.avg_pool2d(batch.images, 2)), penalty=False)


def test_level_and_share_follow_from_the_progress():
    game, batch = game_of(), batch_of(4)
    other = copy.deepcopy(game)
    for images in (0, 12, 30, 40):
        game.before_step(Progress(images=images))
    other.before_step(Progress(images=40))
    assert_same(
        {"loss": other.generator_loss(batch, seeded())["loss"].detach()},
        {"loss": game.generator_loss(batch, seeded())["loss"].detach()},
    )
    assert game.growth.level == 2


@pytest.mark.parametrize(("wrong", "message"), [
    ({"resolution": 20}, "resolution: ProGAN is made for 8, 16"),
    ({"width": 0}, "width: expected a positive whole number"),
    ({"group_size": 0}, "group_size: expected a positive whole number"),
    ({"drift_weight": -1}, "drift_weight: expected a number of at least 0"),
    ({"batch_sizes": "mine"}, "batch_sizes: expected 'paper'"),
    ({"stable_kimg": -1}, "stable_kimg: expected a number"),
    ({"wgan_gp": -1}, "wgan_gp: expected a weight"),
])  # fmt: skip
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        create("progan", **{**TINY, **wrong})


def test_bad_inputs_are_named():
    game = create("progan", **TINY)
    with pytest.raises(ValueError, match=r"z: expected \(B, 5\), got \(2, 4\)"):
        game.generator(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, 8, 8\), got \(2, 1, 16, 16\)"):
        game.discriminator(torch.randn(2, 1, 16, 16), level=1)
