import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfuse.engine.noise import Noise
from ganfuse.engine.schedules import Progress
from ganfuse.kernels import use_backend
from ganfuse.models import create
from ganfuse.models.vgg_features import VGGFeatures, perceptual_loss
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
TINY = {"resolution": 16, "width": 2, "channels": 1, "blocks": 1, "discriminator_scales": 1}
BLOCK = 2 * (9 * 256 * 256 + 256)


def conv(inputs, outputs, kernel):
    return kernel * kernel * inputs * outputs + outputs


@pytest.mark.parametrize("share_blocks", [0, 1, 2])
def test_parameter_counts_and_shapes(share_blocks):
    with torch.device("meta"):
        game = create("unit", share_blocks=share_blocks)
        images = torch.empty(2, 3, 256, 256)
        translated, logits = game.generator_ab(images), game.discriminator_a(images)
    encoder = conv(3, 64, 7) + conv(64, 128, 4) + conv(128, 256, 4) + 4 * BLOCK
    decoder = 4 * BLOCK + conv(256, 128, 5) + 2 * 128 + conv(128, 64, 5) + 2 * 64 + conv(64, 3, 7)
    assert count(game.generator_ab) == encoder + decoder
    players = {player.name: sum(p.numel() for p in player.parameters(game)) for player in game.players()}
    assert players["generators"] == 2 * (encoder + decoder) - 2 * share_blocks * BLOCK
    scale = conv(3, 64, 4) + conv(64, 128, 4) + conv(128, 256, 4) + conv(256, 512, 4) + conv(512, 1, 1)
    assert count(game.discriminator_a) == 3 * scale
    assert translated.shape == images.shape
    assert [tuple(output.shape) for output in logits] == [(2, 1, side, side) for side in (16, 8, 4)]


def padded(layer, x):
    around = (layer.kernel_size[0] - 1) // 2
    x = F.pad(x, (around,) * 4, mode="reflect")
    return F.conv2d(x, layer.weight, layer.bias, stride=layer.stride)


