import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise, Shard
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.replay_pool import ReplayPool
from ganfuse.engine.schedules import Progress
from ganfuse.models import biggan, create, unet_gan, unet_gan_networks
from ganfuse.models.unet_gan_networks import decoder_widths
from tests.models import step_checks
from tests.models.plain_layers import conv, count, doubled, weight
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
TINY = {"resolution": 32, "width": 1, "channels": 1, "latent_dim": 5}


def batch_of(n: int, dtype: torch.dtype = F64) -> Batch:
    generator = torch.Generator().manual_seed(2)
    return Batch(torch.rand(n, 1, 32, 32, generator=generator, dtype=dtype) * 2 - 1, torch.arange(n) % 2)


def game_of(num_classes: int | None = None, **options: object) -> nn.Module:
    game = create("unet-gan", num_classes=num_classes, **{**TINY, **options}).double()
    step_checks.unsettle(game)
    return game.train()


@pytest.mark.parametrize(("resolution", "millions"), [(128, 31.48), (256, 44.07), (64, None)])
def test_parameter_counts_and_shapes(resolution, millions):
    with torch.device("meta"):
        game = create("unet-gan", resolution=resolution)
        images = game.generator(torch.empty(2, 128))
        pixels, logits = game.discriminator(images)
    assert images.shape == (2, 3, resolution, resolution)
    assert pixels.shape == (2, 1, resolution, resolution)
    assert logits.shape == (2,)
    if millions is not None:
        assert round(count(game.discriminator) / 1e6, 2) == millions


def test_widths_of_the_published_decoders():
    assert decoder_widths([64, 128, 256, 512, 1024]) == ([1024, 1024, 512, 256, 128], [512, 256, 128, 64, 64])
    assert decoder_widths([64, 128, 256, 512, 512, 1024]) == (
        [1024, 1024, 1024, 512, 256, 128],
        [512, 512, 256, 128, 64, 64],
    )


def plain_discriminator(net: nn.Module, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
    h, maps = images, []
    for index, block in enumerate(net.encoder):
        x = h
        h = conv(block.conv2, torch.relu(conv(block.conv1, h if index == 0 else torch.relu(h))))
        h = F.avg_pool2d(h, 2) + F.avg_pool2d(conv(block.conv_sc, x), 2)
        maps.append(h)
    features = torch.relu(h).sum((2, 3))
    logits = features @ weight(net.linear)[0] + net.linear.bias
    for index, block in enumerate(net.decoder):
        x = h if index == 0 else torch.cat([h, maps[len(maps) - 1 - index]], 1)
        up = doubled(torch.relu(x))
        h = conv(block.conv2, torch.relu(conv(block.conv1, up)))
        h = h + conv(block.conv_sc, doubled(x))
    pixels = F.conv2d(h, net.output_conv.weight, net.output_conv.bias)
    if labels is not None:
        logits = logits + (weight(net.embedding)[labels] * features).sum(1)
        pixels = pixels + torch.einsum("bchw,bc->bhw", h, weight(net.pixel_embedding)[labels])[:, None]
    return pixels, logits


@pytest.mark.parametrize("num_classes", [None, 2])
def test_discriminator_equals_plain_pytorch(num_classes):
    net = game_of(num_classes).discriminator
    batch = batch_of(2)
    labels = None if num_classes is None else batch.labels
    with torch.no_grad():
        net(batch.images, labels)
    net.eval()
    results = []
    for judge in (net, lambda *a: plain_discriminator(net, *a)):
        pixels, logits = judge(batch.images, labels)
        loss = pixels.square().mean() + logits.square().mean()
        results.append([pixels, logits, *torch.autograd.grad(loss, list(net.parameters()))])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-9, atol=1e-10)


def test_unconditional_generator_is_modulated_by_its_latents():
    """gain = 1 + W₂ relu(W₁ z + b₁) and bias likewise, in every batch normalisation but the last."""
    net = game_of().generator.eval()
    layer, z = net.blocks[1].bn1, torch.randn(2, 5, dtype=F64)
    x = torch.randn(2, 4, 8, 8, dtype=F64)
    gain, bias = (m[2].weight @ torch.relu(m[0].weight @ z.t() + m[0].bias[:, None]) for m in (layer.gain, layer.bias))
    standardised = (x - layer.running_mean[:, None, None]) / (layer.running_var[:, None, None] + 1e-5).sqrt()
    expected = torch.relu(standardised * (1 + gain.t())[:, :, None, None] + bias.t()[:, :, None, None])
    torch.testing.assert_close(layer(x, z), expected)
    assert not torch.allclose(net(z), net(z.flip(0)).flip(0) + 1e-3)
    assert sum(name.endswith("gain.0.weight") for name, _ in net.named_parameters()) == 2 * len(net.blocks)


