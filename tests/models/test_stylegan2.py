import copy
import json
from dataclasses import replace

import pytest
import torch

from ganfuse.engine import Trainer
from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise, Shard
from ganfuse.models import create
from ganfuse.models.stylegan2_presets import PRESETS, preset
from tests.models.plain_layers import count
from tests.models.step_checks import (
    ToyImages,
    assert_backends_agree,
    assert_same,
    assert_trains_and_resumes,
    play,
    unsettle,
)

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


def seeded(seed: int = 0, shard: Shard | None = None) -> Noise:
    return Noise(torch.Generator().manual_seed(seed), shard)


def game_of(num_classes: int | None = None, **options: object):
    game = create("stylegan2", num_classes=num_classes, **{**TINY, **options}).double()
    unsettle(game)
    return game.train()


def batch_of(n: int, resolution: int = 16, dtype: torch.dtype = F64) -> Batch:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(n, 1, resolution, resolution, generator=generator, dtype=dtype) * 2 - 1
    return Batch(images, torch.arange(n) % 3)


@pytest.mark.parametrize(("config", "counts"), [
    ({}, (30_370_060, 29_012_513)),
    ({"resolution": 256, "config": "paper256"}, (24_767_458, 24_001_089)),
    ({"resolution": 32, "config": "cifar", "num_classes": 10}, None),
])  # fmt: skip
def test_parameter_counts_and_shapes(config, counts):
    with torch.device("meta"):
        game = create("stylegan2", **config)
        labels = torch.zeros(2, dtype=torch.int64) if "num_classes" in config else None
        images = game.generator(torch.empty(2, 512), labels)
        logits = game.discriminator(images, labels)
    resolution = config.get("resolution", 1024)
    assert images.shape == (2, 3, resolution, resolution)
    assert logits.shape == (2,)
    # Published: stylegan2-ada-pytorch prints them for config F; 24.77 and 24.00 million for paper256.
    assert counts is None or (count(game.generator), count(game.discriminator)) == counts


def test_names_of_the_parameters_are_stylegan2_adas():
    with torch.device("meta"):
        game = create("stylegan2", resolution=8, num_classes=4)
    generator = set(game.generator.state_dict())
    layer = {"weight", "bias", "noise_strength", "noise_const", "resample_filter", "affine.weight", "affine.bias"}
    expected = {f"synthesis.blocks.{name}.{key}" for name in ("0.conv1", "1.conv0", "1.conv1") for key in layer}
    expected |= {f"synthesis.blocks.{i}.torgb.{k}" for i in (0, 1) for k in layer - {"noise_strength", "noise_const"}}
    expected -= {f"synthesis.blocks.{i}.torgb.resample_filter" for i in (0, 1)}
    expected |= {"synthesis.blocks.0.const", "synthesis.blocks.1.resample_filter"}
    assert {key for key in generator if key.startswith("synthesis")} == expected
    discriminator = set(game.discriminator.state_dict())
    assert {"blocks.0.fromrgb.weight", "blocks.0.conv0.bias", "blocks.0.skip.weight"} <= discriminator
    assert {"epilogue.conv.weight", "epilogue.fc.bias", "epilogue.out.weight", "mapping.embed.weight"} <= discriminator
    assert "blocks.0.skip.bias" not in discriminator


@pytest.mark.parametrize("architecture", ["orig", "skip", "resnet"])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_every_turn_trains_all_of_its_player(architecture, num_classes):
    game = game_of(num_classes, generator_architecture=architecture, discriminator_architecture=architecture)
    batch = batch_of(4)
    names = [turn.name for turn in game.turns()]
    assert names == ["discriminator", "penalty", "generator", "path_length"]
    for turn in game.turns():
        game.zero_grad()
        values = turn.loss(batch, seeded())
        values["loss"].backward()
        mine = dict(game.get_submodule(turn.player).named_parameters())
        missing = {name for name, p in mine.items() if p.grad is None or not p.grad.isfinite().all()}
        # What is added to logits does not change their slope; nor does what is added to images.
        constant = {"penalty": "out.bias", "path_length": "torgb.bias"}.get(turn.name, "nothing")
        assert all(name.endswith(constant) for name in missing)
        if turn.player == "discriminator":
            assert all(p.grad is None for p in game.generator.parameters())