def instance_norm(x):
    return (x - x.mean((2, 3), keepdim=True)) / (x.var((2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


def block(net, h):
    return h + instance_norm(padded(net.conv2, instance_norm(padded(net.conv1, h)).relu()))


def encode(net, x):
    for stage in net.layers:
        x = instance_norm(padded(stage[0], x)).relu()
    for part in (*net.blocks, *net.shared):
        x = block(part, x)
    return x


def decode(net, h):
    for part in (*net.shared, *net.blocks):
        h = block(part, h)
    for layer, norm in net.layers:
        h = padded(layer, h.repeat_interleave(2, 2).repeat_interleave(2, 3))
        mean, var = h.mean((1, 2, 3), keepdim=True), h.var((1, 2, 3), correction=0, keepdim=True)
        h = (h - mean) / (var + 1e-5).sqrt() * norm.weight[:, None, None] + norm.bias[:, None, None]
        h = h.relu()
    return torch.tanh(padded(net.output_conv, h))


def judge(net, x):
    outputs = []
    for network in net.scales:
        h = x
        for layer in network[:-1:2]:
            h = F.leaky_relu(padded(layer, h), 0.2)
        outputs.append(F.conv2d(h, network[-1].weight, network[-1].bias))
        # The mean of those of 3×3 pixels that are in the image.
        ones = F.avg_pool2d(F.pad(torch.ones_like(x), (1, 1, 1, 1)), 3, stride=2)
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2) / ones
    return outputs


def noisy(mean, noise):
    return mean + noise.normal(*mean.shape).to(F64)


@pytest.mark.parametrize(("scales", "share_blocks"), [(1, 0), (3, 1)])
def test_losses_and_gradients_are_the_formulas(scales, share_blocks):
    settings = {**TINY, "discriminator_scales": scales, "resolution": 16 << (scales - 1)}
    game = create("unit", **settings, share_blocks=share_blocks).double()
    unsettle(game)
    batch = toy_batch(game, 2)
    found = play(game, batch)
    a, b = batch.images, batch.images_b
    encode_a, decode_b = game.generator_ab.encoder, game.generator_ab.decoder
    encode_b, decode_a = game.generator_ba.encoder, game.generator_ba.decoder

    noise, critics = Noise(torch.Generator().manual_seed(0)), 0.0
    fake_b, fake_a = (
        decode(decode_b, noisy(encode(encode_a, a), noise)),
        decode(decode_a, noisy(encode(encode_b, b), noise)),
    )
    for net, real, fake in ((game.discriminator_a, a, fake_a), (game.discriminator_b, b, fake_b)):
        for r, f in zip(judge(net, real), judge(net, fake.detach())):
            critics = critics + ((r - 1) ** 2).mean() + (f**2).mean()

    noise = Noise(torch.Generator().manual_seed(0))
    mean_a, mean_b = encode(encode_a, a), encode(encode_b, b)
    code_a, code_b = noisy(mean_a, noise), noisy(mean_b, noise)
    fake_a, fake_b = decode(decode_a, code_b), decode(decode_b, code_a)
    mean_ab, mean_ba = encode(encode_b, fake_b), encode(encode_a, fake_a)
    cycle_a, cycle_b = decode(decode_a, noisy(mean_ab, noise)), decode(decode_b, noisy(mean_ba, noise))
    generators = sum(((f - 1) ** 2).mean() for f in judge(game.discriminator_a, fake_a))
    generators = generators + sum(((f - 1) ** 2).mean() for f in judge(game.discriminator_b, fake_b))
    generators = generators + 0.01 * sum((mean**2).mean() for mean in (mean_a, mean_b, mean_ab, mean_ba))
    own = (decode(decode_a, code_a) - a).abs().mean() + (decode(decode_b, code_b) - b).abs().mean()
    generators = generators + 10 * (own + (cycle_a - a).abs().mean() + (cycle_b - b).abs().mean())

    expected = {}
    for player, loss in (("generators", generators), ("discriminators", critics)):
        mine = next(p for p in game.players() if p.name == player).parameters(game)
        gradients = torch.autograd.grad(loss, mine, retain_graph=True)
        expected[f"{player}/loss"] = loss.detach()
        expected |= {f"{player}/{player} {i}": gradient for i, gradient in enumerate(gradients)}
    assert_same({key: found[key] for key in expected}, expected)


def test_a_shared_block_receives_the_gradients_of_both_domains():
    game = create("unit", **{**TINY, "blocks": 2}, share_blocks=1).double()
    a, b = game.generator_ab, game.generator_ba
    assert a.encoder.shared[0] is b.encoder.shared[0]
    assert a.decoder.shared[0] is b.decoder.shared[0]
    assert a.encoder.blocks[0] is not b.encoder.blocks[0]
    batch = toy_batch(game)
    weight = a.encoder.shared[0].conv1.weight

    def gradient(*losses):
        return torch.autograd.grad(sum(losses), weight)[0]

    of_a = gradient(a(batch.images).square().mean())
    of_b = gradient(b(batch.images_b).square().mean())
    both = gradient(a(batch.images).square().mean(), b(batch.images_b).square().mean())
    torch.testing.assert_close(both, of_a + of_b)
    assert of_a.abs().max() > 0
    assert of_b.abs().max() > 0


def test_recipe():
    with torch.device("meta"):
        game = create("unit")
    for player in game.players():
        (group,) = player.optimizer(player.parameters(game)).param_groups
        assert (group["lr"], group["weight_decay"], tuple(group["betas"])) == (1e-4, 1e-4, (0.5, 0.999))
        assert [player.schedule(Progress(step=1 + n)) for n in (99_999, 100_000, 200_000)] == [1, 0.5, 0.25]
    assert [turn.name for turn in game.turns()] == ["discriminators", "generators"]
    game = create("unit", resolution=64, width=16)
    weight = game.generator_ab.encoder.blocks[0].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)
    assert game.discriminator_a.scales[0][4].weight.std().item() == pytest.approx(0.02, rel=0.05)


def vgg16_state() -> dict[str, torch.Tensor]:
    """Of torchvision's network, classifier left out: random weights that keep the size of the activations."""
    generator = torch.Generator().manual_seed(0)
    inputs, state = 3, {}
    for index, outputs in zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28), (64, 64, 128, 128, *[256] * 3, *[512] * 6)
    ):
        weight = torch.randn(outputs, inputs, 3, 3, generator=generator) * (2 / (9 * inputs)) ** 0.5
        state |= {f"features.{index}.weight": weight, f"features.{index}.bias": torch.zeros(outputs)}
        inputs = outputs
    return state


