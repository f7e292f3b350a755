"""BigGAN-PyTorch's networks: the published layout of small ones, and what they compute in eval mode."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.interop.plain_networks import State, attended, doubled, scaled, standardised, stepped_sigma

Shapes = dict[str, tuple[int, ...]]


def normalised(name: str, *shape: int, bias: bool = True) -> Shapes:
    """A spectrally normalised layer."""
    shapes: Shapes = {f"{name}.weight": shape, f"{name}.u0": (1, shape[0]), f"{name}.sv0": (1,)}
    return {**shapes, f"{name}.bias": (shape[0],)} if bias else shapes


def attention(name: str, channels: int) -> Shapes:
    shapes: Shapes = {f"{name}.gamma": ()}
    eighth, half = max(channels // 8, 1), channels // 2
    for layer, rows, columns in (
        ("theta", eighth, channels), ("phi", eighth, channels), ("g", half, channels), ("o", channels, half),
    ):  # fmt: skip
        shapes |= normalised(f"{name}.{layer}", rows, columns, 1, 1, bias=False)
    return shapes


def statistics(name: str, channels: int, condition: int) -> Shapes:
    shapes: Shapes = {f"{name}.stored_mean": (channels,), f"{name}.stored_var": (channels,)}
    for half in ("gain", "bias"):
        shapes |= normalised(f"{name}.{half}", channels, condition, bias=False)
    return shapes


def generator(width: int, *, classes: int, shared: int, piece: int, attention_after: int) -> Shapes:
    """G_ch=width, res=32, hier, G_shared: three blocks of 4·width channels."""
    c, condition = 4 * width, shared + piece
    shapes = {"shared.weight": (classes, shared), **normalised("linear", 16 * c, piece)}
    for i in range(3):
        block = f"blocks.{i}.0"
        shapes |= normalised(f"{block}.conv1", c, c, 3, 3) | normalised(f"{block}.conv2", c, c, 3, 3)
        shapes |= normalised(f"{block}.conv_sc", c, c, 1, 1)
        shapes |= statistics(f"{block}.bn1", c, condition) | statistics(f"{block}.bn2", c, condition)
    shapes |= attention(f"blocks.{attention_after}.1", c)
    shapes |= {f"output_layer.0.{n}": (c,) for n in ("gain", "bias", "stored_mean", "stored_var")}
    return shapes | normalised("output_layer.2", 3, c, 3, 3)


def label_generator(width: int, *, classes: int, latents: int) -> Shapes:
    """SAGAN's, at 128 px: norms with embeddings of their own, z whole, no attention."""
    widths = [width * m for m in (16, 16, 8, 4, 2, 1)]
    shapes = normalised("linear", 16 * widths[0], latents)
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        block = f"blocks.{i}.0"
        shapes |= normalised(f"{block}.conv1", outputs, inputs, 3, 3)
        shapes |= normalised(f"{block}.conv2", outputs, outputs, 3, 3)
        shapes |= normalised(f"{block}.conv_sc", outputs, inputs, 1, 1)
        for norm, c in (("bn1", inputs), ("bn2", outputs)):
            shapes |= {f"{block}.{norm}.{half}.weight": (classes, c) for half in ("gain", "bias")}
            shapes |= {f"{block}.{norm}.{n}": (c,) for n in ("stored_mean", "stored_var")}
    shapes |= {f"output_layer.0.{n}": (widths[-1],) for n in ("gain", "bias", "stored_mean", "stored_var")}
    return shapes | normalised("output_layer.2", 3, widths[-1], 3, 3)