def test_mixing_crosses_over_at_one_layer_for_the_whole_batch():
    game = game_of()
    layers, seen = game.layers, []
    assert layers == 6
    for seed in range(200):
        latents, crossover = game.draw_mixing(4, seeded(seed))
        halves = [game.draw_mixing(2, seeded(seed, Shard(index, 2))) for index in range(2)]
        assert torch.equal(torch.cat([half[0] for half in halves]), latents)
        assert all(torch.equal(half[1], crossover) for half in halves)
        seen.append(int(crossover))
    # 1..5 with probability .18 each, and 6, no mixing, with .1.
    shares = [seen.count(layer) / len(seen) for layer in range(8)]
    assert shares[0] == shares[7] == 0
    assert all(abs(share - 0.18) < 0.09 for share in shares[1:6])
    assert 0.03 < shares[6] < 0.2
    z, other = torch.randn(2, 2, 5, dtype=F64).unbind(0)
    ws = game.generator.styles(z, None, layers, mixed=(other, torch.tensor([2])))
    first, second = game.generator.mapping(z), game.generator.mapping(other)
    torch.testing.assert_close(ws, torch.stack([first, first, second, second, second, second], 1))
    assert game_of(style_mixing=0.0).draw_mixing(4, seeded()) is None


def test_truncation_and_noise_when_sampling():
    game = game_of().eval()
    generator = game.generator
    generator.mapping.w_avg.value.normal_()
    z = torch.randn(3, 5, dtype=F64)
    w, mean = generator.mapping(z), generator.mapping.w_avg.value
    ws = generator.styles(z, None, 6, truncation=0.7, truncation_cutoff=4)
    torch.testing.assert_close(ws[:, :4], (mean + 0.7 * (w - mean)).unsqueeze(1).expand(3, 4, 6))
    torch.testing.assert_close(ws[:, 4:], w.unsqueeze(1).expand(3, 2, 6))

    def draw(**options):
        return game.sample(3, rng=torch.Generator().manual_seed(1), **options)

    plain = draw()
    assert plain.abs().max() <= 1
    assert torch.equal(plain, draw(truncation=1.0))
    averages = draw(truncation=0.0, noise_mode="none")
    torch.testing.assert_close(averages[0], averages[1])
    assert not torch.equal(draw(noise_mode="random"), draw(noise_mode="random"))
    assert torch.equal(draw(noise_mode="const"), plain)
    assert not torch.equal(draw(noise_mode="none"), plain)
    wrong_cutoffs = ({"truncation_cutoff": 2}, {"truncation_cutoff": -1, "truncation": 0.5})
    for options in ({"noise_mode": "loud"}, {"truncation": "strong"}, *wrong_cutoffs):
        with pytest.raises(ValueError, match=next(iter(options))):
            draw(**options)
    # What is set for sampling is gone afterwards.
    assert torch.equal(draw(), plain)


def test_path_length_is_the_norm_of_the_jacobians_product():
    game = game_of(resolution=8)
    game.path_length_mean.value.fill_(0.3)
    torch.manual_seed(7)
    values = game.path_length_loss(batch_of(5, 8), seeded())
    # The same draws in the same order: labels (none), latents, mixing, directions, for half the batch.
    noise = seeded()
    z, mixed = game.draw_latents(2, noise), game.draw_mixing(2, noise)
    ws = game.generator.styles(z, None, 4, mixed=mixed).detach()
    y = noise.normal(2, 1, 8, 8, dtype=F64)

    def images(ws):
        torch.manual_seed(7)
        return game.generator.synthesis(ws)

    jacobian = torch.autograd.functional.jacobian(images, ws)
    lengths = []
    for i in range(2):
        product = torch.einsum("chw,chwld->ld", y[i] / 8.0, jacobian[i][:, :, :, i])
        lengths.append(product.square().sum(1).mean().sqrt())
    lengths = torch.stack(lengths)
    torch.testing.assert_close(values["length"], lengths.mean())
    torch.testing.assert_close(values["loss"], 4 * 2.0 * (lengths - 0.3).square().mean())
    game.after_step("generator", 4)
    torch.testing.assert_close(game.path_length_mean.value, 0.99 * torch.tensor(0.3, dtype=F64) + 0.01 * lengths.mean())