def test_perceptual_loss_is_of_normalised_features(tmp_path):
    state = vgg16_state()
    torch.save(state, tmp_path / "vgg16.pth")
    features = VGGFeatures(tmp_path / "vgg16.pth")
    x, y = torch.rand(2, 1, 1, 64, 64) * 2 - 1

    def plain(image):
        h = (image.expand(-1, 3, -1, -1) + 1) / 2
        h = (h - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
            :, None, None
        ]
        for index in range(30):
            if f"features.{index}.weight" in state:
                h = F.conv2d(h, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1).relu()
            elif index in (4, 9, 16, 23):
                h = F.max_pool2d(h, 2)
        return instance_norm(h)

    expected = ((plain(x) - plain(y)) ** 2).mean()
    torch.testing.assert_close(perceptual_loss(features, x, y), expected, rtol=1e-4, atol=0)
    game = create("unit", **{**TINY, "resolution": 32}, vgg_weights=str(tmp_path / "vgg16.pth"), lambda_vgg=3.0)
    game.check_data(ToyDomains(1, 32))
    assert not [name for name in game.state_dict() if "vgg" in name or "features" in name]
    batch = toy_batch(game.double())
    with use_backend("reference"):
        values = game.generator_loss(batch, Noise(torch.Generator().manual_seed(0)))
        without = create("unit", **{**TINY, "resolution": 32}).double()
        without.load_state_dict(game.state_dict())
        plain_values = without.generator_loss(batch, Noise(torch.Generator().manual_seed(0)))
    assert "vgg" not in plain_values
    difference = (values["loss"] - plain_values["loss"]).detach()
    torch.testing.assert_close(difference, 3 * values["vgg"], rtol=1e-6, atol=1e-9)


def test_files_that_are_no_vgg(tmp_path):
    game = create("unit", **TINY, vgg_weights=str(tmp_path / "none.pth"))
    assert isinstance(game, nn.Module)  # a run can be used where the file is not
    with pytest.raises(FileNotFoundError, match="vgg_weights: no such file"):
        game.check_data(ToyDomains(1, 16))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"vgg_weights: .* is not torchvision's vgg16: features.0.weight"):
        VGGFeatures(tmp_path / "other.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match=r"vgg_weights: .* cannot be read"):
        VGGFeatures(tmp_path / "broken.safetensors")


def test_trains_resumes_and_translates_without_noise(tmp_path):
    game = assert_trains_and_resumes(lambda: create("unit", **TINY, ema_decay=0.5), ToyDomains(1, 16), tmp_path)
    assert game.generator_ab.encoder.shared[0].conv1.weight.equal(game.generator_ba.encoder.shared[0].conv1.weight)


@pytest.mark.slow
@pytest.mark.interpreter
def test_backends_agree():
    assert_backends_agree(create("unit", **{**TINY, "width": 1}))


def test_as_many_scales_as_the_images_allow():
    for resolution, scales in ((16, 1), (28, 1), (32, 2), (60, 2), (64, 3), (128, 3)):
        game = create("unit", resolution=resolution, width=1, channels=1, blocks=1)
        assert len(game.discriminator_b.scales) == scales
        assert [out.shape[0] for out in game.discriminator_a(torch.zeros(2, 1, resolution, resolution))] == [2] * scales
    with pytest.raises(ValueError, match="discriminator_scales: 1 of them need images of at least 16 px, got 12"):
        create("unit", resolution=12, width=1)


def test_the_perceptual_loss_needs_its_weights():
    """A weight that is asked for is not passed over; the default is left out, as the paper has it."""
    data = ToyDomains(1, 16)
    with pytest.raises(ValueError, match=r"lambda_vgg: the perceptual loss needs .* vgg_weights; got 5 without"):
        create("unit", **TINY, lambda_vgg=5).check_data(data)
    for weight in (0, 1.0):
        create("unit", **TINY, lambda_vgg=weight).check_data(data)


def test_names_what_is_wrong():
    assert_names_what_is_wrong(
        lambda **more: create("unit", **{**TINY, **more}),
        betas=(0.5, ("a", "b"), None),
        weight_decay=("x", -1),
        vgg_weights=(3,),
    )


def test_refuses_what_it_is_not_made_for():
    for key in ("channels", "width", "blocks", "discriminator_scales", "decay_every"):
        with pytest.raises(ValueError, match=f"{key}: expected a positive whole number, got 0"):
            create("unit", **{**TINY, key: 0})
    for share in (2, -1, 0.5):
        with pytest.raises(ValueError, match=r"share_blocks: expected a whole number in \[0, 1\]"):
            create("unit", **TINY, share_blocks=share)
    with pytest.raises(ValueError, match="lambda_kl: expected a number of at least 0"):
        create("unit", **TINY, lambda_kl=-1)
    with pytest.raises(ValueError, match="discriminator_scales: 3 of them need images of at least 64 px, got 32"):
        create("unit", resolution=32, discriminator_scales=3)
    with pytest.raises(ValueError, match="resolution: unit takes images whose sides are multiples of 4"):
        create("unit", **{**TINY, "resolution": 18})
    game = create("unit", **TINY)
    with pytest.raises(ValueError, match="multiples of 4"):
        game.generator_ab(torch.zeros(1, 1, 18, 16))
    with pytest.raises(ValueError, match=r"images: expected \(B, 1, 16, 16\)"):
        game.discriminator_a(torch.zeros(1, 1, 20, 20))
