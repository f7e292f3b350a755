import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine import Trainer
from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.engine.schedules import Progress
from ganfuse.models import create
from ganfuse.models.patch_discriminator import patch_side
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
TINY = {"resolution": 24, "width": 2, "channels": 1, "blocks": 1, "pool_size": 3}


@pytest.mark.parametrize(("resolution", "generator"), [(256, 11_378_179), (128, 7_837_699)])
def test_parameter_counts_and_shapes(resolution, generator):
    with torch.device("meta"):
        game = create("cyclegan", resolution=resolution)
        images = torch.empty(2, 3, resolution, resolution)
        translated, logits = game.generator_ab(images), game.discriminator_a(images)
        other = game.generator_ba(torch.empty(1, 3, 36, 52))
    assert (count(game.generator_ab), count(game.generator_ba)) == (generator, generator)
    assert (count(game.discriminator_a), count(game.discriminator_b)) == (2_764_737, 2_764_737)
    assert translated.shape == images.shape
    assert logits.shape == (2, 1, resolution // 8 - 2, resolution // 8 - 2)
    assert other.shape == (1, 3, 36, 52)


def test_a_logit_judges_70_pixels():
    net = create("cyclegan", resolution=96, width=2, channels=1, blocks=1).discriminator_a
    unnormalised = nn.Sequential(net.input_conv, *(block[0] for block in net.blocks), net.output_conv)
    image = torch.zeros(1, 1, 160, 160, requires_grad=True)
    logits = unnormalised(image)
    (slope,) = torch.autograd.grad(logits[0, 0, 9, 9], image)
    seen = slope[0, 0].abs().sum(1).nonzero()
    assert int(seen.max() - seen.min()) + 1 == 70 == patch_side(3)
    assert (patch_side(1), patch_side(2)) == (16, 34)


# The networks and the losses written out.


def padded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    around = conv.kernel_size[0] // 2
    return F.conv2d(F.pad(x, (around,) * 4, mode="reflect"), conv.weight, conv.bias)


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


def plain_generator(net: nn.Module, x: Tensor) -> Tensor:
    first, *down = [stage[0] for stage in net.encoder]
    h = normalised(padded(first, x)).relu()
    for conv in down:
        h = normalised(F.conv2d(h, conv.weight, conv.bias, stride=2, padding=1)).relu()
    for block in net.blocks:
        h = h + normalised(padded(block.conv2, normalised(padded(block.conv1, h)).relu()))
    for stage in net.decoder:
        conv = stage[0]
        if isinstance(conv, nn.ConvTranspose2d):
            h = F.conv_transpose2d(h, conv.weight, conv.bias, stride=2, padding=1, output_padding=1)
        else:
            h = padded(conv, h.repeat_interleave(2, 2).repeat_interleave(2, 3))
        h = normalised(h).relu()
    return torch.tanh(padded(net.output_conv, h))


def plain_discriminator(net: nn.Module, x: Tensor) -> Tensor:
    h = F.leaky_relu(F.conv2d(x, net.input_conv.weight, net.input_conv.bias, stride=2, padding=1), 0.2)
    for index, block in enumerate(net.blocks):
        stride = 2 if index < len(net.blocks) - 1 else 1
        h = F.leaky_relu(normalised(F.conv2d(h, block[0].weight, block[0].bias, stride=stride, padding=1)), 0.2)
    return F.conv2d(h, net.output_conv.weight, net.output_conv.bias, padding=1)


def losses_in_two_steps(game, batch: Batch, shown_a: Tensor | None = None, shown_b: Tensor | None = None):
    """As in the paper's equations 1 to 3: the generators' loss, then the discriminators' on the same images."""
    a, b = batch.images, batch.images_b
    ab = lambda x: plain_generator(game.generator_ab, x)  # noqa: E731
    ba = lambda x: plain_generator(game.generator_ba, x)  # noqa: E731
    judge_a = lambda x: plain_discriminator(game.discriminator_a, x)  # noqa: E731
    judge_b = lambda x: plain_discriminator(game.discriminator_b, x)  # noqa: E731
    fake_b, fake_a = ab(a), ba(b)
    cycle_a, cycle_b = ba(fake_b), ab(fake_a)
    generators = ((judge_b(fake_b) - 1) ** 2).mean() + ((judge_a(fake_a) - 1) ** 2).mean()
    generators = generators + 10 * ((cycle_a - a).abs().mean() + (cycle_b - b).abs().mean())
    generators = generators + 5 * ((ab(b) - b).abs().mean() + (ba(a) - a).abs().mean())
    shown_a = fake_a.detach() if shown_a is None else shown_a
    shown_b = fake_b.detach() if shown_b is None else shown_b
    discriminators = 0.5 * (((judge_a(a) - 1) ** 2).mean() + (judge_a(shown_a) ** 2).mean())
    discriminators = discriminators + 0.5 * (((judge_b(b) - 1) ** 2).mean() + (judge_b(shown_b) ** 2).mean())
    return generators, discriminators, (fake_a.detach(), fake_b.detach())


@pytest.mark.parametrize("upsampling", ["transposed", "resize"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_one_turn_is_the_papers_two_steps(upsampling, blocks):
    game = create("cyclegan", **{**TINY, "blocks": blocks}, upsampling=upsampling).double()
    unsettle(game)
    batch = toy_batch(game, 2)
    found = play(game, batch)
    generators, discriminators, _ = losses_in_two_steps(game, batch)
    expected = {"loss/generators": generators.detach(), "loss/discriminators": discriminators.detach()}
    for player in game.players():
        loss = generators if player.name == "generators" else discriminators
        gradients = torch.autograd.grad(loss, player.parameters(game), retain_graph=True)
        expected |= {f"{player.name} {i}": gradient for i, gradient in enumerate(gradients)}
    ours = {key.removeprefix("translation/"): value for key, value in found.items()}
    assert_same({key: ours[key] for key in expected}, expected)
    for part, weight in (("cycle_a", 10), ("identity", 5)):
        assert 0 < ours[part] * weight < ours["loss/generators"]


def test_discriminators_are_shown_the_pools():
    game = create("cyclegan", **TINY).double()
    unsettle(game)
    first, second = toy_batch(game, 3), toy_batch(game, 3, seed=1)
    game.loss(first, Noise(torch.Generator().manual_seed(0)))
    assert game.pool_a.filled == game.pool_b.filled == 3
    pools = copy.deepcopy((game.pool_a, game.pool_b))
    *_, (fake_a, fake_b) = losses_in_two_steps(game, second)
    noise = Noise(torch.Generator().manual_seed(4))
    shown_a, shown_b = pools[0].exchange(fake_a, noise), pools[1].exchange(fake_b, noise)
    assert not torch.equal(shown_a, fake_a)
    _, expected, _ = losses_in_two_steps(game, second, shown_a, shown_b)
    found = game.loss(second, Noise(torch.Generator().manual_seed(4)))["loss/discriminators"]
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=0)


def test_without_identity_and_pools():
    game = create("cyclegan", **{**TINY, "pool_size": 0}, lambda_identity=0).double()
    values = game.loss(toy_batch(game), Noise(torch.Generator()))
    assert "identity" not in values
    total = values["gan_ab"] + values["gan_ba"] + 10 * (values["cycle_a"] + values["cycle_b"])
    torch.testing.assert_close(values["loss/generators"].detach(), total)


def test_recipe_of_the_paper():
    with torch.device("meta"):
        game = create("cyclegan")
    for player in game.players():
        (group,) = player.optimizer(player.parameters(game)).param_groups
        assert (group["lr"], tuple(group["betas"])) == (2e-4, (0.5, 0.999))
        rates = [player.schedule(Progress(images=1000 * epoch, dataset_size=1000)) for epoch in (0, 100, 150, 200)]
        assert rates == pytest.approx([1, 1, 0.5, 0])
    assert game.pool_a.images.shape == (50, 3, 256, 256)
    assert (len(game.generator_ab.blocks), game.ema_targets()) == (9, ())
    weights = create("cyclegan", resolution=128, width=16).generator_ab.blocks[0].conv1.weight
    assert weights.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("paired", [False, True])
def test_crops_are_what_the_networks_see(paired):
    game = create("cyclegan", **{**TINY, "resolution": 30, "pool_size": 0}, crop=24)
    game.data_kind = "paired" if paired else "unpaired"
    corners = torch.arange(900.0).view(1, 1, 30, 30)
    a, b = game.domains(Batch(corners, images_b=corners), Noise(torch.Generator().manual_seed(0)))
    assert a.shape == b.shape == (1, 1, 24, 24)
    assert torch.equal(a, b) == paired
    assert game.loss(toy_batch(game.double()), Noise(torch.Generator()))["loss/generators"].isfinite()


def test_trains_resumes_and_translates(tmp_path):
    def make():
        return create("cyclegan", **{**TINY, "resolution": 30}, crop=24, ema_decay=0.5, dropout=0.2)

    game = assert_trains_and_resumes(make, ToyDomains(1, 30), tmp_path)
    assert game.pool_a.filled == 3


def test_activations_can_be_computed_again(tmp_path):
    assert_trains_and_resumes(
        lambda: create("cyclegan", **TINY), ToyDomains(1, 24), tmp_path, activation_checkpointing=True
    )


def test_both_players_batch_is_cut_once(tmp_path):
    def fit(accumulation):
        torch.manual_seed(0)
        game = create("cyclegan", **TINY).double()
        options = {"out": tmp_path / str(accumulation), "steps": 1, "batch_size": 4, "device": "cpu", "progress": False}
        Trainer(game, ToyDomains(1, 24), sample_every=0, accumulation=accumulation, **options).fit()
        return {name: parameter.detach() for name, parameter in game.named_parameters()}

    whole = fit(1)
    assert_same(fit({"generators": 2}), whole)
    assert_same(fit({"translation": 4, "generators": 2, "discriminators": 1}), whole)
    with pytest.raises(ValueError, match="accumulation: discriminators and generators move in one turn"):
        fit({"generators": 2, "discriminators": 1})


@pytest.mark.interpreter
def test_backends_agree():
    smallest = {**TINY, "resolution": 16, "width": 1, "discriminator_layers": 1}
    assert_backends_agree(create("cyclegan", **smallest, lambda_identity=0, upsampling="resize"))


def test_names_what_is_wrong():
    assert_names_what_is_wrong(
        lambda **more: create("cyclegan", **{**TINY, **more}),
        betas=(0.5, ("a", "b"), None),
        pool_size=("x", 2.5, True, -1),
    )


def test_refuses_what_it_is_not_made_for():
    for key in ("channels", "width", "blocks", "discriminator_layers"):
        with pytest.raises(ValueError, match=f"{key}: expected a positive whole number, got 0"):
            create("cyclegan", **{**TINY, key: 0})
    with pytest.raises(ValueError, match=r"resolution: cyclegan takes images whose sides are multiples of 4 .* got 26"):
        create("cyclegan", **{**TINY, "resolution": 26})
    with pytest.raises(ValueError, match="crop: expected 1 to 24"):
        create("cyclegan", **TINY, crop=28)
    with pytest.raises(ValueError, match="crop: cyclegan takes images whose sides are multiples of 4"):
        create("cyclegan", **TINY, crop=23)
    with pytest.raises(ValueError, match="discriminator_layers: 3 of them need images of at least 24 px, got 20"):
        create("cyclegan", **{**TINY, "resolution": 20})
    assert create("cyclegan", **{**TINY, "resolution": 20}, discriminator_layers=2).training_size == 20
    with pytest.raises(ValueError, match="upsampling: expected one of 'transposed', 'resize', got 'bilinear'"):
        create("cyclegan", **TINY, upsampling="bilinear")
    for key, value in (
        ("lambda_cycle", -1),
        ("dropout", 2),
        ("betas", (0.5,)),
        ("decay_epochs", -1),
        ("pool_size", -1),
    ):
        with pytest.raises(ValueError, match=key):
            create("cyclegan", **{**TINY, key: value})
    game = create("cyclegan", **TINY)
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, H, W\) with sides .* multiples of 4"):
        game.generator_ab(torch.zeros(1, 1, 25, 24))
    with pytest.raises(ValueError, match="sides of at least 24"):
        game.discriminator_a(torch.zeros(1, 1, 20, 24))
