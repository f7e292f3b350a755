import copy
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.game import Batch, Game
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.models import biggan, create
from ganfuse.models.truncation import truncate_normal, truncate_uniform
from tests.models import step_checks
from tests.models.plain_layers import (
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
TINY = {"resolution": 32, "width": 2, "channels": 1, "latent_dim": 8, "shared_features": 3, "attention_resolution": 16}


@cache
def published(resolution: int) -> Game:
    """The paper's model, without storage."""
    with torch.device("meta"):
        return create("biggan", resolution=resolution)


@pytest.mark.parametrize(("resolution", "generator", "discriminator", "latents"), [
    (32, None, None, 80),
    (64, None, None, 100),
    (128, 70_433_988, 87_982_370, 120),  # published
    (256, 82_097_604, 99_191_330, 140),
    (512, 82_468_068, 99_401_282, 160),
])  # fmt: skip
def test_parameter_counts_and_shapes(resolution, generator, discriminator, latents):
    game = published(resolution)
    with torch.device("meta"):
        labels = torch.zeros(2, dtype=torch.int64)
        images = game.generator(torch.empty(2, latents), labels)
        logits = game.discriminator(images, labels)
    assert images.shape == (2, 3, resolution, resolution)
    assert logits.shape == (2,)
    if generator is not None:
        assert (count(game.generator), count(game.discriminator)) == (generator, discriminator)


def test_spectrally_normalised_weights_of_the_published_model():
    """41 in the generator, 23 in the discriminator; the shared embedding is not among them."""
    game = published(128)
    counts = [
        sum(n.endswith("weight_orig") for n, _ in m.named_parameters()) for m in (game.generator, game.discriminator)
    ]
    assert counts == [41, 23]
    assert isinstance(game.generator.shared.weight, nn.Parameter)


# The networks in plain PyTorch, in the order of the paper's figures 15 and 16.


def plain_generator(net: nn.Module, z: Tensor, labels: Tensor | None) -> Tensor:
    pieces = z.reshape(len(z), len(net.blocks) + 1, -1)
    h = F.linear(pieces[:, 0], weight(net.linear), net.linear.bias).view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
    for index, block in enumerate(net.blocks):
        condition = pieces[:, index + 1]
        if labels is not None:
            condition = torch.cat([net.shared.weight[labels], condition], 1)
        x, h = h, conv(block.conv1, doubled(conditioned(block.bn1, h, condition)))
        h = conv(block.conv2, conditioned(block.bn2, h, condition)) + conv(block.conv_sc, doubled(x))
        if h.shape[2] == 16:
            h = attention(net.attention, h)
    return torch.tanh(conv(net.output_conv, batch_norm(net.output_bn, h)))


def plain_discriminator(net: nn.Module, images: Tensor, labels: Tensor | None) -> Tensor:
    h = images
    for index, block in enumerate(net.blocks):
        x = h
        h = conv(block.conv2, torch.relu(conv(block.conv1, h if index == 0 else torch.relu(h))))
        if index < 2:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(conv(block.conv_sc, x), 2)
        h = h + x
        if index == 0:
            h = attention(net.attention, h)
    return projected(net, h, labels)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_equals_plain_pytorch_with_its_condition_vector_per_block(num_classes):
    game = create("biggan", num_classes=num_classes, **TINY).double()
    step_checks.unsettle(game)
    labels = None if num_classes is None else torch.tensor([0, 2])
    settle(game, 8, num_classes)
    plain = [partial(plain_generator, game.generator), partial(plain_discriminator, game.discriminator)]
    assert_same_functions(game, torch.randn(2, 8, dtype=F64), labels, plain)


def test_recipe_of_the_paper():
    game = published(32)
    optimizers = {player.name: player.optimizer for player in game.players()}
    assert optimizers["discriminator"] == Adam(2e-4, (0.0, 0.999), eps=1e-6)
    built = optimizers["generator"]([torch.zeros(2, requires_grad=True)])
    assert [built.defaults[key] for key in ("lr", "betas", "eps")] == [5e-5, (0.0, 0.999), 1e-6]
    (target,) = game.ema_targets()
    assert (target.module, target.decay, target.warmup, target.start) == ("generator", 0.9999, False, 20_000)
    assert [(turn.name, turn.repeats) for turn in game.turns()] == [("discriminator", 2), ("generator", 1)]
    unregularised = create("biggan", orthogonal=0.0, **TINY)
    assert {p.name: p.optimizer for p in unregularised.players()}["generator"] == Adam(5e-5, (0.0, 0.999), eps=1e-6)


def test_weights_begin_orthogonal():
    game = create("biggan", resolution=32, width=4, num_classes=5)
    for name, parameter in game.named_parameters():
        if parameter.dim() < 2:
            continue
        rows = parameter.detach().flatten(1)
        rows = rows if rows.shape[0] <= rows.shape[1] else rows.t()
        torch.testing.assert_close(rows @ rows.t(), torch.eye(len(rows)), rtol=0, atol=1e-5, msg=name)


def test_orthogonal_regularisation_enters_the_generators_step():
    """With a learning rate of 1 and SGD's rule the step is the gradient: that of the loss and 4β (WWᵀ ∘ (1 − I)) W."""
    game = create("biggan", num_classes=3, orthogonal=0.1, **TINY).double()
    with torch.no_grad():
        for parameter in game.generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    (optimizer,) = (p.optimizer(p.parameters(game)) for p in game.players() if p.name == "generator")
    seen = {}
    optimizer.register_step_pre_hook(lambda *_: seen.update((p, p.grad.clone()) for p in game.generator.parameters()))
    loss = game.generator_loss(Batch(torch.zeros(2, 1, 32, 32, dtype=F64), torch.tensor([0, 1])), Noise())["loss"]
    loss.backward()
    before = {p: p.grad.clone() for p in game.generator.parameters()}
    values = {p: p.detach().clone().requires_grad_() for p in before}
    optimizer.step()
    regularised = 0
    for name, p in game.generator.named_parameters():
        if p.dim() < 2 or name == "shared.weight":
            assert torch.equal(seen[p], before[p]), name
            continue
        w = values[p].flatten(1)
        (expected,) = torch.autograd.grad(0.1 * (w @ w.t() * (1 - torch.eye(len(w)))).square().sum(), values[p])
        torch.testing.assert_close(seen[p] - before[p], expected, rtol=1e-6, atol=1e-9, msg=name)
        regularised += bool(expected.any())
    assert regularised > 20


@pytest.mark.parametrize("threshold", [0.04, 0.5, 2.0, 30.0])
def test_truncated_latents_have_the_distribution_of_resampled_ones(threshold):
    z = torch.linspace(-5, 5, 1001, dtype=F64)
    ours = truncate_normal(z, threshold)
    normal = torch.distributions.Normal(0.0, torch.ones((), dtype=F64))
    lower, upper = normal.cdf(torch.tensor([-threshold, threshold], dtype=F64))
    # The quantile of z among all is that of its image among those within the threshold.
    torch.testing.assert_close((normal.cdf(ours) - lower) / (upper - lower), normal.cdf(z), rtol=0, atol=1e-12)
    assert ours.abs().max() <= threshold
    assert (ours.diff() >= 0).all()
    assert truncate_normal(torch.tensor([9.0, -40.0, 0.0]), threshold).isfinite().all()
    if threshold == 30.0:
        torch.testing.assert_close(ours, z, rtol=1e-9, atol=1e-9)


def test_truncated_uniform_latents_are_shrunk_ones():
    z = torch.tensor([-1.0, 0.5])
    assert truncate_uniform(z, 0.5).tolist() == [-0.5, 0.25]
    assert truncate_uniform(z, 3.0).tolist() == [-1.0, 0.5]


def test_standing_statistics_are_those_of_truncated_batches():
    game = create("biggan", num_classes=3, **TINY).double()
    step_checks.unsettle(game)
    state = copy.deepcopy(game.state_dict())
    layer = game.generator.blocks[1].bn2
    inputs: list[Tensor] = []
    layer.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach()))
    game.sample(2, truncation=0.5, standing_statistics=3)
    *batches, drawn = inputs
    assert [len(batch) for batch in batches] == [64, 64, 64]
    assert len(drawn) == 2
    with game.truncated(0.5), game.standing_statistics(3):
        mean = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
        var = torch.stack([batch.transpose(0, 1).flatten(1).var(1) for batch in batches]).mean(0)
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, var)
    assert all(torch.equal(value, state[name]) for name, value in game.state_dict().items())


