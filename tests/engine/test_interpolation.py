"""Walks between samples, and their animations."""

import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from ganfuse import standing_statistics
from ganfuse.engine.animation import save_animation
from ganfuse.engine.interpolation import interpolate, lerp, slerp
from ganfuse.engine.noise import Noise
from ganfuse.models import create
from tests.engine.toys import SIZE, plain_game, toy_game


def rng():
    return torch.Generator().manual_seed(0)


def test_arcs_keep_the_norm_and_the_angle_grows_evenly():
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 3.0])
    arc = slerp(a, b, torch.tensor([0.0, 1 / 3, 0.5, 1.0]))
    torch.testing.assert_close(arc.norm(dim=1), torch.full((4,), 3.0))
    torch.testing.assert_close(arc[1], torch.tensor([3 * 3**0.5 / 2, 0.0, 1.5]))
    torch.testing.assert_close(arc[[0, -1]], torch.stack([a, b]))


def test_arc_between_parallel_vectors_is_the_line():
    a = torch.tensor([1.0, 2.0])
    share = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(slerp(a, 3 * a, share), lerp(a, 3 * a, share))


def test_latents():
    game = plain_game()
    images = interpolate(game, walks=3, steps=5, rng=rng())
    assert images.shape == (3, 5, 1, SIZE, SIZE)
    z = torch.randn(6, 4, generator=rng())
    with torch.no_grad():
        torch.testing.assert_close(images[1, 0], game.generator(z[1:2])[0])
        torch.testing.assert_close(images[1, -1], game.generator(z[4:5])[0])


def test_loops_come_back():
    images = interpolate(plain_game(), walks=1, steps=4, rng=rng(), loop=True)[0]
    assert len(images) == 6
    assert torch.equal(images[1], images[5])
    assert torch.equal(images[2], images[4])


def sagan_game():
    """With classes that differ, and statistics that fit."""
    torch.manual_seed(0)
    game = create("sagan", resolution=32, width=4, channels=1, num_classes=3)
    for module in game.generator.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, 0.0, 0.3)
    with standing_statistics(game.generator):
        game.generator(torch.randn(16, 128), torch.randint(3, (16,)))
    return game