def test_penalties_are_lazy_and_rates_follow():
    with torch.device("meta"):
        game = create("stylegan2", resolution=64)
        eager = create("stylegan2", resolution=64, path_length_weight=0.0, r1_gamma=0.0)
    turns = {turn.name: turn.every for turn in game.turns()}
    assert turns == {"discriminator": 1, "penalty": 16, "generator": 1, "path_length": 4}
    assert {turn.name for turn in game.turns() if turn.second_order} == {"penalty", "path_length"}
    for player, share in zip(game.players(), (16 / 17, 4 / 5)):
        assert player.optimizer.lr == pytest.approx(0.002 * share)
        assert player.optimizer.betas == pytest.approx((0.0, 0.99**share))
    assert [turn.name for turn in eager.turns()] == ["discriminator", "generator"]
    assert [player.optimizer.lr for player in eager.players()] == [0.002, 0.002]
    (average,) = game.ema_targets()
    assert (average.module, average.half_life, average.ramp_up) == ("generator", 10_000.0, None)


def test_r1_is_ten_halves_of_the_mean_squared_slope():
    game, batch = game_of(3), batch_of(4)
    leaf = batch.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(game.discriminator(leaf, batch.labels).sum(), leaf)
    expected = 10 / 2 * slope.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(game.penalty_loss(batch, seeded())["loss"], 16 * expected)


@pytest.mark.parametrize("n", [4, 6])
def test_one_batch_for_the_discriminator_is_as_good_as_two(n):
    """Minibatch deviations included, which are of real and of generated images each for themselves."""
    game, batch = game_of(3), batch_of(n)
    assert game.concatenate
    results = []
    for concatenate in (True, False):
        game.concatenate = concatenate
        torch.manual_seed(3)  # for the noise in the synthesis
        loss = game.discriminator_loss(batch, seeded())["loss"]
        results.append((loss, *torch.autograd.grad(loss, list(game.discriminator.parameters()))))
    for together, apart in zip(*results, strict=True):
        torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-12)


def test_presets():
    assert preset("stylegan2", 1024, None).width == 32
    auto = preset("auto", 256, 16)
    assert (auto.width, auto.lr, auto.mapping_layers, auto.ema_ramp_up) == (64, 0.0025, 2, 0.05)
    assert auto.r1_gamma == pytest.approx(0.0002 * 256**2 / 16)
    assert (auto.ema_kimg, auto.group_size) == (5.0, 4)
    assert preset("auto", 1024, None).batch_size == 4
    paper = preset("paper256", 256, None)
    assert (paper.width, paper.lr, paper.r1_gamma, paper.ema_kimg, paper.group_size) == (64, 0.0025, 1.0, 20.0, 8)
    cifar = create("stylegan2", **{**TINY, "config": "cifar"})
    assert [turn.name for turn in cifar.turns()] == ["discriminator", "penalty", "generator"]
    assert (cifar.style_mixing, cifar.penalties["r1"], cifar.ema_kimg) == (0.0, 0.01, 500.0)
    assert cifar.discriminator.blocks[0].skip is None
    assert cifar.discriminator.epilogue.mbstd.group_size == 32
    for name in PRESETS:
        assert create("stylegan2", **{**TINY, "config": name, "lr": 0.5}).players()[0].optimizer.lr > 0.4


