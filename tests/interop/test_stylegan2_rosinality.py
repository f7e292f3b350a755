"""rosinality's StyleGAN2: the published layout of small networks, and what they compute.

The same functions as NVIDIA's, whose plain form and state the tests of ``stylegan2-ada`` have.
"""

import pytest
import torch

from ganfuse.interop import load, load_game
from tests.interop.plain_networks import assert_same
from tests.interop.test_stylegan2_ada import FILTER, SIZES, Plain, discriminator_layout, generator_layout, state_of

SOURCE = "stylegan2-rosinality"
FEATURES = 7
LAYERS = [f"synthesis.b{size}.conv{place}" for size in SIZES for place in ((1,) if size == 4 else (0, 1))]


def generator_key(key):
    """NVIDIA's name to rosinality's."""
    parts = key.split(".")
    if parts[0] == "mapping":
        return f"style.{int(parts[1][2:]) + 1}.{parts[2]}"
    level = SIZES.index(int(parts[1][1:]))
    if parts[2] == "const":
        return "input.input"
    if parts[2] == "torgb":
        name = "to_rgb1" if level == 0 else f"to_rgbs.{level - 1}"
    else:
        name = "conv1" if level == 0 else f"convs.{2 * (level - 1) + int(parts[2][-1])}"
    rest = ".".join(parts[3:])
    if rest == "noise_const":
        return f"noises.noise_{LAYERS.index('.'.join(parts[:3]))}"
    endings = {"weight": "conv.weight", "noise_strength": "noise.weight", "bias": "activate.bias"}
    if parts[2] == "torgb":
        endings["bias"] = "bias"
    return f"{name}.{endings.get(rest, rest.replace('affine.', 'conv.modulation.'))}"


def generator_state(seed=0):
    """NVIDIA's small state, and the same in rosinality's layout."""
    nvidia = state_of(generator_layout(FEATURES, FEATURES, 0), seed)
    state = {}
    for key, value in nvidia.items():
        if key.endswith(("resample_filter", "w_avg")):
            continue
        if key.endswith("noise_strength"):
            value = value.reshape(1)
        elif key.endswith("torgb.bias"):
            value = value.view(1, -1, 1, 1)
        elif key.endswith("noise_const"):
            value = value[None, None]
        elif key.endswith(".const") or value.dim() == 4:
            value = value[None]
        state[generator_key(key)] = value
    for number in range(0, 2 * (len(SIZES) - 1), 2):
        state[f"convs.{number}.conv.blur.kernel"] = FILTER * 4
        state[f"to_rgbs.{number // 2}.upsample.kernel"] = FILTER * 4
    return nvidia, state


def discriminator_state(seed=0):
    nvidia = state_of(discriminator_layout(0), seed)
    names = {"b16.fromrgb.weight": "convs.0.0.weight", "b16.fromrgb.bias": "convs.0.1.bias"}
    for number, block in enumerate(("b16", "b8"), 1):
        names |= {f"{block}.conv0.weight": f"convs.{number}.conv1.0.weight"}
        names |= {f"{block}.conv0.bias": f"convs.{number}.conv1.1.bias"}
        names |= {f"{block}.conv1.weight": f"convs.{number}.conv2.1.weight"}
        names |= {f"{block}.conv1.bias": f"convs.{number}.conv2.2.bias"}
        names |= {f"{block}.skip.weight": f"convs.{number}.skip.1.weight"}
    names |= {"b4.conv.weight": "final_conv.0.weight", "b4.conv.bias": "final_conv.1.bias"}
    for number, layer in enumerate(("fc", "out")):
        names |= {f"b4.{layer}.{part}": f"final_linear.{number}.{part}" for part in ("weight", "bias")}
    state = {names[key]: value for key, value in nvidia.items() if not key.endswith("resample_filter")}
    for number in (1, 2):
        state |= {f"convs.{number}.{name}.0.kernel": FILTER.clone() for name in ("conv2", "skip")}
    return nvidia, state


def latents(n=2):
    return torch.randn(n, FEATURES, generator=torch.Generator().manual_seed(1))