@pytest.mark.parametrize("make", [toy_game, sagan_game])
def test_classes(make):
    game = make()
    labels = torch.tensor([[0, 2], [1, 0]])
    hooks = [dict(module._forward_hooks) for module in game.generator.modules()]
    images = interpolate(game, walks=2, steps=3, space="class", labels=labels, rng=rng())
    game.eval()
    z = _latents(game, 2)
    with torch.no_grad():
        for walk in range(2):
            for step, label in ((0, labels[walk, 0]), (-1, labels[walk, 1])):
                expected = game.generator(z[walk : walk + 1], label.view(1))[0]
                torch.testing.assert_close(images[walk, step], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(images[0, 1], images[0, 0])
    assert [dict(module._forward_hooks) for module in game.generator.modules()] == hooks


def _latents(game, walks):
    generator = rng()
    torch.randint(3, (walks,), generator=generator)
    torch.randint(2, (walks,), generator=generator)
    return torch.randn(walks, *game.latent_shape, generator=generator)


def test_pairs_of_domains_walk_together():
    torch.manual_seed(0)
    game = create("cogan", width=2, discriminator_width=1, latent_dim=3)
    walks = {domain: interpolate(game, walks=2, steps=3, rng=rng(), domain=domain) for domain in "ab"}
    assert walks["a"].shape == walks["b"].shape == (2, 3, 1, 28, 28)
    z = game.draw_latents(4, Noise(rng()))
    with torch.no_grad():
        expected = game.eval().generator((z[1:2] + z[3:]) / 2)
    for domain, image in zip("ab", expected):
        torch.testing.assert_close(walks[domain][1, 1], image[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="domain: expected one of 'a', 'b', got 'c'"):
        interpolate(game, domain="c")


def text_game(texts):
    torch.manual_seed(0)
    game = create(
        "gan-cls", resolution=32, channels=1, embedding_dim=4, text_features=3, width=2, discriminator_width=2,
        latent_dim=3,
    )  # fmt: skip
    nn.init.normal_(game.generator.text.weight)
    game.known_texts[: len(texts)] = texts
    game.num_known.fill_(len(texts))
    return game


def test_latents_walk_with_one_text():
    texts = torch.eye(4)[:2]
    game = text_game(texts)
    images = interpolate(game, walks=2, steps=3, rng=rng()).flatten(0, 1)
    # The texts are drawn first, of the two that there are.
    generator = rng()
    chosen = torch.randint(2, (2,), generator=generator)
    z = torch.randn(4, 3, generator=generator)
    game.eval()
    with torch.no_grad():
        for walk in range(2):
            expected = game.generator(z[[walk, walk + 2]], texts[chosen[walk]].expand(2, 4))
            torch.testing.assert_close(images[[3 * walk, 3 * walk + 2]], expected, rtol=1e-4, atol=1e-5)


def test_walks_between_texts():
    texts = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [1.0, 0, 0, 0]])
    game = text_game(texts)
    images = interpolate(game, walks=1, steps=3, space="class", rng=rng())[0]
    generator = rng()
    first = int(torch.randint(2, (1,), generator=generator))
    torch.randint(1, (1,), generator=generator)
    z = torch.randn(1, 3, generator=generator)
    game.eval()
    with torch.no_grad():
        # In the order of their numbers; the third is the first once more.
        a, b = (texts[1], texts[0])[:: 1 if first == 0 else -1]
        expected = game.generator(z.expand(3, 3), torch.stack([a, (a + b) / 2, b]))
    torch.testing.assert_close(images, expected)
    with pytest.raises(ValueError, match="'gan-cls' knows 1 texts of its data"):
        interpolate(text_game(texts[:1]), space="class")
    with pytest.raises(ValueError, match="gan-cls has met no data yet"):
        interpolate(text_game(texts[:0]))
    with pytest.raises(ValueError, match="this game has no classes"):
        interpolate(game, space="class", labels=torch.zeros(8, 2, dtype=torch.int64))


