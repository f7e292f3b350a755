import itertools

import pytest
import torch
import torch.nn.functional as F

from ganfuse.interop import load
from tests.interop.plain_networks import assert_same, drawn

SOURCE = "cyclegan-pix2pix"


def conv(name, outputs, inputs, size, *, transposed=False):
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    return {f"{name}.weight": (*shape, size, size), f"{name}.bias": (outputs,)}


def generator_layout(width, blocks, second=5):
    shapes = (
        conv("model.1", width, 3, 7) | conv("model.4", 2 * width, width, 3) | conv("model.7", 4 * width, 2 * width, 3)
    )
    for i in range(10, 10 + blocks):
        for place in (1, second):
            shapes |= conv(f"model.{i}.conv_block.{place}", 4 * width, 4 * width, 3)
    n = 10 + blocks
    shapes |= conv(f"model.{n}", 2 * width, 4 * width, 3, transposed=True)
    shapes |= conv(f"model.{n + 3}", width, 2 * width, 3, transposed=True)
    return shapes | conv(f"model.{n + 7}", 3, width, 7)


def discriminator_layout(width, layers):
    widths = [width * min(2**n, 8) for n in range(layers + 1)]
    shapes = conv("model.0", width, 3, 4)
    for n, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shapes |= conv(f"model.{2 + 3 * n}", outputs, inputs, 4)
    return shapes | conv(f"model.{2 + 3 * layers}", 1, widths[-1], 4)


def normalised(x):
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) / ((x - mean).square().mean((2, 3), keepdim=True) + 1e-5).sqrt()


class Plain:
    def __init__(self, state):
        self.state = state

    def conv(self, x, name, **options):
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], **options)

    def mirrored(self, x, name):
        pad = self.state[f"{name}.weight"].shape[-1] // 2
        return self.conv(F.pad(x, (pad,) * 4, mode="reflect"), name)

    def translate(self, x, blocks, second=5):
        h = normalised(self.mirrored(x, "model.1")).relu()
        for n in (4, 7):
            h = normalised(self.conv(h, f"model.{n}", stride=2, padding=1)).relu()
        for n in range(10, 10 + blocks):
            r = normalised(self.mirrored(h, f"model.{n}.conv_block.1")).relu()
            h = h + normalised(self.mirrored(r, f"model.{n}.conv_block.{second}"))
        for n in (10 + blocks, 13 + blocks):
            weight, bias = self.state[f"model.{n}.weight"], self.state[f"model.{n}.bias"]
            h = normalised(F.conv_transpose2d(h, weight, bias, 2, 1, 1)).relu()
        return self.mirrored(h, f"model.{17 + blocks}").tanh()

    def judge(self, x, layers):
        h = F.leaky_relu(self.conv(x, "model.0", stride=2, padding=1), 0.2)
        for n in range(layers):
            stride = 2 if n < layers - 1 else 1
            h = F.leaky_relu(normalised(self.conv(h, f"model.{2 + 3 * n}", stride=stride, padding=1)), 0.2)
        return self.conv(h, f"model.{2 + 3 * layers}", padding=1)


def _images(side):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("blocks", "second"), [(2, 5), (6, 5), (2, 6)])
def test_generator(blocks, second):
    state = drawn(generator_layout(4, blocks, second))
    ours = load(SOURCE, state, "generator")
    assert ours.blocks[0].dropout == (0.5 if second == 6 else 0.0)
    assert_same(ours, lambda x: Plain(state).translate(x, blocks, second), _images(24))


@pytest.mark.parametrize("layers", [2, 3])
def test_discriminator(layers):
    state = drawn(discriminator_layout(4, layers))
    assert_same(load(SOURCE, state), lambda x: Plain(state).judge(x, layers), _images(48))


def test_old_files_and_several_devices():
    state = drawn(generator_layout(4, 2))
    expected = load(SOURCE, state)(_images(24))
    old = {f"module.{key}": value for key, value in state.items()}
    old |= {"module.model.2.running_mean": torch.ones(4), "module.model.2.running_var": torch.ones(4)}
    torch.testing.assert_close(load(SOURCE, old)(_images(24)), expected)


def test_batch_normalisation_is_refused():
    state = drawn(generator_layout(4, 2)) | {"model.2.weight": torch.ones(4), "model.2.running_mean": torch.ones(4)}
    with pytest.raises(ValueError, match=r"not in the network: model\.2\.weight"):
        load(SOURCE, state)
    with pytest.raises(ValueError, match="is of a U-Net generator"):
        load(SOURCE, {"model.model.0.weight": torch.zeros(4, 3, 4, 4)})
