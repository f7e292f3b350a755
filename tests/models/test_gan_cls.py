import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.engine.augment import random_crop
from ganfuse.engine.data.embedded import choose_captions, mismatching
from ganfuse.engine.game import Batch
from ganfuse.engine.inversion import invert
from ganfuse.engine.latent_space import latent_space
from ganfuse.engine.noise import Noise, Shard
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.schedules import Progress
from ganfuse.models import create, model_info
from tests.models import step_checks
from tests.models.plain_layers import count
from tests.models.step_checks import ToyImages, assert_backends_agree, assert_trains_and_resumes

F64 = torch.float64
TINY = {
    "resolution": 32, "channels": 1, "embedding_dim": 6, "text_features": 2, "width": 2, "discriminator_width": 2,
    "latent_dim": 3, "load_size": 32,
}  # fmt: skip


class ToyTexts(ToyImages):
    """Each image has two captions of six numbers: its class and its own number among them."""

    captions, features = 2, 6

    def __getitem__(self, index: int):
        image, label = super().__getitem__(index)
        embedding = torch.zeros(2, 6)
        embedding[:, label], embedding[:, 4] = 1.0, float(index)
        embedding[1, 5] = 1.0
        return {"image": image, "label": label, "embedding": embedding}


def toy_batch(dtype=torch.float32, n: int = 4) -> Batch:
    images = torch.rand(n, 1, 32, 32, dtype=dtype) * 2 - 1
    return Batch(images, torch.tensor([0, 1, 0, 2, 1, 0])[:n], embeddings=torch.randn(n, 3, 6, dtype=dtype))


def noise(seed: int = 0, shard: Shard | None = None) -> Noise:
    return Noise(torch.Generator().manual_seed(seed), shard)


def test_parameter_counts_and_shapes():
    def bottleneck(channels):
        inner = channels // 4
        return channels * inner + 9 * inner * inner + 9 * inner * channels + 2 * (2 * inner + channels)

    generator = 1024 * 128 + 128 + 16 * 228 * 1024 + bottleneck(1024) + bottleneck(512)
    generator += 16 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3) + 2 * (1024 + 512 + 256 + 128)
    discriminator = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 2 * (128 + 256 + 512) + bottleneck(512)
    discriminator += 1024 * 128 + 128 + (512 + 128) * 512 + 2 * 512 + 16 * 512
    with torch.device("meta"):
        game = create("gan-cls")
        images = game.generator(torch.empty(2, 100), torch.empty(2, 1024))
        logits = game.discriminator(images, torch.empty(2, 1024))
        assert create("gan-cls", resolution=128).generator(torch.empty(2, 100), torch.empty(2, 1024)).shape[2] == 128
    assert (count(game.generator), count(game.discriminator)) == (generator, discriminator)
    assert (images.shape, logits.shape) == ((2, 3, 64, 64), (2,))
    assert (game.data_kind, model_info("gan-cls").data_kind) == ("embedded", "embedded")


def normalised(layer, x, slope=1.0):
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), correction=0, keepdim=True)
    x = (x - mean) / (var + 1e-5).sqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]
    return torch.where(x > 0, x, slope * x)


def with_bottleneck(block, x, slope):
    h = normalised(block.norm1, F.conv2d(x, block.conv1.weight), slope)
    h = normalised(block.norm2, F.conv2d(h, block.conv2.weight, padding=1), slope)
    h = x + normalised(block.norm3, F.conv2d(h, block.conv3.weight, padding=1))
    return torch.where(h > 0, h, slope * h)


def test_networks_are_those_of_the_paper():
    game = create("gan-cls", **TINY).double().train()
    step_checks.unsettle(game)
    g, d = game.generator, game.discriminator
    z, text = torch.randn(3, 3, dtype=F64), torch.randn(3, 6, dtype=F64)
    h = torch.cat([z, F.leaky_relu(text @ g.text.weight.t() + g.text.bias, 0.2)], 1)
    h = with_bottleneck(g.bottlenecks[0], normalised(g.norms[0], g.project(h[:, :, None, None])), 0.0)
    assert h.shape == (3, 8, 4, 4)
    h = with_bottleneck(g.bottlenecks[1], normalised(g.norms[1], g.convs[0](h)), 0.0)
    h = normalised(g.norms[2], g.convs[1](h), 0.0)
    images = g(z, text)
    torch.testing.assert_close(images, torch.tanh(g.convs[2](h)))
    h = F.leaky_relu(d.convs[0](images), 0.2)
    h = normalised(d.norms[0], d.convs[1](h), 0.2)
    h = with_bottleneck(d.bottleneck, normalised(d.norms[1], d.convs[2](h)), 0.2)
    places = F.leaky_relu(text @ d.text.weight.t() + d.text.bias, 0.2)[:, :, None, None].repeat(1, 1, 4, 4)
    h = normalised(d.join_norm, F.conv2d(torch.cat([h, places], 1), d.join.weight), 0.2)
    torch.testing.assert_close(d(images, text), (h * d.output.weight).sum((1, 2, 3)))


