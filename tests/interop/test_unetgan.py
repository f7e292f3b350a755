import itertools

import pytest
import torch
import torch.nn.functional as F

from ganfuse.interop import load
from ganfuse.interop.importing import read_network
from tests.interop.biggan_layouts import Plain, attention, normalised
from tests.interop.plain_networks import assert_same, doubled, drawn, scaled, standardised

SOURCE = "unetgan"
LABELS = torch.tensor([1, 4])
GENERATOR = (16, 16, 8, 4, 2, 1)
ENCODER = (1, 2, 4, 8, 16)
DECODER = ((16, 8), (16, 4), (8, 2), (4, 1), (2, 1))


def generator_layout(width, latents):
    """G_ch=width, res=128, unconditional: every norm has two perceptrons on z."""
    shapes = normalised("linear", 256 * width, latents)
    for i, (inputs, outputs) in enumerate(itertools.pairwise(GENERATOR)):
        inputs, outputs, block = inputs * width, outputs * width, f"blocks.{i}.0"
        shapes |= normalised(f"{block}.conv1", outputs, inputs, 3, 3)
        shapes |= normalised(f"{block}.conv2", outputs, outputs, 3, 3)
        shapes |= normalised(f"{block}.conv_sc", outputs, inputs, 1, 1)
        for norm, c in (("bn1", inputs), ("bn2", outputs)):
            shapes |= {f"{block}.{norm}.{n}": (c,) for n in ("stored_mean", "stored_var")}
            for half in ("gain", "bias"):
                name = f"{block}.{norm}.{half}"
                shapes |= {f"{name}.0.weight": (latents, latents), f"{name}.0.bias": (latents,)}
                shapes |= {f"{name}.2.weight": (c, latents)}
    shapes |= {f"output_layer.0.{n}": (width,) for n in ("gain", "bias", "stored_mean", "stored_var")}
    return shapes | normalised("output_layer.2", 3, width, 3, 3)


def discriminator_layout(width, classes, attention_after):
    """D_ch=width, res=128: five blocks down, five up, a 1×1 convolution, and a linear layer without use."""
    shapes = {}
    widths = [3, *(m * width for m in ENCODER)]
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shapes |= normalised(f"blocks.{i}.0.conv1", outputs, inputs, 3, 3)
        shapes |= normalised(f"blocks.{i}.0.conv2", outputs, outputs, 3, 3)
        shapes |= normalised(f"blocks.{i}.0.conv_sc", outputs, inputs, 1, 1)
        if i == attention_after:
            shapes |= attention(f"blocks.{i}.1", outputs)
    for i, (inputs, outputs) in enumerate(DECODER, 5):
        inputs, outputs = inputs * width, outputs * width
        shapes |= normalised(f"blocks.{i}.0.conv1", outputs, inputs, 3, 3)
        shapes |= normalised(f"blocks.{i}.0.conv2", outputs, outputs, 3, 3)
        shapes |= normalised(f"blocks.{i}.0.conv_sc", outputs, inputs, 1, 1)
    shapes |= {"blocks.10.weight": (1, width, 1, 1), "blocks.10.bias": (1,)}
    shapes |= normalised("linear", 1, width) | normalised("linear_middle", 1, 16 * width)
    if classes:
        shapes |= normalised("embed", classes, width, bias=False)
        shapes |= normalised("embed_middle", classes, 16 * width, bias=False)
    return shapes


class PlainUNet(Plain):
    def modulated(self, x, name, z):
        x = standardised(x, self.state[f"{name}.stored_mean"], self.state[f"{name}.stored_var"], 1e-5)
        gain, bias = (
            self.linear(self.linear(z, f"{name}.{half}.0").relu(), f"{name}.{half}.2") for half in ("gain", "bias")
        )
        return scaled(x, 1 + gain, bias).relu()

    def draw(self, z):
        h = self.linear(z, "linear").view(len(z), -1, 4, 4)
        for i in range(5):
            block = f"blocks.{i}.0"
            r = self.conv(doubled(self.modulated(h, f"{block}.bn1", z)), f"{block}.conv1")
            r = self.conv(self.modulated(r, f"{block}.bn2", z), f"{block}.conv2")
            h = r + self.conv(doubled(h), f"{block}.conv_sc")
        return self.image(h)

    def judge(self, x, labels=None):
        h, maps = x, []
        for i in range(5):
            block = f"blocks.{i}.0"
            r = self.conv(self.conv(h if i == 0 else h.relu(), f"{block}.conv1").relu(), f"{block}.conv2")
            h = self.attend(F.avg_pool2d(r + self.conv(h, f"{block}.conv_sc"), 2), f"blocks.{i}.1")
            maps.append(h)
        features = h.relu().sum((2, 3))
        whole = self.linear(features, "linear_middle")[:, 0]
        for i in range(5, 10):
            block = f"blocks.{i}.0"
            if i > 5:
                h = torch.cat([h, maps[8 - i + 1]], 1)
            r = self.conv(self.conv(doubled(h.relu()), f"{block}.conv1").relu(), f"{block}.conv2")
            h = r + self.conv(doubled(h), f"{block}.conv_sc")
        pixels = self.conv(h, "blocks.10")
        if labels is not None:
            whole = whole + (self.weight("embed_middle")[labels] * features).sum(1)
            pixels = pixels + (self.weight("embed")[labels][:, :, None, None] * h).sum(1, keepdim=True)
        return torch.cat([pixels.flatten(), whole])


def test_generator():
    state = drawn(generator_layout(2, 6))
    ours = load(SOURCE, state)
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    assert_same(ours, PlainUNet(state).draw, z)


@pytest.mark.parametrize(("classes", "attention_after"), [(0, None), (5, 1)])
def test_discriminator(classes, attention_after):
    state = drawn(discriminator_layout(4, classes, attention_after))
    ours = load(SOURCE, state, "discriminator")
    given = (LABELS,) if classes else ()
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def judged(x):
        pixels, whole = ours(x, *given)
        return torch.cat([pixels.flatten(), whole])

    assert_same(judged, lambda x: PlainUNet(state).judge(x, *given), x)
    found = read_network(SOURCE, state)
    assert (found.model, found.config["attention_resolution"]) == ("unet-gan", 32 if classes else 0)


def test_the_generators_linear_layer_is_not_left_out():
    state = drawn(generator_layout(2, 6))
    del state["linear.bias"]
    with pytest.raises(ValueError, match=r"not in the file: linear\.bias"):
        load(SOURCE, state)