def test_half_types_only_for_the_largest_maps():
    game = create("stylegan2", **{**TINY, "resolution": 64, "num_half_resolutions": 2, "num_classes": 3})
    assert [block.half_precision for block in game.generator.synthesis.blocks] == [False, False, False, True, True]
    assert [block.half_precision for block in game.discriminator.blocks] == [True, True, False, False]
    types = {}
    for name, module in game.named_modules():
        if name.rpartition(".")[2] in ("conv0", "conv1", "conv", "fc", "fc0"):
            module.register_forward_hook(lambda *call, name=name: types.__setitem__(name, call[2].dtype))
    labels = torch.tensor([0, 2])
    with torch.autocast("cpu", torch.bfloat16):
        images = game.generator(torch.randn(2, 5), labels)
        assert images.dtype == torch.float32
        game.discriminator(images, labels).sum().backward()
    half = {name for name, dtype in types.items() if dtype == torch.bfloat16}
    assert half == {f"generator.synthesis.blocks.{i}.conv{k}" for i in (3, 4) for k in (0, 1)} | {
        f"discriminator.blocks.{i}.conv{k}" for i in (0, 1) for k in (0, 1)
    }
    assert set(types.values()) == {torch.bfloat16, torch.float32}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in game.generator.parameters())


def test_results_are_clamped():
    game = create("stylegan2", **TINY, conv_clamp=0.01)
    images = game.generator(torch.randn(2, 5))
    # Each of the three images that are added is within the limit; upsampling keeps to it.
    assert images.abs().max() <= 0.03 + 1e-6
    assert game.generator.synthesis(torch.randn(2, 6, 6)).abs().max() > 0


def test_shares_of_a_batch_make_the_whole():
    game, batch = game_of(), batch_of(4)
    with torch.no_grad():
        for name, parameter in game.generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.zero_()
    one, two = copy.deepcopy(game), copy.deepcopy(game)
    for turn in ("generator_loss", "path_length_loss"):
        whole = getattr(one, turn)(batch, seeded())["loss"]
        halves = [replace(batch, images=images, labels=None) for images in batch.images.chunk(2)]
        parts = [getattr(two, turn)(half, seeded(0, Shard(i, 2)))["loss"] for i, half in enumerate(halves)]
        if turn == "path_length_loss":
            torch.testing.assert_close(torch.stack(parts).mean(), whole)
    one.after_step("generator", 1), two.after_step("generator", 1)
    assert_same(dict(two.named_buffers()), dict(one.named_buffers()))


def test_trains_resumes_and_samples(tmp_path):
    def make():
        return create("stylegan2", **TINY, num_classes=3, r1_interval=2, path_length_interval=2, augment="ada")

    game = assert_trains_and_resumes(make, ToyImages(1, 16), tmp_path)
    assert game.generator.mapping.w_avg.value.any()
    assert game.path_length_mean.value > 0


def test_half_types_survive_path_lengths_that_overflow(tmp_path):
    # The loss scaling begins at 65536, and the first path lengths are infinite.
    game = create("stylegan2", **TINY, path_length_interval=1)
    lengths = []

    def note(trainer):
        lengths.append(float(game.path_length_mean.value))

    options = {"batch_size": 4, "device": "cpu", "progress": False, "num_samples": 1, "sample_every": 0, "log_every": 1}
    Trainer(game, ToyImages(1, 16), out=tmp_path / "run", steps=9, precision="fp16", hooks=[note], **options).fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = [line["losses"]["path_length/length"] for line in lines]
    assert logged[0] is None
    assert logged[-1] > 0
    assert lengths[0] == 0.0
    assert lengths[-1] > 0


def test_settings_of_the_adaptive_augmentation(tmp_path):
    game = create("stylegan2", **TINY, augment="ada", ada_target=-1.0, ada_kimg=0.02, ada_pipeline="b")
    assert (game.adaptive_augment.target, game.adaptive_augment.pipeline) == (-1.0, "b")
    options = {"batch_size": 4, "device": "cpu", "progress": False, "num_samples": 1, "sample_every": 0, "log_every": 1}
    Trainer(game, ToyImages(1, 16), out=tmp_path / "run", steps=5, **options).fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    # After 4 steps of 4 of the 20 images in which it goes from 0 to 1, unless r_t is at the target exactly.
    probabilities = [line["losses"]["discriminator/augment_p"] for line in lines]
    assert probabilities == pytest.approx([0.0, 0.0, 0.0, 0.0, 0.8])
    assert lines[4]["losses"]["discriminator/augment_r_t"] > -1.0
    plain = create("stylegan2", **TINY, augment="ada").adaptive_augment
    assert (plain.target, plain.kimg, plain.pipeline) == (0.6, 500.0, "bgc")