@pytest.mark.parametrize("mismatch", ["image", "text"])
def test_matching_aware_loss_is_algorithm_1(mismatch):
    game = create("gan-cls", mismatch=mismatch, mismatch_weight=0.3, **TINY).double().train()
    step_checks.unsettle(game)
    batch = toy_batch(F64)
    draws = noise()
    text = choose_captions(batch.embeddings, count=3, generator=draws)
    torch.testing.assert_close(text, batch.embeddings.mean(1))
    fakes = game.generator(draws.normal(4, 3, dtype=F64), text)
    other = mismatching(batch.labels, generator=draws)
    assert (batch.labels[other] != batch.labels).all()
    # What the paper calls s_r, s_w and s_f.
    real = torch.sigmoid(game.discriminator(batch.images, text))
    if mismatch == "image":
        wrong = torch.sigmoid(game.discriminator(batch.images[other], text))
    else:
        wrong = torch.sigmoid(game.discriminator(batch.images, text[other]))
    fake = torch.sigmoid(game.discriminator(fakes, text))
    value = real.log().mean() + 0.3 * (1 - wrong).log().mean() + 0.7 * (1 - fake).log().mean()
    found = game.discriminator_loss(batch, noise())
    torch.testing.assert_close(found["loss"], -value)
    found["loss"].backward()
    assert all(p.grad is None for p in game.generator.parameters())
    assert all(p.grad is not None for p in game.discriminator.parameters())


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_interpolated_texts_enter_the_generators_loss(weight):
    game = create("gan-cls", interpolation_weight=weight, captions=1, **TINY).double().train()
    batch = toy_batch(F64, n=5)
    draws = noise()
    text = choose_captions(batch.embeddings, count=1, generator=draws)
    z = draws.normal(5, 3, dtype=F64)
    if weight:
        text = torch.cat([text, (text[0] + text[1])[None] / 2, (text[2] + text[3])[None] / 2])
        z = torch.cat([z, draws.normal(2, 3, dtype=F64)])
    terms = -torch.sigmoid(game.discriminator(game.generator(z, text), text)).log()
    expected = (terms[:5].sum() + weight * terms[5:].sum()) / len(terms)
    torch.testing.assert_close(game.generator_loss(batch, noise())["loss"], expected)


def test_shares_of_a_batch_interpolate_what_the_whole_does():
    """Every text that the generator is shown for the whole batch, it is shown for one of the shares."""
    game = create("gan-cls", interpolation_weight=1.0, **TINY)
    shown: list[Tensor] = []
    game.generator.register_forward_pre_hook(lambda module, args: shown.append(torch.cat(args, 1)))
    batch = toy_batch()
    game.generator_loss(batch, noise())
    for index, part in enumerate(batch.split(2)):
        game.generator_loss(part, noise(shard=Shard(index, 2)))
    whole, first, second = shown
    rows = torch.cat([first[:2], second[:2], first[2:], second[2:]])
    torch.testing.assert_close(rows, whole)


def test_random_crops_are_of_the_enlarged_images():
    game = create("gan-cls", **{**TINY, "load_size": None})
    assert game.load_size == 38
    images = torch.rand(3, 1, 32, 32)
    large = F.interpolate(images, size=(38, 38), mode="bilinear", align_corners=False)
    torch.testing.assert_close(game.cropped(images, noise()), random_crop(large, 32, generator=noise()))
    torch.testing.assert_close(game.cropped(large, noise()), random_crop(large, 32, generator=noise()))
    with pytest.raises(ValueError, match="images: expected 32 px, or load_size=38 px, got 36"):
        game.cropped(torch.rand(3, 1, 36, 36), noise())


def test_recipe_of_the_paper():
    with torch.device("meta"):
        game = create("gan-cls")
    for player in game.players():
        assert player.optimizer == Adam(2e-4, (0.5, 0.999))
        rates = [player.schedule(Progress(images=images, dataset_size=10)) for images in (0, 999, 1000, 2000)]
        assert rates == [1.0, 1.0, 0.5, 0.25]
    assert (game.mismatch_weight, game.captions, game.load_size) == (0.5, 4, 76)


def test_a_text_is_projected_to_an_eighth_of_its_length():
    with torch.device("meta"):
        for length, features in ((1024, 128), (64, 8), (5, 1)):
            game = create("gan-cls", embedding_dim=length)
            assert game.generator.text.weight.shape == game.discriminator.text.weight.shape == (features, length)
        assert create("gan-cls", embedding_dim=64, text_features=128).generator.text.out_features == 128
    with pytest.raises(ValueError, match="text_features: expected a positive whole number, got 0"):
        create("gan-cls", text_features=0)


