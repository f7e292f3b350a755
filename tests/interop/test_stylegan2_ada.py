import math

import pytest
import torch
import torch.nn.functional as F

from ganfuse.interop import load, load_game
from tests.interop.plain_networks import assert_same, drawn

SOURCE = "stylegan2-ada"
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
FILTER = TAPS[:, None] * TAPS
LABELS = torch.tensor([1, 4])
SIZES = (4, 8, 16)
WIDTHS = {4: 8, 8: 8, 16: 4}


def mapping(features, inputs, layers, classes):
    shapes = {} if not classes else {"mapping.embed.weight": (features, classes), "mapping.embed.bias": (features,)}
    for i in range(layers):
        shapes |= {
            f"mapping.fc{i}.weight": (features, inputs if i == 0 else features),
            f"mapping.fc{i}.bias": (features,),
        }
    return shapes


def generator_layout(z, w, classes):
    """res=16, channel_base=64, channel_max=8, two layers of mapping."""
    shapes = mapping(w, z + (w if classes else 0), 2, classes) | {"mapping.w_avg": (w,)}
    inputs = 0
    for size in SIZES:
        outputs, block = WIDTHS[size], f"synthesis.b{size}"
        shapes |= {f"{block}.resample_filter": (4, 4)}
        if not inputs:
            shapes |= {f"{block}.const": (outputs, 4, 4)}
        for name, taken in (("conv0", inputs), ("conv1", outputs)):
            if not taken:
                continue
            layer = f"{block}.{name}"
            shapes |= {f"{layer}.weight": (outputs, taken, 3, 3), f"{layer}.bias": (outputs,)}
            shapes |= {f"{layer}.noise_strength": (), f"{layer}.noise_const": (size, size)}
            shapes |= {f"{layer}.resample_filter": (4, 4)}
            shapes |= {f"{layer}.affine.weight": (taken, w), f"{layer}.affine.bias": (taken,)}
        layer = f"{block}.torgb"
        shapes |= {f"{layer}.weight": (3, outputs, 1, 1), f"{layer}.bias": (3,)}
        shapes |= {f"{layer}.affine.weight": (outputs, w), f"{layer}.affine.bias": (outputs,)}
        inputs = outputs
    return shapes


def discriminator_layout(classes):
    """The same sizes, resnet."""
    shapes = mapping(8, 8, 8, classes) if classes else {}
    for size, outputs in ((16, 8), (8, 8)):
        width, block = WIDTHS[size], f"b{size}"
        shapes |= {f"{block}.resample_filter": (4, 4)}
        if size == 16:
            shapes |= {f"{block}.fromrgb.weight": (width, 3, 1, 1), f"{block}.fromrgb.bias": (width,)}
            shapes |= {f"{block}.fromrgb.resample_filter": (4, 4)}
        for name, rows in (("conv0", width), ("conv1", outputs)):
            shapes |= {f"{block}.{name}.weight": (rows, width, 3, 3), f"{block}.{name}.bias": (rows,)}
            shapes |= {f"{block}.{name}.resample_filter": (4, 4)}
        shapes |= {f"{block}.skip.weight": (outputs, width, 1, 1), f"{block}.skip.resample_filter": (4, 4)}
    shapes |= {"b4.conv.weight": (8, 9, 3, 3), "b4.conv.bias": (8,), "b4.conv.resample_filter": (4, 4)}
    shapes |= {"b4.fc.weight": (8, 128), "b4.fc.bias": (8,)}
    return shapes | {"b4.out.weight": (8 if classes else 1, 8), "b4.out.bias": (8 if classes else 1,)}


def state_of(layout, seed=0):
    state = drawn(layout, seed)
    for key, value in state.items():
        if key.endswith("resample_filter"):
            state[key] = FILTER.clone()
        elif key.endswith(".weight"):
            # Of variance 1, or 1/0.01² in the mapping, as the layers scale them.
            state[key] = value * math.sqrt(value[0].numel()) * (100 if ".fc" in key and "mapping" in key else 1)
        elif key.endswith("affine.bias"):
            state[key] = 1 + value / 10
    return state