def masks_of(game: nn.Module, batch: Batch, noise: Noise) -> Tensor:
    """CutMix as the paper's code draws it, with loops: box sides √(1 − r), clipped, swapped for every other image."""
    ratio = noise.beta(1.0, 1.0, len(batch))
    centre = noise.uniform(len(batch), 2)
    swapped = noise.uniform(len(batch), 1, 1, 1).flatten() < 0.5
    masks = torch.ones(len(batch), 1, 32, 32)
    for i in range(len(batch)):
        side = (1 - ratio[i]).sqrt() * 32
        top, left = centre[i] * 32 - side / 2
        low = [int(torch.floor(edge).clamp(0, 32)) for edge in (top, left)]
        high = [int(torch.floor(edge + side).clamp(0, 32)) for edge in (top, left)]
        masks[i, 0, low[0] : high[0], low[1] : high[1]] = 0
        masks[i] = 1 - masks[i] if swapped[i] else masks[i]
    return masks.double()


@pytest.mark.parametrize(("cutmix", "warmth"), [("batches", 1.0), ("always", 0.25)])
@pytest.mark.parametrize("num_classes", [None, 2])
def test_loss_of_a_mixed_batch(cutmix, warmth, num_classes):
    game, batch = game_of(num_classes, cutmix=cutmix), batch_of(3)
    game.warmth = warmth
    state = {name: value.clone() for name, value in game.state_dict().items()}
    seed = next(s for s in range(9) if Noise(torch.Generator().manual_seed(s)).shared().uniform(1) < 0.5)
    values = game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(seed)))
    gradients = torch.autograd.grad(values["loss"], list(game.discriminator.parameters()))

    game.load_state_dict(state)
    noise = Noise(torch.Generator().manual_seed(seed))
    if cutmix == "batches":
        noise.shared().uniform(1)
    labels = None if num_classes is None else batch.labels
    with torch.no_grad():
        fakes = game.generator(game.draw_latents(3, noise), *([] if labels is None else [labels]))
    mask = masks_of(game, batch, noise)
    images = torch.cat([batch.images, fakes, mask * batch.images + (1 - mask) * fakes])
    pixels, logits = game.discriminator(images, None if labels is None else labels.repeat(3))
    (real, fake, mixed), (real_logits, fake_logits, mixed_logits) = pixels.chunk(3), logits.chunk(3)
    bce = F.binary_cross_entropy_with_logits
    inconsistency = F.mse_loss(mixed, mask * real + (1 - mask) * fake)
    loss = bce(mixed, mask) + warmth * bce(mixed_logits, torch.zeros(3, dtype=F64)) + warmth * inconsistency
    if cutmix == "always":
        for found, target in ((real, 1.0), (fake, 0.0), (real_logits, 1.0), (fake_logits, 0.0)):
            loss = loss + bce(found, torch.full_like(found, target))
    torch.testing.assert_close(values["loss"], loss)
    torch.testing.assert_close(values["consistency"], inconsistency)
    # The target of the consistency is not a constant.
    for ours, plain in zip(gradients, torch.autograd.grad(loss, list(game.discriminator.parameters()))):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("loss", ["non-saturating", "hinge"])
def test_losses_of_plain_batches(loss):
    game, batch = game_of(cutmix="none", loss=loss), batch_of(2)
    game.judge = lambda images, labels: (images * 0.7, images.mean((1, 2, 3)) + 0.1)
    ours = game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(0)))["loss"]
    fakes = game.generate(game.draw_latents(2, Noise(torch.Generator().manual_seed(0))), None)
    (real, real_logits), (fake, fake_logits) = game.judge(batch.images, None), game.judge(fakes, None)
    if loss == "hinge":
        wanted = sum(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in ((real, fake), (real_logits, fake_logits)))
        generators = -fake.mean() - fake_logits.mean()
    else:
        log = torch.log
        wanted = -sum(
            log(torch.sigmoid(r)).mean() + log(1 - torch.sigmoid(f)).mean()
            for r, f in ((real, fake), (real_logits, fake_logits))
        )
        generators = -log(torch.sigmoid(fake)).mean() - log(torch.sigmoid(fake_logits)).mean()
    torch.testing.assert_close(ours, wanted)
    torch.testing.assert_close(game.generator_loss(batch, Noise(torch.Generator().manual_seed(0)))["loss"], generators)
    assert game._loss(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 0.0])) == game._loss(
        torch.tensor([-2.0, -2.0]), torch.tensor([0.0, 1.0])
    )


@pytest.mark.parametrize("cutmix", ["none", "always"])
def test_gradient_penalties_of_whole_images(cutmix):
    """Beside the losses, or in a turn of their own."""
    networks = game_of()
    options = {"latent_dim": 5, "cutmix": cutmix, "warmup_epochs": 0.0}
    plain, penalised, lazy = (
        unet_gan.UNetGANGame(networks.generator, networks.discriminator, **options, **more).eval()
        for more in ({}, {"r1_gamma": 3.0}, {"r1_gamma": 3.0, "penalty_interval": 4})
    )
    batch = batch_of(2)
    images = batch.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(plain.discriminate(images, None).sum(), images)
    penalty = 3.0 * 0.5 * slope.square().sum((1, 2, 3)).mean()
    losses = [
        game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(0)))["loss"]
        for game in (plain, penalised, lazy)
    ]
    torch.testing.assert_close(losses[1], losses[0] + penalty)
    torch.testing.assert_close(losses[2], losses[0])
    assert [turn.second_order for turn in penalised.turns()] == [True, False]
    assert [turn.name for turn in lazy.turns()] == ["discriminator", "penalty", "generator"]


