import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.heat_colors import overlay_heat
from ganfuse.engine.noise import Noise
from ganfuse.engine.schedules import Progress
from ganfuse.models import create
from ganfuse.models.class_activation import ClassActivationAttention, heat_map
from ganfuse.models.ugatit import UGATITGame
from ganfuse.models.ugatit_networks import Discriminator, Generator
from tests.models.translation_checks import (
    ToyDomains,
    assert_backends_agree,
    assert_names_what_is_wrong,
    assert_trains_and_resumes,
    count,
    toy_batch,
    unsettle,
)

F64 = torch.float64
TINY = {"resolution": 16, "channels": 1, "width": 2, "blocks": 1}


def test_parameter_counts_of_the_paper():
    with torch.device("meta"):
        full, light = create("ugatit"), create("ugatit", light=True)
    assert count(full.generator_ab) == 278_959_808  # 278.96 million
    assert count(light.generator_ba) == 10_589_888  # 10.59 million
    for judges in (full.discriminator_a, full.discriminator_b):
        assert count(judges.global_discriminator) == 53_130_176  # 53.13 million
        assert count(judges.local_discriminator) == 3_290_560  # 3.29 million
    assert count(full) == pytest.approx(670.8e6, rel=1e-4)
    assert count(light) == pytest.approx(134.0e6, rel=1e-3)
    assert full.generator_ab.style[0].weight.numel() == 256**2 * 64**2
    with torch.device("meta"):
        assert create("ugatit", style_grid=16).generator_ab.style[0].weight.numel() == 16 * 16 * 256 * 256
        same = create("ugatit", style_grid=64).generator_ab
    assert count(same) == 278_959_808


def test_shapes_of_the_paper():
    judges = [Discriminator(1, width=1, layers=layers) for layers in (7, 5)]
    images = torch.rand(2, 1, 256, 256)
    assert [tuple(judge(images).logits.shape) for judge in judges] == [(2, 1, 6, 6), (2, 1, 30, 30)]
    assert [tuple(judge(images).cam_logits.shape) for judge in judges] == [(2, 2), (2, 2)]


@pytest.mark.parametrize(
    ("size", "layers"), [(256, (7, 5)), (96, (7, 5)), (64, (6, 4)), (32, (5, 3)), (12, (4, 3)), (8, (3, 3))]
)
def test_discriminators_become_shallower_where_images_are_small(size, layers):
    game = create("ugatit", resolution=size, channels=1, width=1, blocks=1, light=True)
    assert (game.global_layers, game.local_layers) == layers
    for judgement in game.discriminator_a(torch.rand(1, 1, size, size)):
        assert judgement.logits.isfinite().all()


@pytest.mark.parametrize(("spectral", "raw"), [(False, False), (True, False), (True, True)])
def test_class_activation_attention_against_its_formula(spectral, raw):
    torch.manual_seed(1)
    cam = ClassActivationAttention(5, negative_slope=0.2 if spectral else 0.0, spectral=spectral, raw_attention=raw)
    cam.double()
    x = torch.randn(3, 5, 4, 6, dtype=F64, requires_grad=True)
    both = [cam.gap_fc.weight, cam.gmp_fc.weight]
    normalised = [w / w.square().sum().sqrt() for w in both] if spectral else both
    attention = both if raw else normalised
    logits = torch.cat([x.mean((2, 3)) @ normalised[0].T, x.flatten(2).max(2).values @ normalised[1].T], 1)
    weighed = torch.cat([x * w.view(1, 5, 1, 1) for w in attention], 1)
    attended = F.leaky_relu(F.conv2d(weighed, cam.conv.weight, cam.conv.bias), 0.2 if spectral else 0.0)
    parameters = [x, *cam.parameters()]
    cotangents = torch.randn_like(attended), torch.randn_like(logits)
    expected = torch.autograd.grad([attended, logits], parameters, cotangents)
    ours = cam(x)
    torch.testing.assert_close(ours, (attended, logits))
    torch.testing.assert_close(torch.autograd.grad(ours, parameters, cotangents), expected)


