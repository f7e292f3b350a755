import pytest
import torch
import torch.nn.functional as F

from ganfuse.engine.game import Batch
from ganfuse.engine.noise import Noise
from ganfuse.models import create
from ganfuse.models.cgan import AuxiliaryClassifierGame
from tests.models import step_checks
from tests.models.plain_layers import count
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
MODES = ("concat", "projection", "acgan")
TINY = {"resolution": 8, "width": 2, "latent_dim": 5, "num_classes": 3}
CONV = {**TINY, "resolution": 28, "architecture": "convolutional"}


@pytest.mark.parametrize(("config", "generator", "discriminator"), [
    # 794-512-512-512-1, and two embeddings of 10 × 10
    ({}, 1_511_412, 794 * 512 + 512 + 2 * (512 * 512 + 512) + 513 + 100),
    ({"conditioning": "projection"}, 1_511_412, 784 * 512 + 512 + 2 * (512 * 512 + 512) + 513 + 10 * 512),
    ({"conditioning": "acgan"}, 1_511_412, 784 * 512 + 512 + 2 * (512 * 512 + 512) + 513 + 10 * 513),
    ({"architecture": "convolutional"}, 903_141, 228_965),
    ({"architecture": "convolutional", "resolution": 64, "channels": 3}, 3_658_724, 2_775_909),
])  # fmt: skip
def test_parameter_counts_and_shapes(config, generator, discriminator):
    with torch.device("meta"):
        game = create("cgan", **config)
        labels = torch.zeros(2, dtype=torch.int64)
        images = game.generator(torch.empty(2, 100), labels)
        logits = game.discriminator(images, labels)
    assert (count(game.generator), count(game.discriminator)) == (generator, discriminator)
    size = config.get("resolution", 28)
    assert (images.shape, logits.shape) == ((2, config.get("channels", 1), size, size), (2,))


@pytest.mark.parametrize("base", [TINY, CONV])
@pytest.mark.parametrize("conditioning", MODES)
def test_where_the_label_enters(base, conditioning):
    game = create("cgan", conditioning=conditioning, **base).double().eval()
    step_checks.unsettle(game)
    size = base["resolution"]
    z, labels = torch.randn(3, 5, dtype=F64), torch.tensor([2, 0, 1])
    images = game.generator(z, labels)
    one_hot = F.one_hot(labels, 3).double()
    z_and_label = torch.cat([z, one_hot @ game.generator.embedding.weight], 1)
    torch.testing.assert_close(images, game.generator.body(z_and_label))
    d = game.discriminator
    logits = d(images, labels)
    if conditioning == "concat":
        label = one_hot @ d.embedding.weight
        if base is TINY:
            h = torch.cat([images.flatten(1), label], 1)
            for layer in d.features.hidden:
                h = F.leaky_relu(layer.linear(h), 0.2)
        else:
            h = torch.cat([images, label[:, :, None, None].expand(3, 3, size, size)], 1)
            h = F.leaky_relu(d.features.conv2(F.leaky_relu(d.features.conv1(h), 0.2)), 0.2).flatten(1)
        torch.testing.assert_close(logits, d.output(h)[:, 0])
    else:
        h = d.features(images)
        inner = torch.einsum("bc,bc->b", one_hot @ d.embedding.weight, h) if conditioning == "projection" else 0
        torch.testing.assert_close(logits, d.output(h)[:, 0] + inner)
    other = d(images, (labels + 1) % 3)
    assert torch.equal(other, logits) == (conditioning == "acgan")


def test_auxiliary_classifiers_losses_are_those_of_the_paper():
    game = create("cgan", conditioning="acgan", r1_gamma=0.5, **TINY).double().eval()
    real_labels = torch.tensor([0, 1, 2, 1])
    batch = Batch(torch.rand(4, 1, 8, 8, dtype=F64) * 2 - 1, real_labels)
    noise = Noise(torch.Generator().manual_seed(0))
    fakes, fake_labels = game.fakes_to_judge(batch, noise)

    def judge(images):
        h = game.discriminator.features(images)
        return torch.sigmoid(game.discriminator.output(h)[:, 0]), torch.softmax(game.discriminator.classifier(h), 1)

    (real, real_p), (fake, fake_p) = judge(batch.images), judge(fakes)
    rows = torch.arange(4)
    source = real.log().mean() + (1 - fake).log().mean()
    of_class = real_p[rows, real_labels].log().mean() + fake_p[rows, fake_labels].log().mean()
    images = batch.images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(game.discriminator(images, real_labels).sum(), images)
    r1 = 0.5 * slope.square().sum((1, 2, 3)).mean()
    values = game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(values["loss"], -source - of_class + 0.5 * r1)
    torch.testing.assert_close(values["r1"], 0.5 * r1)
    assert values["accuracy"] == (real_p.argmax(1) == real_labels).double().mean()
    values = game.generator_loss(batch, Noise(torch.Generator().manual_seed(0)))
    torch.testing.assert_close(values["loss"], -fake.log().mean() - fake_p[rows, fake_labels].log().mean())


