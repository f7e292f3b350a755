"""rosinality's StyleGAN: the published layout of small networks, and what they compute."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from ganfuse.interop import load, load_game
from tests.interop.plain_networks import assert_same, doubled, drawn

SOURCE = "stylegan1-rosinality"
FEATURES = 7
# Of 4×4 to 32×32; from 16×16 on, layers that resample are fused with that, as there from 128×128.
WIDTHS = (8, 8, 6, 4)
FUSED = 2
BLUR = torch.tensor([1.0, 2.0, 1.0])[:, None] * torch.tensor([1.0, 2.0, 1.0]) / 16


def layer(name, *shape):
    return {f"{name}.weight_orig": shape, f"{name}.bias": shape[:1]}


def blur(name, channels):
    return {f"{name}.{kind}": (channels, 1, 3, 3) for kind in ("weight", "weight_flip")}


def generator_layout():
    shapes = {}
    for n in (1, 3):
        shapes |= layer(f"style.{n}.linear", FEATURES, FEATURES)
    for level, (inputs, outputs) in enumerate(itertools.pairwise((WIDTHS[0], *WIDTHS))):
        block = f"generator.progression.{level}"
        if level == 0:
            shapes |= {f"{block}.conv1.input": (1, outputs, 4, 4)}
        elif level < FUSED:
            shapes |= layer(f"{block}.conv1.1.conv", outputs, inputs, 3, 3) | blur(f"{block}.conv1.2", outputs)
        else:
            shapes |= {f"{block}.conv1.0.weight": (inputs, outputs, 3, 3), f"{block}.conv1.0.bias": (outputs,)}
            shapes |= blur(f"{block}.conv1.1", outputs)
        shapes |= layer(f"{block}.conv2.conv", outputs, outputs, 3, 3)
        for n in (1, 2):
            shapes |= {f"{block}.noise{n}.weight_orig": (1, outputs, 1, 1)}
            shapes |= layer(f"{block}.adain{n}.style.linear", 2 * outputs, FEATURES)
        shapes |= layer(f"generator.to_rgb.{level}.conv", 3, outputs, 1, 1)
    return shapes


def discriminator_layout(activated):
    """Levels are counted from the largest map on."""
    shapes = layer("linear.linear", 1, WIDTHS[0])
    last = len(WIDTHS) - 1
    for level, width in enumerate(WIDTHS):
        block = f"progression.{last - level}"
        shapes |= layer(f"from_rgb.{last - level}.{'0.' if activated else ''}conv", width, 3, 1, 1)
        outputs = WIDTHS[max(level - 1, 0)]
        shapes |= layer(f"{block}.conv1.0.conv", outputs, width + (level == 0), 3, 3)
        if level == 0:
            shapes |= layer(f"{block}.conv2.0.conv", outputs, outputs, 4, 4)
            continue
        shapes |= blur(f"{block}.conv2.0", outputs)
        if level < FUSED:
            shapes |= layer(f"{block}.conv2.1.conv", outputs, outputs, 3, 3)
        else:
            shapes |= {f"{block}.conv2.1.weight": (outputs, outputs, 3, 3), f"{block}.conv2.1.bias": (outputs,)}
    return shapes


def state_of(layout, seed=0):
    state = drawn(layout, seed)
    for key, value in state.items():
        if value.shape[1:] == (1, 3, 3):
            state[key] = BLUR.expand_as(value).clone()
        elif value.dim() > 1 and "noise" not in key:
            state[key] = value * math.sqrt(value[0].numel())
    return state


def lrelu(x):
    return F.leaky_relu(x, 0.2)


def shifted_sum(weight):
    """A kernel 4×4 that is the mean of the kernel 3×3 at its four places."""
    w = F.pad(weight, (1, 1, 1, 1))
    return (w[..., 1:, 1:] + w[..., :-1, 1:] + w[..., 1:, :-1] + w[..., :-1, :-1]) / 4


class Plain:
    def __init__(self, state, level):
        self.state, self.level = state, level

    def scaled(self, key):
        weight = self.state[key]
        return weight * math.sqrt(2 / weight[0].numel())

    def conv(self, x, name, padding=1):
        return F.conv2d(x, self.scaled(f"{name}.weight_orig"), self.state[f"{name}.bias"], padding=padding)

    def linear(self, x, name):
        return x @ self.scaled(f"{name}.weight_orig").T + self.state[f"{name}.bias"]

    def blur(self, x):
        return F.conv2d(x, BLUR.expand(x.shape[1], 1, 3, 3), padding=1, groups=x.shape[1])

    def enlarged(self, x, name):
        if f"{name}.1.conv.bias" in self.state:
            return self.blur(self.conv(doubled(x), f"{name}.1.conv"))
        weight = self.state[f"{name}.0.weight"]
        kernel = shifted_sum(weight * math.sqrt(2 / (9 * weight.shape[0])))
        return self.blur(F.conv_transpose2d(x, kernel, self.state[f"{name}.0.bias"], stride=2, padding=1))

    def styled(self, x, w, block, n, noise):
        x = lrelu(x + self.scaled(f"{block}.noise{n}.weight_orig") * noise)
        x = x - x.mean((2, 3), keepdim=True)
        x = x / (x.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        gamma, beta = self.linear(w, f"{block}.adain{n}.style.linear")[:, :, None, None].chunk(2, 1)
        return gamma * x + beta

    def draw(self, z, noises, alpha=1.0):
        w = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
        for n in (1, 3):
            w = lrelu(self.linear(w, f"style.{n}.linear"))
        x = self.state["generator.progression.0.conv1.input"].expand(len(z), -1, -1, -1)
        for level in range(self.level + 1):
            block = f"generator.progression.{level}"
            old = x
            x = x if level == 0 else self.enlarged(x, f"{block}.conv1")
            x = self.styled(x, w, block, 1, noises[level])
            x = self.styled(self.conv(x, f"{block}.conv2.conv"), w, block, 2, noises[level])
        image = self.conv(x, f"generator.to_rgb.{self.level}.conv", 0)
        if alpha < 1:
            small = self.conv(old, f"generator.to_rgb.{self.level - 1}.conv", 0)
            image = (1 - alpha) * doubled(small) + alpha * image
        return image

    def judge(self, image):
        last = len(WIDTHS) - 1
        rgb = f"from_rgb.{last - self.level}"
        activated = f"{rgb}.0.conv.bias" in self.state
        x = self.conv(image, f"{rgb}.0.conv" if activated else f"{rgb}.conv", 0)
        x = lrelu(x) if activated else x
        for level in range(self.level, 0, -1):
            block = f"progression.{last - level}"
            x = self.blur(lrelu(self.conv(x, f"{block}.conv1.0.conv")))
            if f"{block}.conv2.1.conv.bias" in self.state:
                x = F.avg_pool2d(self.conv(x, f"{block}.conv2.1.conv"), 2)
            else:
                kernel = shifted_sum(self.scaled(f"{block}.conv2.1.weight"))
                x = F.conv2d(x, kernel, self.state[f"{block}.conv2.1.bias"], stride=2, padding=1)
            x = lrelu(x)
        spread = ((x - x.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        x = torch.cat([x, spread.expand(len(x), 1, 4, 4)], 1)
        x = lrelu(self.conv(x, f"progression.{last}.conv1.0.conv"))
        x = lrelu(self.conv(x, f"progression.{last}.conv2.0.conv", 0))
        return self.linear(x.flatten(1), "linear.linear")[:, 0]


def latents(n=2):
    return torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(1))


def noises_of(generator):
    return [block.epilogue0.noise_const for block in generator.synthesis.blocks]


@pytest.mark.parametrize("level", [0, 1, 3])
def test_generator(level):
    state = state_of(generator_layout())
    ours = load(SOURCE, state, resolution=4 << level)
    assert_same(ours, lambda z: Plain(state, level).draw(z, noises_of(ours)), latents())
    for block in ours.synthesis.blocks:
        assert torch.equal(block.epilogue0.noise_const, block.epilogue1.noise_const)


def test_fading_in():
    state = state_of(generator_layout())
    ours = load(SOURCE, state, resolution=16)
    alpha = torch.tensor(0.3)
    assert_same(lambda z: ours(z, alpha=alpha), lambda z: Plain(state, 2).draw(z, noises_of(ours), 0.3), latents())


@pytest.mark.parametrize(("level", "activated"), [(0, True), (1, False), (3, True)])
def test_discriminator(level, activated):
    state = state_of(discriminator_layout(activated))
    ours = load(SOURCE, state, "discriminator", resolution=4 << level)
    side = 4 << level
    x = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert_same(ours, Plain(state, level).judge, x)


def untrained(state, level):
    """With the layers above a level as they begin: biases and noise zero."""
    state, last = dict(state), len(WIDTHS) - 1
    for key, value in state.items():
        number = next((int(part) for part in key.split(".") if part.isdecimal()), None)
        begun = number is not None and "style" not in key.split(".")[0]
        begun &= (number > level) if key.startswith("generator.") else (last - (number or 0) > level)
        if begun and "adain" not in key and ("noise" in key or key.endswith(".bias")):
            state[key] = torch.zeros_like(value)
    return state


@pytest.mark.parametrize("level", [1, 2])
def test_the_level_that_training_has_reached(level):
    state = untrained(state_of(generator_layout()), level)
    assert load(SOURCE, state)(latents()).shape[-1] == 4 << level
    state = untrained(state_of(discriminator_layout(True)), level)
    assert len(load(SOURCE, state).blocks) == level


def test_no_level_is_trained():
    state = untrained(state_of(generator_layout()), -1)
    with pytest.raises(ValueError, match=r"resolution: the tensors do not say .* expected one of 4, 8, 16, 32"):
        load(SOURCE, state)
    with pytest.raises(ValueError, match="resolution: expected one of 4, 8, 16, 32, got 64"):
        load(SOURCE, state, resolution=64)


def test_files_of_several_networks():
    raw, running = (untrained(state_of(generator_layout(), seed), 2) for seed in (0, 1))
    judge = untrained(state_of(discriminator_layout(True)), 2)
    file = {"generator": raw, "g_running": running, "discriminator": judge, "g_optimizer": {}}
    z = latents()
    torch.testing.assert_close(load(SOURCE, file, "generator")(z), load(SOURCE, raw)(z))
    torch.testing.assert_close(load(SOURCE, file, "g_running")(z), load(SOURCE, running)(z))
    game = load_game(SOURCE, file)
    torch.testing.assert_close(game.generator(z), load(SOURCE, running)(z))
    assert game.sample(2, truncation=0.7).shape == (2, 3, 16, 16)
    x = torch.rand(3, 3, 16, 16)
    torch.testing.assert_close(game.discriminator(x), load(SOURCE, judge)(x))


def test_strictness_below_the_level_and_other_filters():
    state = state_of(generator_layout())
    incomplete = {key: value for key, value in state.items() if key != "generator.progression.1.noise2.weight_orig"}
    with pytest.raises(ValueError, match=r"not in the file: synthesis\.blocks\.1\.epilogue1\.adain\.noise_strength"):
        load(SOURCE, incomplete, resolution=8)
    with pytest.raises(ValueError, match="not in the network: surplus"):
        load(SOURCE, {**state, "surplus": torch.zeros(2)}, resolution=8)
    state["generator.progression.1.conv1.2.weight"] = torch.full((8, 1, 3, 3), 1 / 9)
    with pytest.raises(ValueError, match="is another filter than that of the taps 1, 2, 1"):
        load(SOURCE, state, resolution=8)