def test_refuses_options_that_its_losses_would_pass_over():
    networks = game_of()
    for options in ({"augment": "diffaugment"}, {"replay": ReplayPool(4, (1, 32, 32))}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: U-Net GAN has losses of its own"):
            unet_gan.UNetGANGame(networks.generator, networks.discriminator, latent_dim=5, **options)


def test_schedules():
    game = game_of(warmup_epochs=100.0)

    def share_of_mixed(epochs: float) -> float:
        game.before_step(Progress(step=1, images=int(epochs * 1000), dataset_size=1000))
        return sum(game._mixes(Noise(torch.Generator().manual_seed(s))) for s in range(400)) / 400

    assert [share_of_mixed(epochs) for epochs in (0, 50, 100, 300)] == pytest.approx([0, 0.25, 0.5, 0.5], abs=0.06)
    assert game_of(warmup_epochs=0.0).warmth == 1.0
    # All parts of a batch are mixed, or none is.
    game.warmth = 1.0
    for seed in range(20):
        coins = {game._mixes(Noise(torch.Generator().manual_seed(seed), Shard(part, 4))) for part in range(4)}
        assert len(coins) == 1
    always = game_of(cutmix="always", warmup_epochs=10.0)
    always.before_step(Progress(step=5, images=5000, dataset_size=1000))
    assert always.warmth == 0.5
    assert always._mixes(Noise()) is True
    assert game_of(cutmix="none")._mixes(Noise()) is False


@pytest.mark.parametrize(("cutmix", "warmup", "capturable"), [
    ("batches", 0.0, False), ("always", 1.0, False), ("always", 0.0, True), ("none", 1.0, True),
])  # fmt: skip
def test_what_changes_between_steps_is_not_captured(cutmix, warmup, capturable):
    turns = {turn.name: turn.capturable for turn in game_of(cutmix=cutmix, warmup_epochs=warmup).turns()}
    assert turns == {"discriminator": capturable, "generator": True}


def test_recipe_of_the_paper():
    with torch.device("meta"):
        game = create("unet-gan", resolution=32)
    assert {player.name: player.optimizer for player in game.players()} == {
        "discriminator": Adam(5e-4, (0.0, 0.999), eps=1e-6),
        "generator": Adam(1e-4, (0.0, 0.999), eps=1e-6),
    }
    assert [(target.decay, target.start) for target in game.ema_targets()] == [(0.9999, 21_000)]
    assert [turn.repeats for turn in game.turns()] == [1, 1]


@pytest.mark.parametrize("num_classes", [None, 3])
def test_trains_resumes_and_is_sampled(tmp_path, num_classes):
    def make():
        return create("unet-gan", num_classes=num_classes, cutmix="always", warmup_epochs=2.0, **TINY)

    assert_trains_and_resumes(make, ToyImages(1, 32), tmp_path)


@pytest.mark.slow
@pytest.mark.interpreter
def test_a_step_is_the_same_in_all_backends(monkeypatch):
    # Two blocks: an interpreted program costs milliseconds.
    monkeypatch.setitem(biggan.GENERATOR_WIDTHS, 16, (2, 2, 2))
    monkeypatch.setitem(unet_gan_networks.ENCODER_WIDTHS, 16, (1, 2))
    monkeypatch.setattr(unet_gan, "RESOLUTIONS", (16,))
    game = create("unet-gan", num_classes=None, cutmix="always", warmup_epochs=0.0, **{**TINY, "resolution": 16})
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert_backends_agree(game, Batch(images, None))


def test_refuses_what_it_is_not_made_for():
    for options, message in (
        ({"resolution": 48}, "resolution: U-Net GAN is made for 32, 64, 128, 256 px, got 48"),
        ({"attention_resolution": 256}, "attention_resolution: both players have maps of 8, 16, 32, 64, 128"),
        ({**TINY, "cutmix": "some"}, "cutmix: expected one of 'batches', 'always', 'none', got 'some'"),
        ({**TINY, "warmup_epochs": -1.0}, "warmup_epochs: expected a number of at least 0, got -1.0"),
        ({**TINY, "consistency_weight": -1.0}, "consistency_weight: expected a number of at least 0"),
        ({**TINY, "loss": "wasserstein"}, "loss: expected one of 'non-saturating', 'hinge', got 'wasserstein'"),
        ({"width": 0}, "width: expected a positive whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            create("unet-gan", **options)
