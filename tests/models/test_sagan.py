import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.game import Batch
from ganfuse.engine.losses import adversarial_loss
from ganfuse.engine.noise import Noise
from ganfuse.models import create, sagan
from tests.models.plain_layers import attention, batch_norm, conv, count, doubled, projected, standardised, weight
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
TINY = {"resolution": 32, "width": 4, "latent_dim": 6, "channels": 1}


def test_parameter_counts_of_the_paper():
    with torch.device("meta"):
        ours = create("sagan")
        with_attention_at_64 = create("sagan", attention_resolution=64)
    assert (count(ours.generator), count(ours.discriminator)) == (42_078_852, 39_463_618)
    # BigGAN-PyTorch's SAGAN has its attention there, and is published with 42.0 and 39.4 million.
    assert (count(with_attention_at_64.generator), count(with_attention_at_64.discriminator)) == (
        42_017_412,
        39_448_258,
    )


@pytest.mark.parametrize(("resolution", "up", "down", "attended"), [
    (32, [8, 4, 2, 1], [1, 2, 4, 4], (2, 1)),
    (64, [16, 8, 4, 2, 1], [1, 2, 4, 8, 8], (2, 1)),
    (128, [16, 16, 8, 4, 2, 1], [1, 2, 4, 8, 16, 16], (4, 2)),
])  # fmt: skip
def test_widths_and_place_of_the_attention(resolution, up, down, attended):
    with torch.device("meta"):
        game = create("sagan", resolution=resolution, width=8)
    generator, discriminator = game.generator, game.discriminator
    widths = [generator.linear.out_features // 16, *(b.conv2.out_channels for b in generator.blocks)]
    assert widths == [8 * m for m in up]
    assert [b.conv2.out_channels for b in discriminator.blocks] == [8 * m for m in down]
    assert generator.blocks[generator.attention_after].conv2.out_channels == 8 * attended[0]
    assert (generator.attention.channels, discriminator.attention.channels) == (8 * attended[0], 8 * attended[1])
    assert discriminator.blocks[0].preactivation is False
    assert discriminator.blocks[-1].downsample is False
    assert discriminator.blocks[-1].conv_sc is None


@pytest.mark.parametrize("resolution", [32, 64, 128])
@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_ranges_and_finite_gradients(resolution, num_classes, channels):
    torch.manual_seed(0)
    game = create("sagan", resolution=resolution, num_classes=num_classes, channels=channels, width=2)
    labels = None if num_classes is None else torch.tensor([0, 2])
    images = game.generator(torch.randn(2, 128), labels)
    assert images.shape == (2, channels, resolution, resolution)
    assert images.abs().max() <= 1
    logits = game.discriminator(images, labels)
    assert logits.shape == (2,)
    logits.sum().backward()
    missing = [name for name, p in game.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not missing


def test_both_losses_train_only_what_they_should():
    torch.manual_seed(0)
    game = create("sagan", num_classes=3, **TINY).train()
    batch = Batch(torch.rand(4, 1, 32, 32) * 2 - 1, torch.tensor([0, 1, 2, 0]))
    for turn in game.turns():
        loss = turn.loss(batch, Noise(torch.Generator().manual_seed(0)))["loss"]
        assert loss.isfinite()
        loss.backward()
        if turn.players == ("discriminator",):
            assert all(p.grad is None for p in game.generator.parameters())
    assert all(p.grad is not None for p in game.parameters())


def test_recipe_of_the_paper():
    with torch.device("meta"):
        game = create("sagan", resolution=32)
    rates = {}
    for player in game.players():
        (group,) = player.optimizer(player.parameters(game)).param_groups
        assert tuple(group["betas"]) == (0.0, 0.9)
        rates[player.name] = group["lr"]
    assert rates == {"generator": 1e-4, "discriminator": 4e-4}
    assert [target.module for target in game.ema_targets()] == ["generator"]
    assert game.loss == adversarial_loss("hinge")


@pytest.mark.parametrize("num_classes", [None, 3])
def test_training_mode_moves_and_eval_mode_repeats(num_classes):
    torch.manual_seed(0)
    game = create("sagan", num_classes=num_classes, **TINY)
    labels = None if num_classes is None else torch.tensor([0, 2, 1])
    z = torch.randn(3, 6)
    moving = copy.deepcopy(game.state_dict())
    game.train().discriminator(game.generator(z, labels), labels)
    moved = [name for name, tensor in game.state_dict().items() if not torch.equal(tensor, moving[name])]
    assert {name.rpartition(".")[2] for name in moved} >= {"weight_u", "weight_v", "running_mean", "running_var"}
    assert not any(name in dict(game.named_parameters()) for name in moved)
    game.eval()
    first = game.discriminator(game.generator(z, labels), labels)
    assert torch.equal(first, game.discriminator(game.generator(z, labels), labels))


# The networks in plain PyTorch, in the order of the paper's figures: resampling outside of the shortcuts' convolutions,
# attention as matrix products, weights divided by uᵀWv.


def plain_norm_relu(layer: nn.Module, x: Tensor, labels: Tensor | None) -> Tensor:
    if not hasattr(layer, "gain"):
        return batch_norm(layer, x)
    gain, bias = 1 + layer.gain.weight[labels], layer.bias.weight[labels]
    return torch.relu(standardised(layer, x) * gain[:, :, None, None] + bias[:, :, None, None])


def plain_generator(net: nn.Module, z: Tensor, labels: Tensor | None) -> Tensor:
    h = F.linear(z, weight(net.linear), net.linear.bias).view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
    for block in net.blocks:
        x = doubled(h)
        h = doubled(plain_norm_relu(block.bn1, h, labels))
        h = plain_norm_relu(block.bn2, conv(block.conv1, h), labels)
        h = conv(block.conv2, h) + conv(block.conv_sc, x)
        if h.shape[2] == 16:
            h = attention(net.attention, h)
    return torch.tanh(conv(net.output_conv, plain_norm_relu(net.output_bn, h, labels)))


def plain_discriminator(net: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    h = images
    for index, block in enumerate(net.blocks):
        x = h
        h = conv(block.conv1, h if index == 0 else torch.relu(h))
        h = conv(block.conv2, torch.relu(h))
        if index < len(net.blocks) - 1:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(conv(block.conv_sc, x), 2)
        h = h + x
        if h.shape[2] == 16:
            h = attention(net.attention, h)
    return projected(net, h, labels)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_equals_plain_pytorch_to_second_order(num_classes):
    """R1 through the whole discriminator, and LOGAN's latent gradient through both players, in float64."""
    torch.manual_seed(0)
    game = create("sagan", num_classes=num_classes, **TINY).double()
    generator, discriminator = game.generator, game.discriminator
    labels = None if num_classes is None else torch.tensor([0, 2])
    with torch.no_grad():
        for name, parameter in game.named_parameters():
            if parameter.dim() < 2 or ".gain." in name or "bn" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        for _ in range(10):  # statistics and singular vectors that are worth something
            z = torch.randn(8, 6, dtype=F64)
            many = None if labels is None else torch.randint(3, (8,))
            discriminator(generator(z, many), many)
    game.eval()
    z = torch.randn(2, 6, dtype=F64, requires_grad=True)
    images = (torch.rand(2, 1, 32, 32, dtype=F64) * 2 - 1).requires_grad_()
    results = []
    for make, judge in (
        (generator, discriminator),
        (lambda *a: plain_generator(generator, *a), lambda *a: plain_discriminator(discriminator, *a)),
    ):
        logits = judge(images, labels)
        (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        r1 = slope.square().sum((1, 2, 3)).mean()
        r1_gradients = torch.autograd.grad(r1, list(discriminator.parameters()), allow_unused=True)
        fakes = make(z, labels)
        judged = judge(fakes, labels)
        (latent_slope,) = torch.autograd.grad(judged.sum(), z, create_graph=True)
        step = judge(make(z + 0.1 * latent_slope, labels), labels).sum() + latent_slope.square().sum()
        step_gradients = torch.autograd.grad(step, list(game.parameters()), allow_unused=True)
        results.append([logits, slope, r1, fakes, judged, latent_slope, *r1_gradients, *step_gradients])
    assert results[0][2] > 0
    for ours, plain in zip(*results):
        if ours is None or plain is None:  # the discriminator's last bias has no part in R1
            assert all(t is None or t.abs().max() == 0 for t in (ours, plain))
            continue
        scale = plain.abs().max().clamp_min(1).item()
        torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-9 * scale)


@pytest.mark.parametrize("place", [0, 8])
def test_attention_can_stand_elsewhere_or_nowhere(place):
    game = create("sagan", num_classes=None, attention_resolution=place, **TINY)
    layers = [game.generator.attention, game.discriminator.attention]
    assert (layers == [None, None]) == (place == 0)
    assert game.discriminator(game.generator(torch.randn(2, 6))).shape == (2,)


def test_feature_maps_are_channels_last():
    game = create("sagan", num_classes=None, **TINY)
    seen = []
    for block in (*game.generator.blocks, *game.discriminator.blocks):
        for layer in (block.conv1, block.conv2):
            layer.register_forward_hook(
                lambda module, args, y: seen.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    images = game.generator(torch.randn(2, 6))
    game.discriminator(images.contiguous())
    assert len(seen) == 14
    assert all(seen)


def test_refuses_what_it_is_not_made_for():
    with pytest.raises(ValueError, match="resolution: SAGAN is made for 32, 64, 128 px, got 48"):
        create("sagan", resolution=48)
    with pytest.raises(ValueError, match="attention_resolution: both players have maps of 8, 16 at 32 px"):
        create("sagan", resolution=32, attention_resolution=32)
    for key in ("channels", "width", "latent_dim"):
        with pytest.raises(ValueError, match=f"{key}: expected a positive whole number, got 0"):
            create("sagan", **{key: 0})
    with pytest.raises(ValueError, match="num_classes"):
        create("sagan", num_classes=-1)
    with pytest.raises(ValueError, match="loss"):
        create("sagan", **TINY, loss="hing")
    for classes in (0, 1):
        assert create("sagan", **TINY, num_classes=classes).num_classes is None
    plain = create("sagan", num_classes=None, **TINY)
    conditional = create("sagan", num_classes=3, **TINY)
    z, images = torch.randn(2, 6), torch.zeros(2, 1, 32, 32)
    with pytest.raises(ValueError, match="unconditional"):
        plain.generator(z, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="needs labels"):
        conditional.discriminator(images)
    with pytest.raises(ValueError, match=r"labels: expected shape \(2,\), got \(1,\)"):
        conditional.generator(z, torch.tensor([0]))
    with pytest.raises(ValueError, match=r"z: expected \(B, 6\), got \(2, 5\)"):
        plain.generator(z[:, :5])
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, 32, 32\), got \(2, 3, 32, 32\)"):
        plain.discriminator(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("num_classes", [None, 3])
def test_trains_resumes_and_is_sampled(tmp_path, num_classes):
    assert_trains_and_resumes(lambda: create("sagan", num_classes=num_classes, **TINY), ToyImages(1, 32), tmp_path)


@pytest.mark.interpreter
def test_a_step_is_the_same_in_all_backends(monkeypatch):
    # Two blocks: an interpreted program costs milliseconds.
    monkeypatch.setattr(sagan, "RESOLUTIONS", (16,))
    game = create("sagan", num_classes=2, **{**TINY, "resolution": 16, "width": 1, "attention_resolution": 8})
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert_backends_agree(game, Batch(images, torch.tensor([0, 1])), penalty=False)