def deep_generator(width: int, *, classes: int, shared: int, latents: int, attention_after: int) -> Shapes:
    """BigGANdeep, G_ch=width, res=32, hier, G_depth=2: six blocks of 4·width channels."""
    c, condition = 4 * width, shared + latents
    shapes = {"shared.weight": (classes, shared), **normalised("linear", 16 * c, condition)}
    for i in range(6):
        block, h = f"blocks.{i}.0", c // 4
        shapes |= normalised(f"{block}.conv1", h, c, 1, 1) | normalised(f"{block}.conv4", c, h, 1, 1)
        shapes |= normalised(f"{block}.conv2", h, h, 3, 3) | normalised(f"{block}.conv3", h, h, 3, 3)
        for number, features in ((1, c), (2, h), (3, h), (4, h)):
            shapes |= statistics(f"{block}.bn{number}", features, condition)
    shapes |= attention(f"blocks.{attention_after}.1", c)
    shapes |= {f"output_layer.0.{n}": (c,) for n in ("gain", "bias", "stored_mean", "stored_var")}
    return shapes | normalised("output_layer.2", 3, c, 3, 3)


def discriminator(width: int, *, classes: int, attention_after: tuple[int, ...]) -> Shapes:
    """D_ch=width, res=32: four blocks of 4·width channels, of which two halve the map."""
    c = 4 * width
    shapes: Shapes = {}
    for i in range(4):
        inputs = 3 if i == 0 else c
        shapes |= normalised(f"blocks.{i}.0.conv1", c, inputs, 3, 3) | normalised(f"blocks.{i}.0.conv2", c, c, 3, 3)
        if i < 2:
            shapes |= normalised(f"blocks.{i}.0.conv_sc", c, inputs, 1, 1)
        if i in attention_after:
            shapes |= attention(f"blocks.{i}.1", c)
    return shapes | normalised("linear", 1, c) | normalised("embed", classes, c, bias=False)


def deep_discriminator(width: int, *, classes: int, attention_after: int) -> Shapes:
    """BigGANdeep, D_ch=width, res=64, D_depth=2: widths 1, 2, 4, 8, 16."""
    widths = [width * m for m in (1, 2, 4, 8, 16)]
    shapes = normalised("input_conv", widths[0], 3, 3, 3)
    for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        for j, taken in enumerate((inputs, outputs)):
            block, h = f"blocks.{i}.{j}", outputs // 4
            shapes |= normalised(f"{block}.conv1", h, taken, 1, 1) | normalised(f"{block}.conv4", outputs, h, 1, 1)
            shapes |= normalised(f"{block}.conv2", h, h, 3, 3) | normalised(f"{block}.conv3", h, h, 3, 3)
            if outputs > taken:
                shapes |= normalised(f"{block}.conv_sc", outputs - taken, taken, 1, 1)
        if i == attention_after:
            shapes |= attention(f"blocks.{i}.2", outputs)
    return shapes | normalised("linear", 1, widths[-1]) | normalised("embed", classes, widths[-1], bias=False)


