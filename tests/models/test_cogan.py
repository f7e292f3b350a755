import copy

import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.models import create, model_info
from tests.models import step_checks
from tests.models.plain_layers import count
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
TINY = {"width": 2, "discriminator_width": 1, "latent_dim": 3}


class ToyDomains:
    """Two unpaired domains of different lengths."""

    name = "toy domains"
    paired = False

    def __init__(self, resolution: int = 28) -> None:
        self.domains = (ToyImages(1, resolution), ToyImages(1, resolution, length=6))
        self.channels, self.resolution = 1, resolution

    def __len__(self) -> int:
        return 8


def toy_batch(dtype=F64, n: int = 3) -> Batch:
    first, second = (torch.rand(n, 1, 28, 28, dtype=dtype) * 2 - 1 for _ in range(2))
    return Batch(first, torch.tensor([0, 2, 1])[:n], images_b=second, labels_b=torch.tensor([1, 1, 0])[:n])


def noise():
    return Noise(torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("config", "generator", "discriminator"), [
    (
        {},
        100 * 1024 * 16 + 1024 + 9 * (1024 * 512 + 512 * 256 + 256 * 128) + 896 + 4 + 2 * (128 * 36 + 1),
        2 * (25 * 20 + 20) + 25 * 20 * 50 + 50 + 16 * 50 * 500 + 500 + 1 + 1002,
    ),
    ({"num_classes": 10}, 7_842_694, 427_593 + 5010),
    ({"resolution": 32}, 3_445_637, 652_593),
    ({"resolution": 64, "channels": 3}, 12_662_666, 4_254_593),
])  # fmt: skip
def test_parameter_counts_and_shapes(config, generator, discriminator):
    with torch.device("meta"):
        game = create("cogan", **config)
        pair = game.generator(torch.empty(2, 100))
        logits = game.discriminator(pair)
    assert (count(game.generator), count(game.discriminator)) == (generator, discriminator)
    size = config.get("resolution", 28)
    assert [images.shape for images in pair] == [(2, config.get("channels", 1), size, size)] * 2
    assert logits.shape == (4,)
    assert (game.data_kind, model_info("cogan").data_kind) == ("unpaired", "unpaired")


