import pytest
import torch
import torch.nn.functional as F

from ganfuse.interop import load
from tests.interop.plain_networks import assert_same, drawn, scaled, standardised, stepped_sigma

SOURCE = "sagan"


def normalised(name, rows, columns):
    columns_in_all = columns * 16
    shapes = {f"{name}.module.weight_bar": (rows, columns, 4, 4), f"{name}.module.weight_u": (rows,)}
    return {**shapes, f"{name}.module.weight_v": (columns_in_all,)}


def attention(name, channels):
    shapes = {f"{name}.gamma": (1,)}
    for layer, outputs in (("query_conv", channels // 8), ("key_conv", channels // 8), ("value_conv", channels)):
        shapes |= {f"{name}.{layer}.weight": (outputs, channels, 1, 1), f"{name}.{layer}.bias": (outputs,)}
    return shapes


def generator_layout(width, latents):
    """conv_dim=width, image_size=64."""
    widths = [8 * width, 4 * width, 2 * width, width]
    shapes = {}
    for n, (inputs, outputs) in enumerate(zip([latents, *widths], widths), 1):
        shapes |= normalised(f"l{n}.0", inputs, outputs) | {f"l{n}.0.module.bias": (outputs,)}
        shapes |= {f"l{n}.1.{name}": (outputs,) for name in ("weight", "bias", "running_mean", "running_var")}
        shapes |= {f"l{n}.1.num_batches_tracked": ()}
    shapes |= {"last.0.weight": (width, 3, 4, 4), "last.0.bias": (3,)}
    return shapes | attention("attn1", 2 * width) | attention("attn2", width)


def discriminator_layout(width):
    widths = [width, 2 * width, 4 * width, 8 * width]
    shapes = {}
    for n, (inputs, outputs) in enumerate(zip([3, *widths], widths), 1):
        shapes |= normalised(f"l{n}.0", outputs, inputs) | {f"l{n}.0.module.bias": (outputs,)}
    shapes |= {"last.0.weight": (1, 8 * width, 4, 4), "last.0.bias": (1,)}
    return shapes | attention("attn1", 4 * width) | attention("attn2", 8 * width)


class Plain:
    def __init__(self, state):
        self.state = state

    def weight(self, layer):
        weight = self.state[f"{layer}.module.weight_bar"]
        return weight / stepped_sigma(weight, self.state[f"{layer}.module.weight_u"])

    def attend(self, x, name):
        s = self.state
        query, key, value = (
            F.conv2d(x, s[f"{name}.{layer}.weight"], s[f"{name}.{layer}.bias"]).flatten(2)
            for layer in ("query_conv", "key_conv", "value_conv")
        )
        weights = torch.softmax(query.transpose(1, 2) @ key, -1)
        return x + s[f"{name}.gamma"] * (value @ weights.transpose(1, 2)).view_as(x)

    def draw(self, z):
        s, h = self.state, z[:, :, None, None]
        for n in range(1, 5):
            stride, padding = (1, 0) if n == 1 else (2, 1)
            h = F.conv_transpose2d(h, self.weight(f"l{n}.0"), s[f"l{n}.0.module.bias"], stride, padding)
            h = standardised(h, s[f"l{n}.1.running_mean"], s[f"l{n}.1.running_var"], 1e-5)
            h = scaled(h, s[f"l{n}.1.weight"], s[f"l{n}.1.bias"]).relu()
            h = self.attend(h, f"attn{n - 2}") if n > 2 else h
        return F.conv_transpose2d(h, s["last.0.weight"], s["last.0.bias"], 2, 1).tanh()

    def judge(self, x):
        s, h = self.state, x
        for n in range(1, 5):
            h = F.conv2d(h, self.weight(f"l{n}.0"), s[f"l{n}.0.module.bias"], 2, 1)
            h = torch.where(h > 0, h, 0.1 * h)
            h = self.attend(h, f"attn{n - 2}") if n > 2 else h
        return F.conv2d(h, s["last.0.weight"], s["last.0.bias"]).flatten()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_generator(prefix):
    state = drawn(generator_layout(8, 5))
    ours = load(SOURCE, {prefix + key: value for key, value in state.items()}, "generator")
    assert_same(ours, Plain(state).draw, torch.randn(2, 5, generator=torch.Generator().manual_seed(1)))


def test_discriminator():
    state = drawn(discriminator_layout(4))
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert_same(load(SOURCE, state), Plain(state).judge, x)
    with pytest.raises(ValueError, match="part: expected 'discriminator'"):
        load(SOURCE, state, "generator")