def test_truncation_without_statistics_and_statistics_without_truncation():
    game = create("biggan", num_classes=3, **TINY)

    def draw(**options: object) -> Tensor:
        return game.sample(3, labels=1, rng=torch.Generator().manual_seed(0), **options)

    plain = draw()
    assert torch.equal(draw(standing_statistics=0), plain)
    truncated = draw(truncation=0.5)
    assert not torch.allclose(draw(truncation=0.5, standing_statistics=2), truncated)
    assert not torch.allclose(draw(standing_statistics=2), plain)
    spread = [images.std(0).mean().item() for images in (draw(truncation=0.1), plain)]
    assert spread[0] < 0.2 * spread[1]
    torch.testing.assert_close(draw(truncation=0.5, batch_size=2), truncated)
    for options, message in (
        ({"truncation": 0}, "truncation: expected a number above 0"),
        ({"standing_statistics": -1}, "standing_statistics: expected a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            draw(**options)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_trains_resumes_and_is_sampled(tmp_path, num_classes):
    def make():
        return create("biggan", num_classes=num_classes, ema_start=1, **TINY)

    game = assert_trains_and_resumes(make, ToyImages(1, 32), tmp_path, accumulation=2)
    assert game.sample(2, truncation=0.7, standing_statistics=1).isfinite().all()


@pytest.mark.interpreter
def test_a_step_is_the_same_in_all_backends(monkeypatch):
    # Two blocks: an interpreted program costs milliseconds.
    for table, widths in ((biggan.GENERATOR_WIDTHS, (2, 2, 2)), (biggan.DISCRIMINATOR_WIDTHS, (2, 2))):
        monkeypatch.setitem(table, 16, widths)
    monkeypatch.setattr(biggan, "RESOLUTIONS", (16,))
    tiny = {**TINY, "resolution": 16, "width": 1, "latent_dim": 6, "attention_resolution": 8}
    images = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert_backends_agree(create("biggan", num_classes=2, **tiny), Batch(images, torch.tensor([0, 1])))


def test_refuses_what_it_is_not_made_for():
    for options, message in (
        ({"resolution": 48}, "resolution: BigGAN is made for 32, 64, 128, 256, 512 px, got 48"),
        ({"attention_resolution": 7}, "attention_resolution: both players have maps of 8, 16, 32, 64 at 128 px"),
        ({"latent_dim": 121}, "latent_dim: z is cut into 6 equal pieces at 128 px, got 121"),
        ({"width": 0}, "width: expected a positive whole number, got 0"),
        ({"shared_features": 0}, "shared_features: expected a positive whole number, got 0"),
        ({"num_classes": -2}, "num_classes: expected a whole number or None, got -2"),
        ({**TINY, "orthogonal": -1.0}, "orthogonal: expected a number of at least 0, got -1.0"),
        ({**TINY, "adam_eps": -1.0}, "adam_eps: expected a number of at least 0, got -1.0"),
        ({**TINY, "ema_start": -1}, "ema_start: expected a number of at least 0, got -1"),
        ({**TINY, "loss": "hing"}, "loss: expected one of"),
    ):
        with pytest.raises(ValueError, match=message):
            create("biggan", **options)
    game = create("biggan", num_classes=3, **TINY)
    with pytest.raises(ValueError, match=r"z: expected \(B, 8\), got \(2, 5\)"):
        game.generator(torch.randn(2, 5), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="needs labels"):
        game.discriminator(torch.zeros(2, 1, 32, 32))
