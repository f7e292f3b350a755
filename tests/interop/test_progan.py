"""pytorch_GAN_zoo's ProGAN: the published layout of small networks, and what they compute."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from ganfuse.interop import load, load_game
from ganfuse.interop.importing import read_network
from tests.interop.plain_networks import assert_same, doubled, drawn

SOURCE = "progan"
REGULAR, IRREGULAR = (8, 8, 4), (8, 4, 6)


def layer(name, *shape):
    return {f"{name}.module.weight": shape, f"{name}.module.bias": shape[:1]}


def generator_layout(widths, latents):
    shapes = layer("formatLayer", 16 * widths[0], latents) | layer("groupScale0.0", widths[0], widths[0], 3, 3)
    for scale, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shapes |= layer(f"scaleLayers.{scale}.0", outputs, inputs, 3, 3)
        shapes |= layer(f"scaleLayers.{scale}.1", outputs, outputs, 3, 3)
    for level, width in enumerate(widths):
        shapes |= layer(f"toRGBLayers.{level}", 3, width, 1, 1)
    return shapes


def discriminator_layout(widths, deviation=True, logits=1):
    first = widths[0]
    shapes = layer("decisionLayer", logits, first)
    for scale, (outputs, inputs) in enumerate(itertools.pairwise(widths)):
        shapes |= layer(f"scaleLayers.{scale}.0", inputs, inputs, 3, 3)
        shapes |= layer(f"scaleLayers.{scale}.1", outputs, inputs, 3, 3)
    for level, width in enumerate(widths):
        shapes |= layer(f"fromRGBLayers.{level}", width, 3, 1, 1)
    shapes |= layer("groupScaleZero.0", first, first + deviation, 3, 3)
    return shapes | layer("groupScaleZero.1", first, 16 * first)


def state_of(layout, seed=0):
    """Weights of variance 1, as the layers scale them."""
    state = drawn(layout, seed)
    return {key: value * math.sqrt(value[0].numel()) if value.dim() > 1 else value for key, value in state.items()}


class Plain:
    def __init__(self, state, equalized=True):
        self.state, self.equalized = state, equalized

    def layer(self, x, name):
        weight, bias = (self.state[f"{name}.module.{part}"] for part in ("weight", "bias"))
        y = x @ weight.T + bias if weight.dim() == 2 else F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
        return y * math.sqrt(2 / weight[0].numel()) if self.equalized else y

    def act(self, x, name):
        return F.leaky_relu(self.layer(x, name), 0.2)

    def draw(self, z, alpha=0.0):
        def norm(x):
            return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()

        levels = sum(key.startswith("toRGB") for key in self.state) // 2
        x = norm(self.act(norm(z), "formatLayer").view(len(z), -1, 4, 4))
        x = norm(self.act(x, "groupScale0.0"))
        for scale in range(levels - 1):
            old, x = x, doubled(x)
            for place in (0, 1):
                x = norm(self.act(x, f"scaleLayers.{scale}.{place}"))
        image = self.layer(x, f"toRGBLayers.{levels - 1}")
        if alpha:
            image = (1 - alpha) * image + alpha * doubled(self.layer(old, f"toRGBLayers.{levels - 2}"))
        return image

    def judge(self, x):
        levels = sum(key.startswith("fromRGB") for key in self.state) // 2
        x = self.act(x, f"fromRGBLayers.{levels - 1}")
        for scale in reversed(range(levels - 1)):
            for place in (0, 1):
                x = self.act(x, f"scaleLayers.{scale}.{place}")
            x = F.avg_pool2d(x, 2)
        if self.state["groupScaleZero.0.module.weight"].shape[1] > x.shape[1]:
            spread = []
            n = len(x)
            for group in x.split(4 if n % 4 == 0 else n):
                mean = group.mean(0)
                variance = (group - mean).square().sum(0) / (len(group) - 1)
                spread += [(variance + 1e-8).sqrt().mean()] * len(group)
            x = torch.cat([x, torch.stack(spread).view(n, 1, 1, 1).expand(-1, 1, 4, 4)], 1)
        x = self.act(x, "groupScaleZero.0")
        return self.layer(self.act(x.flatten(1), "groupScaleZero.1"), "decisionLayer")[:, 0]


def latents(n=2):
    return torch.randn(n, 6, generator=torch.Generator().manual_seed(1))


def images(n, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("widths", "equalized"), [(REGULAR, True), (IRREGULAR, True), (REGULAR, False)])
def test_generator(widths, equalized):
    state = state_of(generator_layout(widths, 6))
    if not equalized:
        state = drawn(generator_layout(widths, 6))
    ours = load(SOURCE, state, equalized=equalized)
    assert_same(ours, Plain(state, equalized).draw, latents())
    config = read_network(SOURCE, state).config
    assert config["width"] == (4 if widths is REGULAR else list(widths))


def test_fading_in():
    # The share there is of the images that were, here of those that are new.
    state = state_of(generator_layout(REGULAR, 6))
    ours = load(SOURCE, state)
    alpha = torch.tensor(0.7)
    assert_same(lambda z: ours(z, alpha=alpha), lambda z: Plain(state).draw(z, 0.3), latents())


@pytest.mark.parametrize("n", [8, 6])
@pytest.mark.parametrize("deviation", [True, False])
def test_discriminator(n, deviation):
    state = state_of(discriminator_layout(REGULAR, deviation))
    assert_same(load(SOURCE, state, "discriminator"), Plain(state).judge, images(n))


def test_a_single_image_has_no_deviation():
    state = state_of(discriminator_layout(REGULAR))
    one = load(SOURCE, state)(images(1))
    padded = {**state, "groupScaleZero.0.module.weight": state["groupScaleZero.0.module.weight"].clone()}
    padded["groupScaleZero.0.module.weight"][:, -1] = 0
    torch.testing.assert_close(one, load(SOURCE, padded)(images(1)))


def test_files():
    raw, average = (state_of(generator_layout(REGULAR, 6), seed) for seed in (0, 1))
    file = {"config": {"alpha": 0}, "netG": raw, "avgG": average, "netD": state_of(discriminator_layout(REGULAR))}
    z = latents()
    torch.testing.assert_close(load(SOURCE, file, "generator")(z), load(SOURCE, average)(z))
    torch.testing.assert_close(load(SOURCE, file, "netG")(z), load(SOURCE, raw)(z))
    game = load_game(SOURCE, file)
    assert game.sample(2).shape == (2, 3, 16, 16)
    torch.testing.assert_close(game.generator(z), load(SOURCE, average)(z))
    x = images(8)
    torch.testing.assert_close(game.discriminator(x), load(SOURCE, file, "netD")(x))


def test_what_has_no_counterpart():
    with pytest.raises(ValueError, match="decisionLayer gives 5 numbers, those of an auxiliary classifier"):
        load(SOURCE, drawn(discriminator_layout(REGULAR, logits=5)))
    with pytest.raises(ValueError, match="equalized: expected True or False, got 'no'"):
        load(SOURCE, drawn(generator_layout(REGULAR, 6)), equalized="no")