class Plain:
    """The networks' functions, of a state dict."""

    def __init__(self, state: State) -> None:
        self.state = state

    def weight(self, layer: str) -> Tensor:
        weight = self.state[f"{layer}.weight"]
        u = self.state.get(f"{layer}.u0")
        return weight if u is None else weight / stepped_sigma(weight, u)

    def conv(self, x: Tensor, layer: str) -> Tensor:
        weight = self.weight(layer)
        return F.conv2d(x, weight, self.state[f"{layer}.bias"], padding=weight.shape[-1] // 2)

    def linear(self, x: Tensor, layer: str) -> Tensor:
        y = x @ self.weight(layer).T
        bias = self.state.get(f"{layer}.bias")
        return y if bias is None else y + bias

    def attend(self, x: Tensor, name: str) -> Tensor:
        if f"{name}.gamma" not in self.state:
            return x
        parts = [self.weight(f"{name}.{layer}") for layer in ("theta", "phi", "g", "o")]
        return attended(x, *parts, self.state[f"{name}.gamma"])

    def norm(self, x: Tensor, name: str, condition: Tensor) -> Tensor:
        x = standardised(x, self.state[f"{name}.stored_mean"], self.state[f"{name}.stored_var"], 1e-5)
        if condition.is_floating_point():
            gain, bias = (self.linear(condition, f"{name}.{half}") for half in ("gain", "bias"))
        else:
            gain, bias = (self.state[f"{name}.{half}.weight"][condition] for half in ("gain", "bias"))
        return scaled(x, 1 + gain, bias).relu()

    def image(self, h: Tensor) -> Tensor:
        s = self.state
        h = standardised(h, s["output_layer.0.stored_mean"], s["output_layer.0.stored_var"], 1e-5)
        h = scaled(h, s["output_layer.0.gain"], s["output_layer.0.bias"]).relu()
        return self.conv(h, "output_layer.2").tanh()

    def generator(self, z: Tensor, labels: Tensor, blocks: int = 3) -> Tensor:
        if "shared.weight" in self.state:
            first, *pieces = z.chunk(blocks + 1, 1)
            y = self.state["shared.weight"][labels]
            conditions = [torch.cat([y, piece], 1) for piece in pieces]
        else:
            first, conditions = z, [labels] * blocks
        h = self.linear(first, "linear").view(len(z), -1, 4, 4)
        for i, condition in enumerate(conditions):
            block = f"blocks.{i}.0"
            r = self.conv(doubled(self.norm(h, f"{block}.bn1", condition)), f"{block}.conv1")
            r = self.conv(self.norm(r, f"{block}.bn2", condition), f"{block}.conv2")
            h = self.attend(r + self.conv(doubled(h), f"{block}.conv_sc"), f"blocks.{i}.1")
        return self.image(h)

    def deep_generator(self, z: Tensor, labels: Tensor) -> Tensor:
        condition = torch.cat([self.state["shared.weight"][labels], z], 1)
        h = self.linear(condition, "linear").view(len(z), -1, 4, 4)
        for i in range(6):
            block, up = f"blocks.{i}.0", (doubled if i % 2 else (lambda x: x))
            r = self.conv(self.norm(h, f"{block}.bn1", condition), f"{block}.conv1")
            r = self.conv(up(self.norm(r, f"{block}.bn2", condition)), f"{block}.conv2")
            r = self.conv(self.norm(r, f"{block}.bn3", condition), f"{block}.conv3")
            r = self.conv(self.norm(r, f"{block}.bn4", condition), f"{block}.conv4")
            h = self.attend(r + up(h), f"blocks.{i}.1")
        return self.image(h)

    def judged(self, h: Tensor, labels: Tensor) -> Tensor:
        features = h.relu().sum((2, 3))
        return self.linear(features, "linear")[:, 0] + (self.weight("embed")[labels] * features).sum(1)

    def discriminator(self, x: Tensor, labels: Tensor) -> Tensor:
        h = x
        for i in range(4):
            block = f"blocks.{i}.0"
            r = self.conv(self.conv(h if i == 0 else h.relu(), f"{block}.conv1").relu(), f"{block}.conv2")
            if i == 0:
                h = self.conv(F.avg_pool2d(h, 2), f"{block}.conv_sc") + F.avg_pool2d(r, 2)
            elif i == 1:
                h = F.avg_pool2d(self.conv(h, f"{block}.conv_sc"), 2) + F.avg_pool2d(r, 2)
            else:
                h = h + r
            h = self.attend(h, f"blocks.{i}.1")
        return self.judged(h, labels)

    def deep_discriminator(self, x: Tensor, labels: Tensor) -> Tensor:
        h = self.conv(x, "input_conv")
        for i in range(4):
            for j in range(2):
                block, down = f"blocks.{i}.{j}", ((lambda t: t) if j else (lambda t: F.avg_pool2d(t, 2)))
                r = self.conv(h.relu(), f"{block}.conv1").relu()
                r = self.conv(self.conv(r, f"{block}.conv2").relu(), f"{block}.conv3").relu()
                h = down(h)
                if f"{block}.conv_sc.weight" in self.state:
                    h = torch.cat([h, self.conv(h, f"{block}.conv_sc")], 1)
                h = h + self.conv(down(r), f"{block}.conv4")
            h = self.attend(h, f"blocks.{i}.2")
        return self.judged(h, labels)
