import pytest
import torch

from ganfuse.interop import load
from ganfuse.interop.importing import read_network
from tests.interop import biggan_layouts as layouts
from tests.interop.biggan_layouts import Plain
from tests.interop.plain_networks import assert_same, drawn

SOURCE = "biggan-pytorch"
LABELS = torch.tensor([1, 4])


def _images(size):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


def _latents(features):
    return torch.randn(2, features, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention_after", [0, 1, 2])
def test_generator(attention_after):
    state = drawn(layouts.generator(4, classes=5, shared=6, piece=5, attention_after=attention_after))
    ours = load(SOURCE, state, "generator")
    assert not ours.training
    assert_same(lambda z: ours(z, LABELS), lambda z: Plain(state).generator(z, LABELS), _latents(20))


def test_deep_generator():
    state = drawn(layouts.deep_generator(4, classes=5, shared=6, latents=7, attention_after=3))
    ours = load(SOURCE, state)
    assert_same(lambda z: ours(z, LABELS), lambda z: Plain(state).deep_generator(z, LABELS), _latents(7))


def test_generator_without_shared_embedding():
    state = drawn(layouts.label_generator(1, classes=5, latents=7))
    ours = load(SOURCE, state)
    assert_same(lambda z: ours(z, LABELS), lambda z: Plain(state).generator(z, LABELS, 5), _latents(7))


@pytest.mark.parametrize("attention_after", [(), (0,), (1,), (0, 1, 2, 3)])
def test_discriminator(attention_after):
    state = drawn(layouts.discriminator(4, classes=5, attention_after=attention_after))
    ours = load(SOURCE, state, "discriminator")
    assert_same(lambda x: ours(x, LABELS), lambda x: Plain(state).discriminator(x, LABELS), _images(32))


@pytest.mark.parametrize("attention_after", [0, 1])
def test_deep_discriminator(attention_after):
    state = drawn(layouts.deep_discriminator(4, classes=5, attention_after=attention_after))
    ours = load(SOURCE, state)
    assert_same(lambda x: ours(x, LABELS), lambda x: Plain(state).deep_discriminator(x, LABELS), _images(64))


def test_statistics_of_each_option_of_batch_normalisation():
    state = drawn(layouts.generator(4, classes=5, shared=6, piece=5, attention_after=1))
    expected = load(SOURCE, state)(_latents(20), LABELS)
    own, summed, synchronised = {}, {}, {}
    for key, value in state.items():
        layer, _, name = key.rpartition(".stored_")
        if not layer:
            own[key] = summed[key] = synchronised[key] = value
            continue
        own[f"{layer}.bn.stored_{name}"] = value
        own[f"{layer}.bn.accumulation_counter"] = torch.zeros(1)
        summed[f"{layer}.bn.stored_{name}"] = 3 * value
        summed[f"{layer}.bn.accumulation_counter"] = torch.full((1,), 3.0)
        synchronised[f"{layer}.bn.running_{name}"] = value
        synchronised[f"{layer}.bn.num_batches_tracked"] = torch.tensor(7)
    for variant in (own, summed, synchronised):
        torch.testing.assert_close(load(SOURCE, variant)(_latents(20), LABELS), expected)


def test_configuration_of_the_model():
    state = drawn(layouts.generator(4, classes=5, shared=6, piece=5, attention_after=1))
    network = read_network(SOURCE, state)
    assert (network.model, network.part) == ("biggan", "generator")
    assert network.config == {
        "resolution": 32, "channels": 3, "width": 4, "num_classes": 5, "shared_features": 6, "latent_dim": 20,
        "attention_resolution": 16,
    }  # fmt: skip


def test_each_training_step_goes_on_from_the_stored_vectors():
    state = drawn(layouts.discriminator(4, classes=5, attention_after=()))
    ours = load(SOURCE, state)
    conv = ours.get_submodule("blocks.1.conv1")
    before = conv.weight_u.clone()
    ours.train()(_images(32), LABELS)
    matrix = state["blocks.1.0.conv1.weight"].flatten(1)
    torch.testing.assert_close(conv.weight_u, torch.nn.functional.normalize(matrix @ matrix.T @ before, dim=0))
    assert all(p.requires_grad for p in ours.parameters())


def test_what_does_not_fit_is_listed():
    state = drawn(layouts.generator(4, classes=5, shared=6, piece=5, attention_after=1))
    state["blocks.0.0.conv1.extra"] = torch.zeros(1)
    del state["output_layer.2.bias"]
    with pytest.raises(ValueError, match=r"not in the file: output_conv\.bias; not in the network: .*conv1\.extra"):
        load(SOURCE, state)


def test_unusual_generators_are_refused():
    state = drawn(layouts.generator(4, classes=5, shared=11, piece=5, attention_after=1))
    flat = {k: v[:, :11] if ".gain.weight" in k or (".0.bn" in k and v.dim() == 2 and "u0" not in k) else v
            for k, v in state.items()}  # fmt: skip
    with pytest.raises(ValueError, match="hierarchical latents"):
        load(SOURCE, flat)
    del state["blocks.2.0.conv1.weight"]
    with pytest.raises(ValueError, match=r"blocks\.2\.0\.conv1\.u0 has no blocks\.2\.0\.conv1\.weight"):
        load(SOURCE, state)


def test_arguments():
    state = drawn(layouts.discriminator(4, classes=5, attention_after=()))
    with pytest.raises(ValueError, match=r"part: expected 'discriminator', .*got 'generator'"):
        load(SOURCE, state, "generator")
    with pytest.raises(ValueError, match="width: biggan-pytorch reads all of it"):
        load(SOURCE, state, width=4)
