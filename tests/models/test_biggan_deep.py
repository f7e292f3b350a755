from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.game import Batch, Game
from ganfuse.models import biggan, biggan_deep, create
from tests.models import step_checks
from tests.models.plain_layers import (
    activated,
    assert_same_functions,
    attention,
    batch_norm,
    conditioned,
    conv,
    count,
    doubled,
    projected,
    settle,
    weight,
)
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
TINY = {"resolution": 32, "width": 2, "channels": 1, "latent_dim": 5, "shared_features": 3, "attention_resolution": 16}


@cache
def published(resolution: int) -> Game:
    """The paper's model, without storage."""
    with torch.device("meta"):
        return create("biggan-deep", resolution=resolution)


@pytest.mark.parametrize(("resolution", "generator", "discriminator"), [
    (32, None, None),
    (128, 50_244_484, 34_590_210),  # published
    (256, 55_736_708, 38_247_426),
    (512, 56_019_780, 38_301_122),
])  # fmt: skip
def test_parameter_counts_and_shapes(resolution, generator, discriminator):
    game = published(resolution)
    with torch.device("meta"):
        if generator is not None:
            assert (count(game.generator), count(game.discriminator)) == (generator, discriminator)
        if resolution in (32, 128):
            labels = torch.zeros(2, dtype=torch.int64)
            images = game.generator(torch.empty(2, 128), labels)
            assert images.shape == (2, 3, resolution, resolution)
            assert game.discriminator(images, labels).shape == (2,)


def test_spectrally_normalised_weights_of_the_published_model():
    """126 in the generator, 51 in the discriminator."""
    game = published(128)
    players = (game.generator, game.discriminator)
    assert [sum(n.endswith("weight_orig") for n, _ in m.named_parameters()) for m in players] == [126, 51]


@pytest.mark.parametrize("resolution", [128, 256, 512])
def test_attention_follows_the_second_block_of_its_resolution(resolution):
    game = published(resolution)
    generator, discriminator = game.generator, game.discriminator
    # Eight blocks, two per resolution from 4 to 64; as in the weights that its authors have published.
    assert generator.attention_after == 7
    assert [block.upsample for block in generator.blocks[:8]] == [False, True] * 4
    halvings = sum(block.downsample for block in discriminator.blocks[: discriminator.attention_after + 1])
    assert resolution >> halvings == 64
    assert not discriminator.blocks[discriminator.attention_after].downsample


def plain_generator(net: nn.Module, slope: float, z: Tensor, labels: Tensor | None) -> Tensor:
    condition = z if labels is None else torch.cat([net.shared.weight[labels], z], 1)
    h = F.linear(condition, weight(net.linear), net.linear.bias).view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
    for index, block in enumerate(net.blocks):
        x = h
        h = conv(block.conv1, conditioned(block.bn1, h, condition, slope))
        h = conditioned(block.bn2, h, condition, slope)
        if index % 2:
            h, x = doubled(h), doubled(x)
        h = conv(block.conv3, conditioned(block.bn3, conv(block.conv2, h), condition, slope))
        h = conv(block.conv4, conditioned(block.bn4, h, condition, slope))
        h = h + x[:, : h.shape[1]]
        if index == 3:
            h = attention(net.attention, h)
    return torch.tanh(conv(net.output_conv, batch_norm(net.output_bn, h, slope)))


def plain_discriminator(net: nn.Module, slope: float, images: Tensor, labels: Tensor | None) -> Tensor:
    h = conv(net.input_conv, images)
    for index, block in enumerate(net.blocks):
        x = h
        for layer in (block.conv1, block.conv2, block.conv3):
            h = conv(layer, activated(h, slope))
        h = activated(h, slope)
        if index in (0, 2):
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        h = conv(block.conv4, h)
        if h.shape[1] > x.shape[1]:
            x = torch.cat([x, conv(block.conv_sc, x)], 1)
        h = h + x
        if index == 1:
            h = attention(net.attention, h)
    return projected(net, h, labels, slope)


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("leaky_relu", 0.2)])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_equals_plain_pytorch(monkeypatch, num_classes, activation, slope):
    # Channels that become fewer in the generator, more in the discriminator.
    monkeypatch.setitem(biggan.GENERATOR_WIDTHS, 32, (4, 4, 3, 2))
    monkeypatch.setitem(biggan_deep.DISCRIMINATOR_WIDTHS, 32, (2, 3, 4, 4))
    layers = biggan.layers_of(activation)
    sizes = {"resolution": 32, "num_classes": num_classes, "channels": 1, "width": 2, "attention_resolution": 16}
    game = nn.Module()
    game.generator = biggan_deep.Generator(latent_dim=5, shared_features=3, layers=layers, **sizes)
    game.discriminator = biggan_deep.Discriminator(layers=layers, **sizes)
    game.double()
    step_checks.unsettle(game)
    settle(game, 5, num_classes)
    plain = (
        partial(plain_generator, game.generator, slope),
        partial(plain_discriminator, game.discriminator, slope),
    )
    labels = None if num_classes is None else torch.tensor([0, 2])
    assert_same_functions(game, torch.randn(2, 5, dtype=F64), labels, plain)


@pytest.mark.parametrize(("resolution", "rates"), [(128, (5e-5, 2e-4)), (256, (2.5e-5, 2.5e-5))])
def test_recipe_of_the_paper(resolution, rates):
    game = published(resolution)
    optimizers = {player.name: player.optimizer([torch.zeros(1)]) for player in game.players()}
    assert (optimizers["generator"].defaults["lr"], optimizers["discriminator"].defaults["lr"]) == rates
    assert all(optimizer.defaults["betas"] == (0.0, 0.999) for optimizer in optimizers.values())
    assert [turn.repeats for turn in game.turns()] == [2, 1]


def test_trains_resumes_and_is_sampled(tmp_path):
    def make():
        return create("biggan-deep", num_classes=3, ema_start=1, discriminator_steps=1, **TINY)

    game = assert_trains_and_resumes(make, ToyImages(1, 32), tmp_path)
    assert game.sample(2, truncation=0.7, standing_statistics=1).isfinite().all()


@pytest.mark.slow
@pytest.mark.interpreter
def test_a_step_is_the_same_in_all_backends(monkeypatch):
    # Few blocks: an interpreted program costs milliseconds.
    monkeypatch.setitem(biggan.GENERATOR_WIDTHS, 8, (2, 1))
    monkeypatch.setitem(biggan_deep.DISCRIMINATOR_WIDTHS, 8, (1, 2))
    monkeypatch.setattr(biggan_deep, "RESOLUTIONS", (8,))
    game = create("biggan-deep", num_classes=None, **{**TINY, "resolution": 8, "width": 2, "attention_resolution": 0})
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert_backends_agree(game, Batch(images), penalty=False)


def test_refuses_what_it_is_not_made_for():
    for options, message in (
        ({"resolution": 48}, "resolution: BigGAN-deep is made for 32, 64, 128, 256, 512 px, got 48"),
        ({"attention_resolution": 7}, "attention_resolution: both players have maps of 8, 16, 32, 64 at 128 px"),
        ({"latent_dim": 0}, "latent_dim: expected a positive whole number, got 0"),
        ({"num_classes": -2}, "num_classes: expected a whole number or None, got -2"),
    ):
        with pytest.raises(ValueError, match=message), torch.device("meta"):
            create("biggan-deep", **options)