def test_generated_labels_follow_those_of_the_data():
    game = create("cgan", **{**TINY, "num_classes": 4})
    data = ToyImages(1, 8)
    data.labels = torch.tensor([0, 0, 0, 0, 0, 2, 2, 3])
    data.num_classes = 4
    game.check_data(data)
    assert game.class_shares.tolist() == [0.625, 0.0, 0.25, 0.125]
    drawn = game.draw_labels(4000, Noise(torch.Generator().manual_seed(0)))
    counts = torch.bincount(drawn, minlength=4).double() / 4000
    assert counts[1] == 0
    torch.testing.assert_close(counts, game.class_shares.double(), rtol=0, atol=0.03)
    assert "class_shares" in game.state_dict()
    data.num_classes = 9
    with pytest.raises(ValueError, match="num_classes: the data has 9 classes"):
        game.check_data(data)


def test_an_auxiliary_classifiers_overfitting_moves_adaptive_augmentation():
    features = create("cgan", conditioning="acgan", **TINY)
    game = AuxiliaryClassifierGame(
        features.generator, features.discriminator, "hinge", num_classes=3, latent_dim=5, augment="ada"
    )
    batch = Batch(torch.rand(4, 1, 8, 8) * 2 - 1, torch.tensor([0, 1, 2, 1]))
    before = {key: value.clone() for key, value in game.adaptive_augment.state_dict().items()}
    game.discriminator_loss(batch, Noise(torch.Generator().manual_seed(0)))
    after = game.adaptive_augment.state_dict()
    assert any(not torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.interpreter
@pytest.mark.parametrize("conditioning", MODES)
def test_backends_agree_on_a_step(conditioning):
    game = create("cgan", conditioning=conditioning, **{**TINY, "width": 1, "resolution": 4})
    batch = Batch(torch.rand(2, 1, 4, 4) * 2 - 1, torch.tensor([0, 2]))
    assert_backends_agree(game, batch)


@pytest.mark.parametrize("config", [
    {**TINY, "conditioning": "concat", "replay": 5},
    {**TINY, "conditioning": "projection", "minibatch_kernels": 2},
    {**TINY, "conditioning": "acgan", "replay": 5, "minibatch_kernels": 2},
    {**TINY, "conditioning": "projection", "loss": "wasserstein", "wgan_gp": 10.0},
])  # fmt: skip
def test_trains_resumes_and_is_sampled(tmp_path, config):
    game = assert_trains_and_resumes(lambda: create("cgan", **config), ToyImages(1, 8), tmp_path)
    assert game.sample(3, labels=[0, 1, 2]).shape == (3, 1, 8, 8)


def test_refuses_what_it_is_not_made_for():
    for config, message in (
        ({"conditioning": "sum"}, "conditioning: expected one of 'concat', 'projection', 'acgan', got 'sum'"),
        ({"architecture": "resnet"}, "architecture: expected one of 'mlp', 'convolutional', got 'resnet'"),
        ({"num_classes": 1}, "num_classes: a conditional GAN needs data of at least 2 classes, got 1"),
        ({"num_classes": None}, "num_classes: a conditional GAN needs data of at least 2 classes, got None"),
        ({"wgan_gp": -1}, "wgan_gp: expected a weight of at least 0, got -1"),
        ({"architecture": "convolutional", "resolution": 30}, "resolution: DCGAN is made for"),
        ({"replay": 1.5}, "replay: expected a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            create("cgan", **config)
    game = create("cgan", **TINY)
    with pytest.raises(ValueError, match="conditioning: only 'acgan' has a classifier"):
        game.discriminator.judge(torch.zeros(2, 1, 8, 8))
    with pytest.raises(ValueError, match=r"labels: expected shape \(2,\), got \(3,\)"):
        game.generator(torch.zeros(2, 5), torch.zeros(3, dtype=torch.int64))