def test_published_names():
    # Of Generator(8, 64, 2) and Discriminator(8), up to level 1.
    keys = set(generator_state()[1])
    assert {
        "style.1.weight", "style.1.bias", "style.2.weight", "style.2.bias", "input.input",
        "conv1.conv.weight", "conv1.conv.modulation.weight", "conv1.conv.modulation.bias",
        "conv1.noise.weight", "conv1.activate.bias",
        "to_rgb1.bias", "to_rgb1.conv.weight", "to_rgb1.conv.modulation.weight", "to_rgb1.conv.modulation.bias",
        "convs.0.conv.weight", "convs.0.conv.blur.kernel", "convs.0.conv.modulation.weight", "convs.0.noise.weight",
        "convs.1.conv.weight", "convs.1.activate.bias", "to_rgbs.0.upsample.kernel", "to_rgbs.0.bias",
        "noises.noise_0", "noises.noise_1", "noises.noise_2",
    } <= keys  # fmt: skip
    assert "convs.1.conv.blur.kernel" not in keys
    assert "to_rgb1.upsample.kernel" not in keys


def test_generator():
    nvidia, state = generator_state()
    assert_same(load(SOURCE, state), Plain(nvidia).draw, latents())


def test_there_is_no_limit_of_results():
    nvidia, state = generator_state()
    ours = load(SOURCE, {**state, "input.input": state["input.input"], "conv1.activate.bias": torch.full((8,), 1e3)})
    limited = {**nvidia, "synthesis.b4.conv1.bias": torch.full((8,), 1e3)}
    assert not torch.allclose(ours(latents()), Plain(limited).draw(latents()), rtol=0.1)


def test_discriminator():
    nvidia, state = discriminator_state()
    ours = load(SOURCE, state, "discriminator", group_size=2)
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert_same(ours, Plain(nvidia).judge, x)


def test_files_of_several_networks():
    raw, average = (generator_state(seed)[1] for seed in (0, 1))
    file = {"g": raw, "d": discriminator_state()[1], "g_ema": average, "latent_avg": torch.arange(float(FEATURES))}
    z = latents()
    torch.testing.assert_close(load(SOURCE, file, "generator")(z), load(SOURCE, average)(z))
    torch.testing.assert_close(load(SOURCE, file, "g")(z), load(SOURCE, raw)(z))
    torch.testing.assert_close(load(SOURCE, file, "g_ema").mapping.w_avg.value, file["latent_avg"])
    with pytest.raises(ValueError, match="this file holds several networks, 'g', 'g_ema', 'd'; say which"):
        load(SOURCE, file)
    game = load_game(SOURCE, file)
    torch.testing.assert_close(game.generator(z), load(SOURCE, average)(z))
    assert game.sample(2, truncation=0.5).shape == (2, 3, 16, 16)
    # A converted file has one network.
    torch.testing.assert_close(load(SOURCE, {"g_ema": average})(z), load(SOURCE, average)(z))


def test_the_mean_style_is_computed_where_it_is_not_there():
    ours = load(SOURCE, generator_state()[1])
    z = torch.randn(20_000, FEATURES, generator=torch.Generator().manual_seed(5))
    expected = ours.mapping(z).mean(0)
    assert (ours.mapping.w_avg.value - expected).abs().max() < 0.05 * ours.mapping(z).std()


def test_a_file_without_noise():
    _, state = generator_state()
    ours = load(SOURCE, {key: value for key, value in state.items() if not key.startswith("noises.")})
    noise = [value for key, value in ours.state_dict().items() if key.endswith("noise_const")]
    assert len(noise) == len(LAYERS)
    assert noise[1].shape == noise[2].shape
    assert not torch.equal(noise[1], noise[2])


def test_other_filters_are_refused():
    _, state = generator_state()
    state["convs.0.conv.blur.kernel"] = FILTER.clone()
    with pytest.raises(ValueError, match=r"convs\.0\.conv\.blur\.kernel is another filter than that of the taps 1, 3,"):
        load(SOURCE, state)