def test_one_row_needs_no_power_method():
    cam = ClassActivationAttention(7, spectral=True).double()
    torch_layer = nn.utils.parametrizations.spectral_norm(copy.deepcopy(cam.gap_fc))
    x = torch.randn(2, 7, 3, 3, dtype=F64)
    torch.testing.assert_close(cam(x)[1][:, :1], torch_layer(x.mean((2, 3))))


def test_heat_map_is_the_sum_over_channels_from_0_to_1():
    attended = torch.rand(2, 3, 4, 4)
    attended[1] = 0.25
    shown = heat_map(attended, (4, 4))
    total = attended[0].sum(0)
    torch.testing.assert_close(shown[0, 0], (total - total.min()) / (total.max() - total.min()))
    assert not shown[1].any()
    enlarged = heat_map(attended, (16, 12))
    assert enlarged.shape == (2, 1, 16, 12)
    torch.testing.assert_close(enlarged, F.interpolate(shown, (16, 12), mode="bilinear"))


# The networks in plain PyTorch, in the order of the paper's tables.


def reflect(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1) -> Tensor:
    side = (weight.shape[-1] - 1) // 2
    return F.conv2d(F.pad(x, (side,) * 4, mode="reflect"), weight, bias, stride)


def lin(x: Tensor, rho: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    def standard(dims):
        variance, mean = torch.var_mean(x, dims, keepdim=True)
        return (x - mean) / (variance + 1e-5).sqrt()

    rho = rho.view(1, -1, 1, 1)
    mixed = rho * standard((2, 3)) + (1 - rho) * standard((1, 2, 3))
    return gain[..., None, None] * mixed + bias[..., None, None]


def plain_cam(layer: ClassActivationAttention, x: Tensor) -> tuple[Tensor, Tensor]:
    weights = [layer.gap_fc.weight, layer.gmp_fc.weight]
    if layer.spectral:
        weights = [w / w.norm() for w in weights]
    logits = torch.cat([x.mean((2, 3)) @ weights[0].T, x.amax((2, 3)) @ weights[1].T], 1)
    weighed = torch.cat([x * w.view(1, -1, 1, 1) for w in weights], 1)
    return F.leaky_relu(F.conv2d(weighed, layer.conv.weight, layer.conv.bias), layer.negative_slope), logits


def plain_generator(net: Generator, x: Tensor) -> tuple[Tensor, Tensor]:
    for index, stage in enumerate(net.encoder):
        x = F.relu(F.instance_norm(reflect(x, stage[0].weight, stride=1 if index == 0 else 2)))
    for block in net.blocks:
        h = F.relu(F.instance_norm(reflect(x, block.conv1.weight)))
        x = x + F.instance_norm(reflect(h, block.conv2.weight))
    x, logits = plain_cam(net.attention, x)
    pooled = x if net.style_grid is None else F.adaptive_avg_pool2d(x, net.style_grid)
    style = F.relu(net.style[2](F.relu(net.style[0](pooled.flatten(1)))))
    gain, bias = net.gain(style), net.bias(style)
    for block in net.adalin_blocks:
        h = F.relu(lin(reflect(x, block.conv1.weight), block.norm1.rho, gain, bias))
        x = x + lin(reflect(h, block.conv2.weight), block.norm2.rho, gain, bias)
    for conv, norm in net.decoder:
        x = reflect(F.interpolate(x, scale_factor=2, mode="nearest"), conv.weight)
        x = F.relu(lin(x, norm.rho, norm.weight[None], norm.bias[None]))
    return torch.tanh(reflect(x, net.output_conv.weight)), logits


def plain_discriminator(net: Discriminator, x: Tensor) -> list[Tensor]:
    def weight(conv):
        w = conv.weight_orig
        return w / (conv.weight_u @ w.flatten(1) @ conv.weight_v)

    for index, conv in enumerate(net.convs):
        x = F.leaky_relu(reflect(x, weight(conv), conv.bias, 2 if index < len(net.convs) - 1 else 1), 0.2)
    x, logits = plain_cam(net.attention, x)
    return [reflect(x, weight(net.output_conv)), logits]


def plain_loss(game: UGATITGame, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 5 to 9 of the paper, each network called on each image by itself."""

    def judge(judges, x):
        both = (judges.global_discriminator, judges.local_discriminator)
        return [output for net in both for output in plain_discriminator(net, x)]

    fake_b, from_a = plain_generator(game.generator_ab, a)
    fake_a, from_b = plain_generator(game.generator_ba, b)
    same_b, from_same_b = plain_generator(game.generator_ab, b)
    same_a, from_same_a = plain_generator(game.generator_ba, a)
    cycle_a, cycle_b = plain_generator(game.generator_ba, fake_b)[0], plain_generator(game.generator_ab, fake_a)[0]
    discriminators = generators = torch.zeros((), dtype=F64)
    for judges, real, fake in ((game.discriminator_a, a, fake_a), (game.discriminator_b, b, fake_b)):
        discriminators = discriminators + sum((out - 1).square().mean() for out in judge(judges, real))
        discriminators = discriminators + sum(out.square().mean() for out in judge(judges, fake.detach()))
        generators = generators + sum((out - 1).square().mean() for out in judge(judges, fake))
    generators = generators + 10 * ((cycle_a - a).abs().mean() + (cycle_b - b).abs().mean())
    generators = generators + 10 * ((same_a - a).abs().mean() + (same_b - b).abs().mean())
    for source, target in ((from_a, from_same_b), (from_b, from_same_a)):
        one, zero = torch.ones_like(source), torch.zeros_like(target)
        cam = F.binary_cross_entropy_with_logits(source, one) + F.binary_cross_entropy_with_logits(target, zero)
        generators = generators + 1000 * cam
    return discriminators, generators


@pytest.mark.parametrize("size", [{}, {"light": True}, {"style_grid": 2}])
def test_losses_and_gradients_equal_plain_pytorch(size):
    torch.manual_seed(0)
    game = create("ugatit", **TINY, **size).double()
    unsettle(game)
    with torch.no_grad():
        for name, parameter in game.named_parameters():
            if name.endswith("rho"):
                parameter.uniform_(0, 1)
        for judges in (game.discriminator_a, game.discriminator_b):
            for _ in range(20):
                judges(torch.randn(1, 1, 16, 16, dtype=F64))
    game.eval()
    batch = toy_batch(game, 2)
    expected = plain_loss(game, batch.images, batch.images_b)
    for turn, plain, others in zip(game.turns(), expected, ("generator", "discriminator")):
        loss = turn.loss(batch, Noise())["loss"]
        torch.testing.assert_close(loss, plain)
        mine = [p for name, p in game.named_parameters() if not name.startswith(others)]
        pairs = zip(*(torch.autograd.grad(value, mine) for value in (loss, plain)))
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * max(1.0, theirs.abs().max().item()))
    assert all(parameter.grad is None for parameter in game.parameters())


def test_discriminators_turn_leaves_the_generators_alone():
    game = create("ugatit", **TINY).double()
    first, second = game.turns()
    assert (first.players, second.players) == (("discriminators",), ("generators",))
    first.loss(toy_batch(game), Noise())["loss"].backward()
    assert all(p.grad is None for net in (game.generator_ab, game.generator_ba) for p in net.parameters())
    assert all(p.grad is not None for net in (game.discriminator_a, game.discriminator_b) for p in net.parameters())


def test_recipe_of_the_paper():
    with torch.device("meta"):
        game = create("ugatit")
    assert game.data_kind == "unpaired"
    for player in game.players():
        (group,) = player.optimizer(player.parameters(game)).param_groups
        assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (1e-4, (0.5, 0.999), 1e-4)
        factors = [player.schedule(Progress(step=step)) for step in (1, 500_001, 750_001, 1_000_001)]
        assert factors == [1, 1, 0.5, 0]
    norms = game.generator_ab.adalin_blocks[0].norm1, game.generator_ab.decoder[0][1]
    assert all(norm.unbiased for norm in norms)
    tiny = create("ugatit", **TINY).generator_ab
    assert (tiny.adalin_blocks[0].norm1.rho == 0.9).all()
    assert not tiny.decoder[0][1].rho.any()
    # Some hundred thousand weights from N(0, 0.02²).
    weight = Generator(resolution=32, channels=1, width=8, blocks=1).style[0].weight
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize("optimizer", ["adam", "lean_adam"])
def test_rho_stays_in_the_unit_interval(optimizer):
    game = create("ugatit", **TINY, generator_lr=0.5, optimizer=optimizer)
    player = game.players()[0]
    moves = player.optimizer(player.parameter_groups(game)[0]["params"])
    rhos = [parameter for name, parameter in game.named_parameters() if name.endswith("rho")]
    assert len(rhos) == 2 * 4
    for sign in (1, -1):
        for rho in rhos:
            rho.grad = torch.full_like(rho, float(sign))
        for _ in range(5):
            moves.step()
        assert all((rho == (0 if sign == 1 else 1)).all() for rho in rhos)


def test_translates_with_a_heat_map():
    game = create("ugatit", **TINY, light=True)
    images = torch.rand(2, 1, 24, 16) * 2 - 1
    translated, shown = game.translate(images, "ba", heat_map=True)
    assert torch.equal(translated, game.translate(images, "ba"))
    assert (translated.shape, shown.shape) == (images.shape, (2, 1, 24, 16))
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert not shown.requires_grad
    assert shown.flatten(1).std(1).min() > 0
    assert not torch.equal(shown, game.translate(images, "ab", heat_map=True)[1])
    # Grids have it beside the picture that it belongs to.
    row = game.shown(images[:1], "ba")
    assert [picture.shape for picture in row] == [(1, 3, 24, 16)] * 4
    torch.testing.assert_close(row[1], overlay_heat(images[:1], shown[:1]))
    torch.testing.assert_close(row[2][:, :1], translated[:1])


@pytest.mark.slow
@pytest.mark.interpreter
def test_backends_agree_on_a_whole_step():
    assert_backends_agree(create("ugatit", **{**TINY, "resolution": 8}))


def test_trains_resumes_and_translates(tmp_path):
    game = assert_trains_and_resumes(
        lambda: create("ugatit", **TINY, optimizer="lean_adam", ema_decay=0.5), ToyDomains(1, 16), tmp_path, shown=8
    )
    assert isinstance(game, UGATITGame)


def test_names_what_is_wrong():
    assert_names_what_is_wrong(
        lambda **more: create("ugatit", **{**TINY, **more}),
        betas=(0.5, ("a", "b"), None),
        weight_decay=("x",),
        light=("flase",),
    )


def test_refuses_what_it_is_not_made_for():
    for light in (True, False):
        with pytest.raises(ValueError, match=r"resolution: .*multiples of 4"):
            create("ugatit", resolution=18, light=light)
    with pytest.raises(ValueError, match="style_grid: the light model has a grid of 1, got 4"):
        create("ugatit", **TINY, light=True, style_grid=4)
    with pytest.raises(ValueError, match="style_grid: expected 1 to 4, the side of the maps, got 5"):
        create("ugatit", **TINY, style_grid=5)
    with pytest.raises(ValueError, match=r"global_layers: expected 3 or more, .* got 5 for 16 px"):
        create("ugatit", **TINY, global_layers=5)
    with pytest.raises(ValueError, match="local_layers: expected 3 or more"):
        create("ugatit", **TINY, local_layers=2)
    with pytest.raises(ValueError, match="optimizer: expected one of 'adam', 'lean_adam', got 'sgd'"):
        create("ugatit", **TINY, optimizer="sgd")
    for key in ("channels", "width", "blocks"):
        with pytest.raises(ValueError, match=f"{key}: expected a positive whole number, got 0"):
            create("ugatit", **{**TINY, key: 0})
    with pytest.raises(ValueError, match="lambda_cam: expected a number of at least 0, got -1"):
        create("ugatit", **TINY, lambda_cam=-1)
    game = create("ugatit", **TINY)
    with pytest.raises(ValueError, match="images: ugatit was made for images of 16×16 alone, got a side of 20"):
        game.translate(torch.zeros(1, 1, 20, 16))
    with pytest.raises(ValueError, match="takes images of 16×16 only"):
        game.generator_ab(torch.zeros(1, 1, 20, 20))
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, H, W\) with sides of at least 12"):
        game.discriminator_a(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="direction"):
        game.translate(torch.zeros(1, 1, 16, 16), "aa", heat_map=True)
    assert math.isfinite(game.translate(torch.zeros(1, 1, 16, 16)).sum())