def test_samples_of_texts_and_of_those_of_the_data():
    game = create("gan-cls", **TINY).eval()
    assert game.sample(2).shape == (2, 1, 32, 32)
    data = ToyTexts(1, 32)
    game.check_data(data)
    # Classes in turn: 0, 1, 2, 0, 1, 2, 0, 1 is the order of the data itself here.
    assert int(game.num_known) == 8
    assert game.known_texts[:8, 4].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert game.known_texts[0].tolist() == [1, 0, 0, 0, 0, 0.5]
    rng = torch.Generator().manual_seed(0)
    text = torch.randn(6)
    images = game.sample(3, embeddings=text, rng=rng)
    again = game.sample(3, embeddings=text.expand(3, 6), rng=rng.manual_seed(0), batch_size=2)
    torch.testing.assert_close(images, again)
    assert not torch.allclose(images, game.sample(3, rng=rng.manual_seed(0)))
    # A column for each class, though the data have fewer texts than the grid has places, and not as many of each class.
    data.labels = torch.tensor([0, 0, 0, 0, 0, 1, 2, 2])
    game.check_data(data)
    grid, columns = game.preview(20, rng=rng.manual_seed(1))
    assert (len(grid), columns) == (18, 3)
    assert game.known_texts[:3, 4].tolist() == [0, 5, 6]
    shown = game.sample(18, embeddings=game.known_texts[:3].repeat(6, 1), rng=rng.manual_seed(1))
    torch.testing.assert_close(grid, shown)
    for arguments, message in (
        ({"labels": 1}, "labels: this game draws images of texts"),
        ({"embeddings": torch.zeros(2, 6)}, r"embeddings: expected \(3, 6\) or \(6,\), got \(2, 6\)"),
        ({"batch_size": 0}, "batch_size: expected a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            game.sample(3, **arguments)


@pytest.mark.slow
@pytest.mark.interpreter
def test_backends_agree_on_a_step():
    game = create("gan-cls", **{**TINY, "width": 1, "discriminator_width": 1})
    assert_backends_agree(game, toy_batch(n=2), penalty=False)


@pytest.mark.parametrize("config", [{}, {"mismatch": "text", "interpolation_weight": 1.0, "load_size": 38}])
def test_trains_resumes_and_is_sampled(tmp_path, config):
    game = assert_trains_and_resumes(lambda: create("gan-cls", **{**TINY, **config}), ToyTexts(1, 32), tmp_path)
    assert int(game.num_known) == 8


def test_refuses_what_it_is_not_made_for():
    for key, value, message in (
        ("resolution", 48, "resolution: GAN-CLS is made for 32, 64, 128 px, got 48"),
        ("mismatch", "word", "mismatch: expected one of 'image', 'text', got 'word'"),
        ("mismatch_weight", 1.5, r"mismatch_weight: expected a number in \[0, 1\], got 1.5"),
        ("interpolation_weight", -1, "interpolation_weight: expected a number of at least 0"),
        ("load_size", 31, "load_size: expected at least the resolution, 32, got 31"),
        ("captions", 0, "captions: expected a positive whole number, got 0"),
        ("lr_halving_epochs", 0, "lr_halving_epochs: expected a number above 0, got 0"),
        ("lr_halving_epochs", "never", "lr_halving_epochs: expected a number above 0, got 'never'"),
    ):
        with pytest.raises(ValueError, match=message):
            create("gan-cls", **{**TINY, key: value})
    game = create("gan-cls", **TINY)
    with pytest.raises(ValueError, match="data: images with embeddings"):
        game.check_data(ToyImages(1, 32))
    data = ToyTexts(1, 32)
    data.features = 7
    with pytest.raises(ValueError, match="embedding_dim: the data's embeddings have 7 numbers, the game was"):
        game.check_data(data)
    with pytest.raises(ValueError, match=r"embeddings: expected shape \(2, 6\), got None"):
        game.generator(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"batch_size: a text is also shown with the image of another, .* got 1"):
        game.discriminator_loss(toy_batch(n=1), noise())
    with pytest.raises(ValueError, match="embeddings: the batch has none"):
        game.generator_loss(Batch(torch.zeros(2, 1, 32, 32)), noise())


def test_inversion_finds_the_text_of_an_image():
    torch.manual_seed(0)
    game = create("gan-cls", **TINY)
    with pytest.raises(ValueError, match="game: gan-cls has met no data yet"):
        latent_space(game)
    with torch.no_grad():
        for parameter in game.generator.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, (parameter[0].numel()) ** -0.5)
        game.known_texts[:3] = torch.randn(3, game.generator.embedding_dim)
        game.num_known.fill_(3)
        game.eval()
        image = game.generator(game.draw_latents(1, noise()), game.texts[1:2])
    space = latent_space(game)
    assert space.num_classes == 3
    rng = torch.Generator().manual_seed(1)
    found = invert(image, space, steps=40, restarts=6, rng=rng)
    assert found.labels.tolist() == [1]
    assert found.errors < 0.5 * found.initial_errors
    with pytest.raises(ValueError, match="so no space 'w'; its space is 'z'"):
        latent_space(game, "w")