def test_averages_may_be_left_out():
    assert create("stylegan2", **TINY, ema_kimg=0).ema_targets() == ()
    (average,) = create("stylegan2", **TINY, config="auto", ema_ramp_up=0).ema_targets()
    assert average.ramp_up is None
    (average,) = create("stylegan2", **TINY, config="auto").ema_targets()
    assert average.ramp_up == 0.05


@pytest.mark.interpreter
@pytest.mark.parametrize("num_classes", [None])
def test_backends_agree(num_classes):
    game = create("stylegan2", **{**TINY, "resolution": 8, "width": 2, "channel_max": 2}, num_classes=num_classes)
    assert_backends_agree(game, batch_of(2, 8), penalty=False)


def test_a_step_repeats():
    game, batch = game_of(3), batch_of(4)
    steps = []
    for _ in range(2):
        torch.manual_seed(0)
        steps.append(play(copy.deepcopy(game), batch))
    assert_same(steps[1], steps[0], rtol=0, atol=0)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"resolution": 48}, "resolution: StyleGAN2 is made for 8, 16"),
    ({"config": "papers256"}, "config: expected one of 'stylegan2', 'auto'"),
    ({"width": 0}, "width: expected a positive whole number, got 0"),
    ({"generator_architecture": "skipp"}, "generator_architecture: expected one of 'orig', 'skip', 'resnet'"),
    ({"discriminator_architecture": "res"}, "discriminator_architecture: expected one of"),
    ({"style_mixing": 1.5}, r"style_mixing: expected a number in \[0, 1\], got 1.5"),
    ({"path_length_interval": 0}, "path_length_interval: expected a positive whole number"),
    ({"path_length_weight": -1}, "path_length_weight: expected a number of at least 0"),
    ({"r1_interval": 0}, "r1_interval: expected a positive whole number"),
    ({"conv_clamp": -1}, "conv_clamp: expected a number"),
    ({"num_half_resolutions": -1}, "num_half_resolutions: expected a whole number"),
    ({"num_half_resolutions": 2.5}, "num_half_resolutions: expected a whole number"),
    ({"ema_kimg": -3}, "ema_kimg: expected a number"),
    ({"batch_size": 0}, "batch_size: expected a positive whole number"),
    ({"augment": "adda"}, "augment: expected one of"),
    ({"ada_target": 0.5}, "ada_target: has a meaning only with augment='ada', got 0.5 and None"),
    ({"ada_kimg": 100, "augment": "diffaugment"}, "ada_kimg: has a meaning only with augment='ada'"),
    ({"ada_target": 2, "augment": "ada"}, r"ada_target: expected a number in \[-1, 1\], got 2"),
    ({"ada_kimg": 0, "augment": "ada"}, "ada_kimg: expected a number"),
    ({"ada_pipeline": "all", "augment": "ada"}, "ada_pipeline: expected one of 'b', 'g', 'c'"),
])  # fmt: skip
def test_bad_arguments_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        create("stylegan2", **{**TINY, **wrong})


def test_bad_inputs_are_named():
    game = create("stylegan2", **TINY, num_classes=3)
    with pytest.raises(ValueError, match=r"ws: expected \(B, 6, 6\), got \(2, 5, 6\)"):
        game.generator.synthesis(torch.randn(2, 5, 6))
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, 16, 16\)"):
        game.discriminator(torch.randn(2, 1, 8, 8), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="labels: this network has 3 classes"):
        game.generator(torch.randn(2, 5))
