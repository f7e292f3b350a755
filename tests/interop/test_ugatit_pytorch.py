import itertools

import pytest
import torch
import torch.nn.functional as F

from ganfuse.interop import load, load_game
from tests.interop.plain_networks import assert_same, doubled, drawn, stored_sigma

SOURCE = "ugatit-pytorch"


def generator_layout(width, *, side=None, blocks=2):
    """ngf=width; light without a side."""
    c = 4 * width
    shapes = {"DownBlock.1.weight": (width, 3, 7, 7), "DownBlock.5.weight": (2 * width, width, 3, 3)}
    shapes |= {"DownBlock.9.weight": (c, 2 * width, 3, 3), "conv1x1.weight": (c, 2 * c, 1, 1), "conv1x1.bias": (c,)}
    shapes |= {"gap_fc.weight": (1, c), "gmp_fc.weight": (1, c)}
    shapes |= {"FC.0.weight": (c, c if side is None else c * (side // 4) ** 2), "FC.2.weight": (c, c)}
    shapes |= {"gamma.weight": (c, c), "beta.weight": (c, c)}
    for i in range(blocks):
        shapes |= {f"DownBlock.{12 + i}.conv_block.{place}.weight": (c, c, 3, 3) for place in (1, 5)}
        for n in (1, 2):
            shapes |= {f"UpBlock1_{i + 1}.conv{n}.weight": (c, c, 3, 3), f"UpBlock1_{i + 1}.norm{n}.rho": (1, c, 1, 1)}
    for conv, norm, inputs in ((2, 3, c), (7, 8, c // 2)):
        shapes |= {f"UpBlock2.{conv}.weight": (inputs // 2, inputs, 3, 3)}
        shapes |= {f"UpBlock2.{norm}.{name}": (1, inputs // 2, 1, 1) for name in ("rho", "gamma", "beta")}
    return shapes | {"UpBlock2.11.weight": (3, width, 7, 7)}


def normalised(name, rows, *columns, bias=True):
    shapes = {f"{name}.weight_orig": (rows, *columns), f"{name}.weight_u": (rows,), f"{name}.weight_v": (1,)}
    return {**shapes, f"{name}.bias": (rows,)} if bias else shapes


def discriminator_layout(width, layers):
    widths = [3, *(width * 2**n for n in range(layers - 1))]
    shapes = {}
    for n, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shapes |= normalised(f"model.{3 * n + 1}", outputs, inputs, 4, 4)
    c = widths[-1]
    shapes |= {"conv1x1.weight": (c, 2 * c, 1, 1), "conv1x1.bias": (c,)}
    for name in ("gap_fc", "gmp_fc"):
        shapes |= normalised(name, 1, c, bias=False)
    return shapes | normalised("conv", 1, c, 4, 4, bias=False)


def generators_state(layout, seed=0):
    state = drawn(layout, seed)
    for key in state:
        if key.endswith("rho"):
            state[key] = state[key].sigmoid()
    return state


def variance(x, dims):
    """Unbiased."""
    mean = x.mean(dims, keepdim=True)
    count = x[0].numel() if 1 in dims else x[0, 0].numel()
    return mean, (x - mean).square().sum(dims, keepdim=True) / (count - 1)


def instance(x):
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


def mixed(x, rho):
    (m, v), (ml, vl) = variance(x, (2, 3)), variance(x, (1, 2, 3))
    return rho * (x - m) / (v + 1e-5).sqrt() + (1 - rho) * (x - ml) / (vl + 1e-5).sqrt()


class Plain:
    def __init__(self, state):
        self.state = state

    def conv(self, x, name, pad, stride=1):
        return F.conv2d(F.pad(x, (pad,) * 4, mode="reflect"), self.state[f"{name}.weight"], stride=stride)

    def attend(self, x, logits_scale=(1.0, 1.0)):
        s = self.state
        raw = [s.get(f"{name}.weight", s.get(f"{name}.weight_orig")) for name in ("gap_fc", "gmp_fc")]
        pooled = (x.mean((2, 3)), x.amax((2, 3)))
        logits = torch.cat([p @ w.T / scale for p, w, scale in zip(pooled, raw, logits_scale)], 1)
        weighed = torch.cat([x * w.view(1, -1, 1, 1) for w in raw], 1)
        return F.conv2d(weighed, s["conv1x1.weight"], s["conv1x1.bias"]), logits

    def translate(self, x, light, blocks=2):
        s = self.state
        h = instance(self.conv(x, "DownBlock.1", 3)).relu()
        for n in (5, 9):
            h = instance(self.conv(h, f"DownBlock.{n}", 1, 2)).relu()
        for i in range(blocks):
            name = f"DownBlock.{12 + i}.conv_block"
            h = h + instance(self.conv(instance(self.conv(h, f"{name}.1", 1)).relu(), f"{name}.5", 1))
        h, logits = self.attend(h)
        h = h.relu()
        style = h.mean((2, 3)) if light else h.flatten(1)
        style = ((style @ s["FC.0.weight"].T).relu() @ s["FC.2.weight"].T).relu()
        gamma, beta = ((style @ s[f"{name}.weight"].T)[:, :, None, None] for name in ("gamma", "beta"))
        for i in range(1, blocks + 1):
            name = f"UpBlock1_{i}"
            r = mixed(self.conv(h, f"{name}.conv1", 1), s[f"{name}.norm1.rho"]) * gamma + beta
            r = mixed(self.conv(r.relu(), f"{name}.conv2", 1), s[f"{name}.norm2.rho"]) * gamma + beta
            h = h + r
        for conv, norm in ((2, 3), (7, 8)):
            h = mixed(self.conv(doubled(h), f"UpBlock2.{conv}", 1), s[f"UpBlock2.{norm}.rho"])
            h = (h * s[f"UpBlock2.{norm}.gamma"] + s[f"UpBlock2.{norm}.beta"]).relu()
        return torch.cat([self.conv(h, "UpBlock2.11", 3).tanh().flatten(), logits.flatten()])

    def judge(self, x, layers):
        s, h = self.state, x
        for n in range(layers - 1):
            name, stride = f"model.{3 * n + 1}", 2 if n < layers - 2 else 1
            weight = s[f"{name}.weight_orig"] / stored_sigma(s, name)
            h = F.leaky_relu(F.conv2d(F.pad(h, (1,) * 4, mode="reflect"), weight, s[f"{name}.bias"], stride), 0.2)
        h, logits = self.attend(h, [stored_sigma(s, name) for name in ("gap_fc", "gmp_fc")])
        weight = s["conv.weight_orig"] / stored_sigma(s, "conv")
        h = F.conv2d(F.pad(F.leaky_relu(h, 0.2), (1,) * 4, mode="reflect"), weight)
        return torch.cat([h.flatten(), logits.flatten()])


def _images(side):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("side", [None, 16])
def test_generators(side):
    state = generators_state(generator_layout(4, side=side))
    ours = load(SOURCE, {"genA2B": state, "disGA": {}}, "genA2B")

    def translated(x):
        result = ours.translate(x)
        return torch.cat([result.images.flatten(), result.cam_logits.flatten()])

    assert_same(translated, lambda x: Plain(state).translate(x, side is None), _images(16))


@pytest.mark.parametrize("layers", [3, 5])
def test_discriminators(layers):
    state = drawn(discriminator_layout(4, layers))
    ours = load(SOURCE, state, "discriminator")

    def judged(x):
        result = ours(x)
        return torch.cat([result.logits.flatten(), result.cam_logits.flatten()])

    assert_same(judged, lambda x: Plain(state).judge(x, layers), _images(32))


def test_all_six_at_once():
    file = {name: generators_state(generator_layout(4), i) for i, name in enumerate(("genA2B", "genB2A"))}
    for i, name in enumerate(("disGA", "disGB", "disLA", "disLB")):
        file[name] = drawn(discriminator_layout(4, 5 if name.startswith("disG") else 4), i)
    game = load_game(SOURCE, file, resolution=32)
    x = _images(32)
    for name, part in (("genA2B", game.generator_ab), ("genB2A", game.generator_ba)):
        torch.testing.assert_close(part(x), load(SOURCE, file, name)(x))
    judges = game.discriminator_b.local_discriminator
    torch.testing.assert_close(judges(x).logits, load(SOURCE, file, "disLB")(x).logits)


def test_arguments():
    file = {"genA2B": generators_state(generator_layout(4))}
    with pytest.raises(ValueError, match="part: this file holds several networks, 'genA2B', 'genB2A'; say which"):
        load(SOURCE, {**file, "genB2A": file["genA2B"]})
    with pytest.raises(ValueError, match="part: the file holds 'genA2B', got 'genB2A'"):
        load(SOURCE, file, "genB2A")
    with pytest.raises(ValueError, match="part: expected 'generator'"):
        load(SOURCE, file["genA2B"], "discriminator")