def test_networks_are_those_of_the_paper():
    game = create("cogan", **TINY).double().train()
    step_checks.unsettle(game)
    g, d = game.generator, game.discriminator
    z = torch.randn(3, 3, dtype=F64)
    h, sizes = z[:, :, None, None], []
    for conv, activation in zip((g.project, *g.shared), g.activations, strict=True):
        h = conv(h)
        h = (h - h.mean((0, 2, 3), keepdim=True)) / (h.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        h = torch.where(h > 0, h, activation.weight * h)
        sizes.append(h.shape[2])
    assert sizes == [4, 7, 13, 25]
    pair = g(z)
    torch.testing.assert_close(pair[0], 2 * torch.sigmoid(g.output_a(h)) - 1)
    torch.testing.assert_close(pair[1], 2 * torch.sigmoid(g.output_b(h)) - 1)
    logits = []
    for images, first in zip(pair, (d.input_a, d.input_b)):
        h = F.max_pool2d(first((images + 1) / 2), 2)
        h = d.conv2(F.max_pool2d(d.conv1(h), 2))
        assert h.shape[2:] == (1, 1)
        h = torch.where(h > 0, h, d.activation.weight * h)
        log_p = torch.log_softmax(d.output(h).flatten(1), 1)
        logits.append(log_p[:, 1] - log_p[:, 0])
    torch.testing.assert_close(d(pair), torch.cat(logits))


def test_losses_are_the_cross_entropies_of_both_domains_together():
    game = create("cogan", **TINY).double().train()
    step_checks.unsettle(game)
    batch = toy_batch()
    pair = game.generator(2 * noise().uniform(3, 3, dtype=F64) - 1)
    real = torch.sigmoid(game.discriminator((batch.images, batch.images_b)))
    fake = torch.sigmoid(game.discriminator(pair))
    value = real.log().sum() / 6 + (1 - fake).log().sum() / 6
    torch.testing.assert_close(game.discriminator_loss(batch, noise())["loss"], -value)
    torch.testing.assert_close(game.generator_loss(batch, noise())["loss"], -fake.log().mean())


def test_tied_weights_receive_the_sum_of_both_domains_gradients():
    """Against two games without ties, one for each domain, that begin with the same weights."""
    game = create("cogan", **TINY).double().train()
    step_checks.unsettle(game)
    z = torch.randn(4, 3, dtype=F64)
    F.softplus(-game.discriminator(game.generator(z))).sum().backward()
    own = {"output_a": 0, "output_b": 1, "input_a": 0, "input_b": 1}
    gradients = []
    for index in (0, 1):
        alone = copy.deepcopy(game)
        alone.zero_grad()
        F.softplus(-alone.discriminator(alone.generator(z)).chunk(2)[index]).sum().backward()
        gradients.append({name: p.grad for name, p in alone.named_parameters()})
    tied = 0
    for name, parameter in game.named_parameters():
        first, second = (found[name] for found in gradients)
        layer = name.split(".")[1]
        if layer in own:
            untouched = gradients[1 - own[layer]][name]
            assert untouched is None or not untouched.any(), name
            torch.testing.assert_close(parameter.grad, gradients[own[layer]][name])
        else:
            assert first.any(), name
            assert second.any(), name
            torch.testing.assert_close(parameter.grad, first + second)
            tied += 1
    assert tied == 2 * 4 + 4 + 2 * 3 + 1


def test_domain_adaptation_adds_two_terms_and_reads_no_label_of_b():
    game = create("cogan", num_classes=3, feature_weight=0.3, classification_weight=0.7, **TINY).double().train()
    step_checks.unsettle(game)
    batch = toy_batch()
    values = game.discriminator_loss(batch, noise())
    plain = create("cogan", **TINY).double()
    plain.load_state_dict({k: v for k, v in game.state_dict().items() if "classifier" not in k})
    adversarial = plain.discriminator_loss(batch, noise())["loss"]
    pair = game.generator(2 * noise().uniform(3, 3, dtype=F64) - 1)
    first, second = (game.discriminator.features({d: x}).flatten(1) for d, x in zip("ab", pair))
    apart = ((first - second) ** 2).sum(1).mean()
    log_p = torch.log_softmax(game.discriminator.classify(game.discriminator.features({"a": batch.images})), 1)
    of_class = -log_p[range(3), batch.labels].mean()
    torch.testing.assert_close(values["loss"], adversarial + 0.3 * apart + 0.7 * of_class)
    other = Batch(batch.images, batch.labels, batch.images_b, labels_b=(batch.labels_b + 1) % 3)
    assert torch.equal(game.discriminator_loss(other, noise())["loss"], values["loss"])
    logits = game.classify(batch.images_b)
    assert values["accuracy_b"] == (logits.argmax(1) == batch.labels_b).double().mean()
    assert not torch.allclose(logits, game.classify(batch.images_b, domain="a"))
    unlabelled = Batch(batch.images, images_b=batch.images_b)
    with pytest.raises(ValueError, match="num_classes: a classifier needs labels of domain A"):
        game.discriminator_loss(unlabelled, noise())


def test_joint_samples():
    game = create("cogan", **TINY)

    def rng():
        return torch.Generator().manual_seed(3)

    first, second = game.sample_pairs(5, rng=rng(), batch_size=2)
    torch.testing.assert_close(game.sample(5, rng=rng()), first)
    torch.testing.assert_close(game.sample(5, rng=rng(), domain="b"), second)
    assert not torch.allclose(first, second)
    grid, columns = game.preview(21, rng=rng())
    assert (len(grid), columns) == (16, 8)
    first, second = game.sample_pairs(8, rng=rng())
    torch.testing.assert_close(grid, torch.cat([first, second]))
    assert game.preview(1, rng=rng())[0].shape == (2, 1, 28, 28)


def test_recipe():
    with torch.device("meta"):
        game = create("cogan")
    for player in game.players():
        assert player.optimizer == Adam(2e-4, (0.5, 0.999), weight_decay=5e-4)
    assert (game.latent, create("cogan", latent="normal", **TINY).latent) == ("uniform", "normal")
    torch.manual_seed(0)
    layer = create("cogan", **TINY).discriminator.conv2
    bound = (2 * 6 / (16 * (5 + 50))) ** 0.5
    assert 0.95 * bound < layer.weight.max() <= bound
    assert (layer.bias == 0.1).all()


@pytest.mark.interpreter
def test_backends_agree_on_a_step():
    game = create("cogan", num_classes=3, **{**TINY, "width": 1})
    assert_backends_agree(game, toy_batch(n=2), penalty=False)


@pytest.mark.parametrize("config", [{}, {"num_classes": 3, "resolution": 32, "ema_decay": 0.9}])
def test_trains_resumes_and_is_sampled(tmp_path, config):
    data = ToyDomains(config.get("resolution", 28))
    game = assert_trains_and_resumes(lambda: create("cogan", **TINY, **config), data, tmp_path)
    assert game.sample(2, domain="b").shape == (2, 1, data.resolution, data.resolution)


def test_refuses_what_it_is_not_made_for():
    for key, value, message in (
        ("resolution", 48, "resolution: CoGAN is made for 28, 32, 64 px, got 48"),
        ("latent", "cauchy", "latent: expected one of 'uniform', 'normal', got 'cauchy'"),
        ("discriminator_width", 0, "discriminator_width: expected a positive whole number, got 0"),
        ("num_classes", 1, "num_classes: expected a whole number of at least 2, or None, got 1"),
        ("feature_weight", -1, "feature_weight: expected a number of at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            create("cogan", **{key: value})
    game, adapting = create("cogan", **TINY), create("cogan", num_classes=2, **TINY)
    with pytest.raises(ValueError, match="data: CoGAN needs two domains"):
        game.check_data(ToyImages(1, 28))
    with pytest.raises(ValueError, match="num_classes: domain A has labels up to 2, the game was made for 2"):
        adapting.check_data(ToyDomains())
    one_class = ToyDomains()
    one_class.domains[0].labels, one_class.domains[0].num_classes = torch.zeros(8, dtype=torch.int64), 1
    with pytest.raises(ValueError, match="num_classes: the images of domain A are all of one class"):
        adapting.check_data(one_class)
    with pytest.raises(ValueError, match="data: CoGAN needs images of two domains"):
        game.discriminator_loss(Batch(torch.zeros(2, 1, 28, 28)), noise())
    with pytest.raises(ValueError, match="num_classes: the game was made without classes"):
        game.classify(torch.zeros(2, 1, 28, 28))
    with pytest.raises(ValueError, match="domain: expected one of 'a', 'b', got 'c'"):
        game.sample(2, domain="c")
    with pytest.raises(ValueError, match="labels: this game has no classes"):
        game.sample(2, labels=1)