def blurred(x, pads, gain=1.0):
    before, after = pads
    x = F.pad(x, (before, after, before, after))
    kernel = (FILTER * gain).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(x, kernel, groups=x.shape[1])


SQRT2 = math.sqrt(2)


def lrelu(x, gain=SQRT2):
    return F.leaky_relu(x, 0.2) * gain


class Plain:
    def __init__(self, state):
        self.state = state

    def dense(self, x, layer, rate=1.0):
        weight = self.state[f"{layer}.weight"]
        return x @ weight.T * (rate / math.sqrt(weight.shape[1])) + self.state[f"{layer}.bias"] * rate

    def mapped(self, parts, layers):
        x = torch.cat([p / (p.square().mean(1, keepdim=True) + 1e-8).sqrt() for p in parts], 1)
        for i in range(layers):
            x = lrelu(self.dense(x, f"mapping.fc{i}", 0.01))
        return x

    def modulated(self, x, w, layer, up=False, demodulate=True):
        weight = self.state[f"{layer}.weight"]
        styles = self.dense(w, f"{layer}.affine")
        if not demodulate:
            styles = styles / math.sqrt(weight.shape[1])
        kernels = weight * styles[:, None, :, None, None]
        if demodulate:
            kernels = kernels / (kernels.square().sum((2, 3, 4), keepdim=True) + 1e-8).sqrt()
        images = []
        for one, kernel in zip(x, kernels):
            if up:
                y = F.conv_transpose2d(one[None], kernel.transpose(0, 1), stride=2)
                images.append(blurred(y, (1, 1), 4.0))
            else:
                images.append(F.conv2d(one[None], kernel, padding=kernel.shape[-1] // 2))
        return torch.cat(images)

    def layer(self, x, w, name, up=False):
        s = self.state
        y = self.modulated(x, w, name, up) + s[f"{name}.noise_const"] * s[f"{name}.noise_strength"]
        return lrelu(y + s[f"{name}.bias"].view(1, -1, 1, 1)).clamp(-256 * math.sqrt(2), 256 * math.sqrt(2))

    def draw(self, z, labels=None):
        s = self.state
        parts = [z]
        if labels is not None:
            one_hot = F.one_hot(labels, s["mapping.embed.weight"].shape[1]).float()
            parts.append(self.dense(one_hot, "mapping.embed"))
        w = self.mapped(parts, 2)
        x = s["synthesis.b4.const"].expand(len(z), -1, -1, -1)
        image = None
        for size in SIZES:
            block = f"synthesis.b{size}"
            if size > 4:
                x = self.layer(x, w, f"{block}.conv0", up=True)
                wider = torch.zeros(*image.shape[:2], size, size)
                wider[:, :, ::2, ::2] = image
                image = blurred(wider, (2, 1), 4.0)
            x = self.layer(x, w, f"{block}.conv1")
            rgb = self.modulated(x, w, f"{block}.torgb", demodulate=False) + s[f"{block}.torgb.bias"].view(1, -1, 1, 1)
            image = rgb if image is None else image + rgb
        return image

    def conv(self, x, layer, *, down=False, act=True, gain=1.0):
        weight = self.state[f"{layer}.weight"]
        weight = weight / math.sqrt(weight[0].numel())
        k = weight.shape[-1]
        y = (
            F.conv2d(blurred(x, (2, 2) if k == 3 else (1, 1)), weight, stride=2)
            if down
            else F.conv2d(x, weight, padding=k // 2)
        )
        bias = self.state.get(f"{layer}.bias")
        y = y if bias is None else y + bias.view(1, -1, 1, 1)
        return lrelu(y, math.sqrt(2) * gain) if act else y * gain

    def judge(self, image, labels=None):
        half = math.sqrt(0.5)
        x = self.conv(image, "b16.fromrgb")
        for block in ("b16", "b8"):
            shortcut = self.conv(x, f"{block}.skip", down=True, act=False, gain=half)
            x = shortcut + self.conv(self.conv(x, f"{block}.conv0"), f"{block}.conv1", down=True, gain=half)
        # Groups of 2: sample i is in the group of those i + n/2 apart.
        n = len(x)
        groups = x.view(2, n // 2, *x.shape[1:])
        spread = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        x = torch.cat([x, spread.repeat(2).view(n, 1, 1, 1).expand(-1, 1, 4, 4)], 1)
        x = lrelu(self.dense(self.conv(x, "b4.conv").flatten(1), "b4.fc"))
        x = self.dense(x, "b4.out")
        if labels is None:
            return x[:, 0]
        one_hot = F.one_hot(labels, self.state["mapping.embed.weight"].shape[1]).float()
        w = self.mapped([self.dense(one_hot, "mapping.embed")], 8)
        return (x * w).sum(1) / math.sqrt(x.shape[1])


@pytest.mark.parametrize("classes", [0, 5])
def test_generator(classes):
    state = state_of(generator_layout(6, 7, classes))
    ours = load(SOURCE, state)
    given = (LABELS,) if classes else ()
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    assert_same(lambda z: ours(z, *given), lambda z: Plain(state).draw(z, *given), z)
    torch.testing.assert_close(ours.mapping.w_avg.value, state["mapping.w_avg"])


@pytest.mark.parametrize("classes", [0, 5])
def test_discriminator(classes):
    state = state_of(discriminator_layout(classes))
    ours = load(SOURCE, state, "discriminator", group_size=2)
    labels = torch.tensor([1, 4, 0, 2])
    given = (labels,) if classes else ()
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert_same(lambda x: ours(x, *given), lambda x: Plain(state).judge(x, *given), x)


def test_files_of_several_networks():
    raw, average = (state_of(generator_layout(6, 7, 0), seed) for seed in (0, 1))
    file = {"G": raw, "D": state_of(discriminator_layout(0)), "G_ema": average}
    z = torch.randn(2, 6)
    expected = load(SOURCE, average)(z)
    torch.testing.assert_close(load(SOURCE, file, "generator")(z), expected)
    torch.testing.assert_close(load(SOURCE, file, "G")(z), load(SOURCE, raw)(z))
    game = load_game(SOURCE, file)
    torch.testing.assert_close(game.generator(z), expected)


def test_conditional_networks_whose_mappings_differ_in_depth():
    file = {"G_ema": state_of(generator_layout(6, 7, 5)), "D": state_of(discriminator_layout(5))}
    game = load_game(SOURCE, file)
    assert (game.generator.mapping.num_layers, game.discriminator.mapping.num_layers) == (2, 8)
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.testing.assert_close(game.discriminator(x, LABELS), load(SOURCE, file, "D")(x, LABELS))


def test_labels_network_of_another_depth_is_of_no_configuration():
    layout = discriminator_layout(5)
    state = state_of({key: shape for key, shape in layout.items() if not key.startswith("mapping.fc7.")})
    assert load(SOURCE, state).mapping.num_layers == 7
    with pytest.raises(ValueError, match="of no configuration of stylegan2"):
        load_game(SOURCE, state)


def test_what_is_no_stylegan2():
    state = state_of(generator_layout(6, 7, 0))
    state["synthesis.b8.resample_filter"] = torch.ones(4, 4) / 16
    with pytest.raises(ValueError, match=r"b8\.resample_filter is another filter"):
        load(SOURCE, state)
    with pytest.raises(ValueError, match="is of a StyleGAN3 generator"):
        load(SOURCE, {"synthesis.L0_36_64.weight": torch.zeros(1)})
