import math

import pytest
import torch
import torch.nn.functional as F

from ganfuse.interop import load
from tests.interop.plain_networks import assert_same, attended, doubled, drawn, scaled, standardised, stored_sigma

SOURCE = "hf-biggan-deep"
LABELS = torch.tensor([1, 4])
# As biggan-deep-128: (up, multiple in, multiple out), attention in front of the ninth.
LAYERS = ((0, 16, 16), (1, 16, 16), (0, 16, 16), (1, 16, 8), (0, 8, 8), (1, 8, 4), (0, 4, 4), (1, 4, 2),
          None, (0, 2, 2), (1, 2, 1))  # fmt: skip


def normalised(name, *shape, bias=True):
    columns = math.prod(shape[1:])
    shapes = {f"{name}.weight_orig": shape, f"{name}.weight_u": (shape[0],), f"{name}.weight_v": (columns,)}
    return {**shapes, f"{name}.bias": (shape[0],)} if bias else shapes


def layout(width, classes, latents):
    condition = 2 * latents
    shapes = {"embeddings.weight": (latents, classes), **normalised("generator.gen_z", 256 * width, condition)}
    for i, layer in enumerate(LAYERS):
        name = f"generator.layers.{i}"
        if layer is None:
            c = 2 * width
            shapes |= {f"{name}.gamma": (1,)}
            for part, rows, columns in (
                ("theta", c // 8, c),
                ("phi", c // 8, c),
                ("g", c // 2, c),
                ("o_conv", c, c // 2),
            ):
                shapes |= normalised(f"{name}.snconv1x1_{part}", rows, columns, 1, 1, bias=False)
            continue
        inputs, outputs = width * layer[1], width * layer[2]
        h = inputs // 4
        shapes |= normalised(f"{name}.conv_0", h, inputs, 1, 1) | normalised(f"{name}.conv_3", outputs, h, 1, 1)
        shapes |= normalised(f"{name}.conv_1", h, h, 3, 3) | normalised(f"{name}.conv_2", h, h, 3, 3)
        for n, c in enumerate((inputs, h, h, h)):
            shapes |= {f"{name}.bn_{n}.running_means": (51, c), f"{name}.bn_{n}.running_vars": (51, c)}
            for half in ("scale", "offset"):
                shapes |= normalised(f"{name}.bn_{n}.{half}", c, condition, bias=False)
    shapes |= {"generator.bn.weight": (width,), "generator.bn.bias": (width,)}
    shapes |= {"generator.bn.running_means": (51, width), "generator.bn.running_vars": (51, width)}
    return shapes | normalised("generator.conv_to_rgb", width, width, 3, 3)


class Plain:
    def __init__(self, state, truncation):
        self.state = state
        part, whole = math.modf(truncation / 0.02)
        self.rows = (int(whole), part)

    def weight(self, layer):
        return self.state[f"{layer}.weight_orig"] / stored_sigma(self.state, layer)

    def conv(self, x, layer):
        weight = self.weight(layer)
        return F.conv2d(x, weight, self.state[f"{layer}.bias"], padding=weight.shape[-1] // 2)

    def statistic(self, key):
        row, part = self.rows
        table = self.state[key]
        return table[row] * part + table[row + 1] * (1 - part) if part else table[row]

    def norm(self, x, name, gain, bias):
        mean, var = (self.statistic(f"{name}.running_{kind}") for kind in ("means", "vars"))
        return scaled(standardised(x, mean, var, 1e-4), gain, bias).relu()

    def draw(self, z, labels):
        s = self.state
        condition = torch.cat([z, s["embeddings.weight"].T[labels]], 1)
        h = condition @ self.weight("generator.gen_z").T + s["generator.gen_z.bias"]
        h = h.view(len(z), 4, 4, -1).permute(0, 3, 1, 2)
        for i, layer in enumerate(LAYERS):
            name = f"generator.layers.{i}"
            if layer is None:
                parts = [self.weight(f"{name}.snconv1x1_{part}") for part in ("theta", "phi", "g", "o_conv")]
                h = attended(h, *parts, s[f"{name}.gamma"])
                continue
            r = h
            for n in range(4):
                gain, bias = (condition @ self.weight(f"{name}.bn_{n}.{half}").T for half in ("scale", "offset"))
                r = self.norm(r, f"{name}.bn_{n}", 1 + gain, bias)
                r = self.conv(doubled(r) if n == 1 and layer[0] else r, f"{name}.conv_{n}")
            shortcut = h[:, : r.shape[1]]
            h = r + (doubled(shortcut) if layer[0] else shortcut)
        h = self.norm(h, "generator.bn", s["generator.bn.weight"], s["generator.bn.bias"])
        return self.conv(h, "generator.conv_to_rgb")[:, :3].tanh()


# 0.58 / 0.02 is a little below 29 in floating point, and the original takes row 28 for most of it.
@pytest.mark.parametrize("truncation", [0.4, 0.58, 0.7123, 1.0])
def test_generator(truncation):
    state = drawn(layout(4, 5, 6))
    ours = load(SOURCE, state, truncation=truncation)
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    assert_same(lambda z: ours(z, LABELS), lambda z: Plain(state, truncation).draw(z, LABELS), z)


def test_arguments():
    state = drawn(layout(4, 5, 6))
    with pytest.raises(ValueError, match=r"truncation: expected a number in \(0, 1\], got 2"):
        load(SOURCE, state, truncation=2)
    with pytest.raises(ValueError, match="psi: hf-biggan-deep takes truncation; there is no such keyword"):
        load(SOURCE, state, psi=0.5)
    with pytest.raises(ValueError, match="part: hf-biggan-deep has 'generator', got 'discriminator'"):
        load(SOURCE, state, "discriminator")
