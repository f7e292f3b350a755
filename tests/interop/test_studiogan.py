"""PyTorch-StudioGAN's networks: the published layout of small ones, and what they compute in eval mode."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from ganfuse.interop import load, load_game
from ganfuse.interop.importing import read_network
from tests.interop.plain_networks import assert_same, attended, doubled, drawn, scaled, standardised, stored_sigma

SOURCE = "studiogan"
LABELS = torch.tensor([1, 4])
CLASSES, SHARED, PIECE = 5, 4, 3


def normalised(name, rows, *columns, bias=True):
    size = 1
    for column in columns:
        size *= column
    shapes = {f"{name}.weight_orig": (rows, *columns), f"{name}.weight_u": (rows,), f"{name}.weight_v": (size,)}
    return {**shapes, f"{name}.bias": (rows,)} if bias else shapes


def attention(name, c):
    shapes = {f"{name}.sigma": (1,)}
    parts = (("theta", c // 8, c), ("phi", c // 8, c), ("g", c // 2, c), ("attn", c, c // 2))
    for part, rows, columns in parts:
        shapes |= normalised(f"{name}.conv1x1_{part}", rows, columns, 1, 1, bias=False)
    return shapes


def norm(name, c, condition):
    shapes = {f"{name}.bn.running_mean": (c,), f"{name}.bn.running_var": (c,), f"{name}.bn.num_batches_tracked": ()}
    for half in ("gain", "bias"):
        shapes |= normalised(f"{name}.{half}", c, condition, bias=False)
    return shapes


def placed(blocks, attended_blocks):
    """Blocks with attention layers in entries of their own: shapes by entry."""
    shapes, entry = {}, 0
    for index, (block, width) in enumerate(blocks):
        shapes |= {f"blocks.{entry}.0.{key}": shape for key, shape in block.items()}
        entry += 1
        if index in attended_blocks:
            shapes |= attention(f"blocks.{entry}.0", width)
            entry += 1
    return shapes


def last_layers(width):
    shapes = {f"bn4.{key}": (width,) for key in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"bn4.num_batches_tracked": ()} | normalised("conv2d5", 3, width, 3, 3)


def generator(widths, attended_blocks, classes=CLASSES):
    """big_resnet."""
    condition = PIECE + (SHARED if classes else 0)
    blocks = []
    for inputs, outputs in itertools.pairwise(widths):
        block = norm("bn1", inputs, condition) | norm("bn2", outputs, condition)
        block |= normalised("conv2d0", outputs, inputs, 1, 1) | normalised("conv2d1", outputs, inputs, 3, 3)
        blocks.append((block | normalised("conv2d2", outputs, outputs, 3, 3), outputs))
    shapes = {"shared.weight": (classes, SHARED)} if classes else {}
    shapes |= normalised("linear0", 16 * widths[0], PIECE) | placed(blocks, attended_blocks)
    return shapes | last_layers(widths[-1])


def deep_generator(widths, attended_blocks, full):
    """big_resnet_deep_legacy; with `full`, big_resnet_deep_studiogan."""
    condition = PIECE + SHARED
    blocks = []
    pairs = [pair for i, o in itertools.pairwise(widths) for pair in ((i, i), (i, o))]
    for inputs, outputs in pairs:
        h = inputs // 4
        block = normalised("conv2d0", outputs, inputs, 1, 1) if full else {}
        block |= norm("bn1", inputs, condition) | normalised("conv2d1", h, inputs, 1, 1)
        for n in (2, 3):
            block |= norm(f"bn{n}", h, condition) | normalised(f"conv2d{n}", h, h, 3, 3)
        block |= norm("bn4", h, condition) | normalised("conv2d4", outputs, h, 1, 1)
        blocks.append((block, outputs))
    shapes = {"shared.weight": (CLASSES, SHARED)} | normalised("linear0", 16 * widths[0], condition)
    return shapes | placed(blocks, attended_blocks) | last_layers(widths[-1])


def heads(width, classes):
    shapes = normalised("linear1", 1, width)
    return shapes | normalised("embedding", classes, width, bias=False) if classes else shapes


def discriminator(widths, halvings, attended_blocks, classes=CLASSES):
    blocks = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise((3, *widths))):
        block = normalised("conv2d1", outputs, inputs, 3, 3) | normalised("conv2d2", outputs, outputs, 3, 3)
        if index < halvings or inputs != outputs:
            block |= normalised("conv2d0", outputs, inputs, 1, 1)
        blocks.append((block, outputs))
    return placed(blocks, attended_blocks) | heads(widths[-1], classes)


def deep_discriminator(widths, halvings, attended_blocks, full):
    blocks = []
    for index, (first, outputs) in enumerate(itertools.pairwise(widths)):
        for place, inputs in enumerate((first, outputs)):
            h = outputs // 4
            block = normalised("conv2d1", h, inputs, 1, 1) | normalised("conv2d4", outputs, h, 1, 1)
            block |= normalised("conv2d2", h, h, 3, 3) | normalised("conv2d3", h, h, 3, 3)
            if full and (inputs != outputs or (place == 0 and index < halvings)):
                block |= normalised("conv2d0", outputs, inputs, 1, 1)
            elif inputs != outputs:
                block |= normalised("conv2d0", outputs - inputs, inputs, 1, 1)
            blocks.append((block, outputs))
    shapes = normalised("input_conv", widths[0], 3, 3, 3) | placed(blocks, attended_blocks)
    return shapes | heads(widths[-1], CLASSES)


def state_of(layout, seed=0):
    state = drawn({key: shape for key, shape in layout.items() if "num_batches" not in key}, seed)
    return state | {key: torch.tensor(7) for key in layout if "num_batches" in key}


class Plain:
    def __init__(self, state):
        self.state = state

    def weight(self, layer):
        return self.state[f"{layer}.weight_orig"] / stored_sigma(self.state, layer)

    def conv(self, x, layer):
        weight = self.weight(layer)
        return F.conv2d(x, weight, self.state[f"{layer}.bias"], padding=weight.shape[-1] // 2)

    def has(self, layer):
        return f"{layer}.weight_orig" in self.state

    def entries(self):
        return sorted({int(key.split(".")[1]) for key in self.state if key.startswith("blocks.")})

    def attend(self, x, name):
        parts = [self.weight(f"{name}.conv1x1_{part}") for part in ("theta", "phi", "g", "attn")]
        return attended(x, *parts, self.state[f"{name}.sigma"])

    def norm(self, x, name, condition):
        x = standardised(x, self.state[f"{name}.bn.running_mean"], self.state[f"{name}.bn.running_var"], 1e-4)
        gain, bias = (condition @ self.weight(f"{name}.{half}").T for half in ("gain", "bias"))
        return scaled(x, 1 + gain, bias).relu()

    def first_map(self, x):
        y = x @ self.weight("linear0").T + self.state["linear0.bias"]
        return y.view(len(x), -1, 4, 4)

    def image(self, h):
        s = self.state
        h = standardised(h, s["bn4.running_mean"], s["bn4.running_var"], 1e-4)
        return self.conv(scaled(h, s["bn4.weight"], s["bn4.bias"]).relu(), "conv2d5").tanh()

    def draw(self, z, labels=None):
        first, *pieces = z.split(PIECE, 1)
        if labels is not None:
            pieces = [torch.cat([self.state["shared.weight"][labels], piece], 1) for piece in pieces]
        h, conditions = self.first_map(first), iter(pieces)
        for entry in self.entries():
            block = f"blocks.{entry}.0"
            if f"{block}.sigma" in self.state:
                h = self.attend(h, block)
                continue
            condition = next(conditions)
            r = self.conv(doubled(self.norm(h, f"{block}.bn1", condition)), f"{block}.conv2d1")
            r = self.conv(self.norm(r, f"{block}.bn2", condition), f"{block}.conv2d2")
            h = r + self.conv(doubled(h), f"{block}.conv2d0")
        return self.image(h)

    def draw_deep(self, z, labels):
        condition = torch.cat([self.state["shared.weight"][labels], z], 1)
        h, index = self.first_map(condition), 0
        for entry in self.entries():
            block = f"blocks.{entry}.0"
            if f"{block}.sigma" in self.state:
                h = self.attend(h, block)
                continue
            up = doubled if index % 2 else (lambda x: x)
            index += 1
            r = self.conv(self.norm(h, f"{block}.bn1", condition), f"{block}.conv2d1")
            r = self.conv(up(self.norm(r, f"{block}.bn2", condition)), f"{block}.conv2d2")
            r = self.conv(self.norm(r, f"{block}.bn3", condition), f"{block}.conv2d3")
            r = self.conv(self.norm(r, f"{block}.bn4", condition), f"{block}.conv2d4")
            shortcut = self.conv(up(h), f"{block}.conv2d0") if self.has(f"{block}.conv2d0") else up(h)[:, : r.shape[1]]
            h = r + shortcut
        return self.image(h)

    def judged(self, h, labels):
        features = h.relu().sum((2, 3))
        logits = (features @ self.weight("linear1").T + self.state["linear1.bias"])[:, 0]
        return logits if labels is None else logits + (self.weight("embedding")[labels] * features).sum(1)

    def judge(self, x, labels, halvings):
        h, index = x, 0
        for entry in self.entries():
            block = f"blocks.{entry}.0"
            if f"{block}.sigma" in self.state:
                h = self.attend(h, block)
                continue
            # The activation works in place, so that the shortcut has it too; not in the first block.
            h = h if index == 0 else h.relu()
            r = self.conv(self.conv(h, f"{block}.conv2d1").relu(), f"{block}.conv2d2")
            h = self.conv(h, f"{block}.conv2d0") if self.has(f"{block}.conv2d0") else h
            h = F.avg_pool2d(h + r, 2) if index < halvings else h + r
            index += 1
        return self.judged(h, labels)

    def judge_deep(self, x, labels, halvings, full):
        h, index = self.conv(x, "input_conv"), 0
        for entry in self.entries():
            block = f"blocks.{entry}.0"
            if f"{block}.sigma" in self.state:
                h = self.attend(h, block)
                continue
            down = (lambda t: F.avg_pool2d(t, 2)) if index % 2 == 0 and index // 2 < halvings else (lambda t: t)
            h = h.relu()
            r = self.conv(self.conv(h, f"{block}.conv2d1").relu(), f"{block}.conv2d2").relu()
            r = self.conv(r, f"{block}.conv2d3")
            r = down(r).relu() if full else down(r.relu())
            h = down(h)
            if self.has(f"{block}.conv2d0"):
                more = self.conv(h, f"{block}.conv2d0")
                h = more if full else torch.cat([h, more], 1)
            h = h + self.conv(r, f"{block}.conv2d4")
            index += 1
        return self.judged(h, labels)


def latents(features):
    return torch.randn(2, features, generator=torch.Generator().manual_seed(1))


def images(size):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(
    ("widths", "places", "classes", "expected"),
    [
        # 32 px; 64 px, whose widths are not the paper's; two attention layers, which no registered model has.
        ((8, 8, 8, 8), [1], CLASSES, {"resolution": 32, "width": 2, "attention_resolution": 16}),
        ((32, 16, 8, 4, 2), [], None, {"resolution": 64, "width": 2, "attention_resolution": 0, "num_classes": None}),
        ((8, 8, 8, 8), [0, 1], CLASSES, None),
    ],
)
def test_generator(widths, places, classes, expected):
    state = state_of(generator(widths, places, classes))
    given = (LABELS,) if classes else ()
    z = latents(PIECE * len(widths))
    assert_same(lambda z: load(SOURCE, state)(z, *given), lambda z: Plain(state).draw(z, *given), z)
    found = read_network(SOURCE, {"state_dict": state, "optimizer": {}})
    assert found.model == "biggan"
    if expected is None:
        assert found.config is None
    else:
        assert {**found.config, **expected, "variant": "studiogan"} == found.config


@pytest.mark.parametrize("full", [False, True])
def test_deep_generator(full):
    state = state_of(deep_generator((8, 8, 8, 8), [3], full))
    assert_same(lambda z: load(SOURCE, state)(z, LABELS), lambda z: Plain(state).draw_deep(z, LABELS), latents(PIECE))
    config = read_network(SOURCE, state).config
    assert config["variant"] == ("studiogan" if full else "studiogan-legacy")
    assert config["attention_resolution"] == 16


@pytest.mark.parametrize(
    ("widths", "halvings", "places", "classes"),
    [((8, 8, 8, 8), 2, [0], CLASSES), ((2, 4, 8, 16, 32), 4, [], None)],
)
def test_discriminator(widths, halvings, places, classes):
    state = state_of(discriminator(widths, halvings, places, classes))
    given = LABELS if classes else None
    arguments = (LABELS,) if classes else ()
    x = images(32 if halvings == 2 else 64)
    ours = load(SOURCE, state, "discriminator")
    assert_same(lambda x: ours(x, *arguments), lambda x: Plain(state).judge(x, given, halvings), x)


@pytest.mark.parametrize("full", [False, True])
def test_deep_discriminator(full):
    widths = (2, 8, 8, 8) if full else (8, 8, 8, 8)
    state = state_of(deep_discriminator(widths, 2, [1], full))
    ours = load(SOURCE, state, "discriminator")
    assert_same(lambda x: ours(x, LABELS), lambda x: Plain(state).judge_deep(x, LABELS, 2, full), images(32))


def test_a_game_of_both():
    files = [state_of(generator((8, 8, 8, 8), [])), state_of(discriminator((4, 4, 4, 4), 2, []))]
    game = load_game(SOURCE, files[0], also={"discriminator": files[1]})
    assert (game.name, game.config["variant"], game.config["width"]) == ("biggan", "studiogan", 2)
    z, x = latents(12), images(32)
    torch.testing.assert_close(game.generator(z, LABELS), load(SOURCE, files[0])(z, LABELS))
    torch.testing.assert_close(game.discriminator(x, LABELS), load(SOURCE, files[1])(x, LABELS))
    assert game.sample(2, truncation=0.5).shape == (2, 3, 32, 32)


def test_without_spectral_normalisation():
    state = state_of(generator((8, 8, 8, 8), []))
    plain = {}
    for key, value in state.items():
        if key.endswith("weight_orig"):
            plain[key.replace("_orig", "")] = Plain(state).weight(key.removesuffix(".weight_orig"))
        elif not key.endswith(("weight_u", "weight_v")):
            plain[key] = value
    z = latents(12)
    torch.testing.assert_close(load(SOURCE, plain)(z, LABELS), load(SOURCE, state)(z, LABELS), rtol=1e-4, atol=1e-5)
    assert read_network(SOURCE, plain).config is None


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"linear2.weight_orig": (5, 8)}, r"linear2\.weight_orig is of an auxiliary head"),
        ({"blocks.0.0.bn1.weight": (8,)}, "is of a discriminator with batch normalisation"),
        ({"linear1.weight_orig": (6, 8)}, "linear1 gives 6 logits"),
    ],
)
def test_discriminators_without_a_counterpart(extra, message):
    state = state_of(discriminator((8, 8, 8, 8), 2, []))
    state |= {key: torch.zeros(shape) for key, shape in extra.items()}
    with pytest.raises(ValueError, match=message):
        load(SOURCE, state)


def test_generators_without_a_counterpart():
    # SNGAN's and SAGAN's have whole latents, and labels themselves as conditions.
    state = state_of(generator((8, 8, 8, 8), [], None))
    state |= {"linear0.weight_orig": torch.zeros(128, 20), "linear0.weight_v": torch.zeros(20)}
    with pytest.raises(ValueError, match="the first layer takes 20 features, the norms take 3"):
        load(SOURCE, state)