def test_walks_lead_to_classes_that_the_data_had():
    game = toy_game()
    game.check_data(SimpleNamespace(labels=[0, 2]))
    drawn = interpolate(game, walks=6, steps=2, space="class", rng=rng())
    game.eval()
    generator = rng()
    first = torch.tensor([0, 2])[torch.randint(2, (6,), generator=generator)]
    torch.randint(1, (6,), generator=generator)
    z = torch.randn(6, 4, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(drawn[:, 0], game.generator(z, first), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(drawn[:, 1], game.generator(z, 2 - first), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["stylegan", "stylegan2"])
def test_styles_move_along_lines(name):
    torch.manual_seed(0)
    game = create(
        name, resolution=16, channels=1, num_classes=3, width=4, channel_max=8, latent_dim=4, style_features=6
    )
    images = interpolate(game, walks=2, steps=3, space="w", labels=torch.tensor([2, 0]), rng=rng())
    generator = rng()
    torch.randint(3, (2,), generator=generator)
    z = torch.randn(4, 4, generator=generator)
    game.eval()
    with torch.no_grad():
        w = game.generator.mapping(z, torch.tensor([2, 0, 2, 0]))
        middle = (w[:1] + w[2:3]) / 2
        expected = game.synthesize(middle.unsqueeze(1).expand(-1, game.layers, -1))
    # StyleGAN begins at 8 px; its images are enlarged, as samples are.
    assert images.shape == (2, 3, 1, 16, 16)
    expected = game.finished(expected) if name == "stylegan" else expected
    torch.testing.assert_close(images[0, 1], expected[0])


@pytest.mark.parametrize("name", ["stylegan", "stylegan2"])
def test_of_style_models_classes_are_walked_between_by_their_styles(name):
    torch.manual_seed(0)
    game = create(name, resolution=8, channels=1, num_classes=3, width=4, channel_max=8, latent_dim=4, style_features=6)
    labels = torch.tensor([[0, 2], [1, 0]])
    images = interpolate(game, walks=2, steps=3, space="class", labels=labels, rng=rng())
    z = _latents(game, 2)
    game.eval()
    with torch.no_grad():
        ends = [game.generator.mapping(z, labels[:, side]) for side in range(2)]
        for step, w in enumerate((ends[0], (ends[0] + ends[1]) / 2, ends[1])):
            expected = game.synthesize(w.unsqueeze(1).expand(-1, game.layers, -1))
            torch.testing.assert_close(images[:, step].clamp(-1, 1), expected.clamp(-1, 1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(images[:, 0], images[:, -1])


@pytest.mark.parametrize("space", ["z", "w", "class"])
def test_walks_of_style_models_are_truncated_inside_truncated(space):
    torch.manual_seed(0)
    config = {"resolution": 16, "channels": 1, "width": 4, "channel_max": 8, "latent_dim": 4, "style_features": 6}
    game = create("stylegan2", num_classes=3, **config)
    game.generator.mapping.w_avg.value.normal_()

    def walk(*truncation):
        with game.truncated(*truncation):
            return interpolate(game, walks=2, steps=3, space=space, rng=rng())

    plain = interpolate(game, walks=2, steps=3, space=space, rng=rng())
    torch.testing.assert_close(walk(1.0), plain)
    torch.testing.assert_close(walk(0.5, 0), plain)
    # At 0 all styles are their mean, wherever the walk is.
    still = walk(0.0)
    torch.testing.assert_close(still, still[:1, :1].expand_as(still))
    half, coarse = walk(0.5), walk(0.5, 2)
    assert not torch.allclose(half, plain)
    assert not torch.allclose(half, coarse)
    torch.testing.assert_close(interpolate(game, walks=2, steps=3, space=space, rng=rng()), plain)
    for wrong in ((float("nan"),), ("strong",), (0.5, -1), (0.5, 1.5)):
        with pytest.raises(ValueError, match="truncation"):
            walk(*wrong)


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (plain_game, {"space": "v"}, "space: expected one of 'z', 'w', 'class', got 'v'"),
        (plain_game, {"steps": 1}, "at least 1 walk of at least 2 images"),
        (plain_game, {"space": "w"}, "has no styles w"),
        (plain_game, {"space": "class"}, "was trained without classes"),
        (plain_game, {"labels": torch.tensor([1])}, "has no classes"),
        (toy_game, {"labels": torch.tensor([1])}, r"labels: expected \(8,\), got \(1,\)"),
        (toy_game, {"space": "class", "labels": torch.tensor([1])}, r"labels: expected \(8, 2\)"),
    ],
)
def test_bad_arguments(make, options, message):
    with pytest.raises(ValueError, match=message):
        interpolate(make(), **options)


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_animations_have_all_frames(tmp_path, ending):
    images = torch.linspace(-1, 1, 6).view(1, 6, 1, 1, 1).expand(2, 6, 3, 8, 8)
    path = save_animation(images, tmp_path / "deep" / f"walk.{ending}", columns=2, scale=2)
    with Image.open(path) as picture:
        assert picture.n_frames == 6
        assert picture.size == (2 * 18 + 2, 20)


def test_mp4(tmp_path, monkeypatch):
    images = torch.zeros(1, 4, 1, 9, 9)
    if shutil.which("ffmpeg"):
        assert save_animation(images, tmp_path / "walk.mp4").stat().st_size > 500
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"ffmpeg: the program that writes \.mp4 is not installed"):
        save_animation(images, tmp_path / "other.mp4")


def test_bad_animations(tmp_path):
    with pytest.raises(ValueError, match=r"expected an ending of .gif, .webp, .mp4, got walk.png"):
        save_animation(torch.zeros(1, 2, 1, 4, 4), "walk.png")
    with pytest.raises(ValueError, match=r"expected \(N, T, C, H, W\)"):
        save_animation(torch.zeros(1, 2, 4, 4), tmp_path / "a.gif")
    with pytest.raises(ValueError, match="frames_per_second: expected a number above 0"):
        save_animation(torch.zeros(1, 2, 1, 4, 4), tmp_path / "a.gif", frames_per_second=0)
