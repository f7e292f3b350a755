"""Variants of models: details of other codebases, whose checkpoints are imported."""

import pytest
import torch

from ganfuse.models import create
from ganfuse.models.progressive_discriminator import ConsecutiveStdDev

SMALL = {
    "biggan": {"resolution": 32, "width": 4, "num_classes": 3},
    "biggan-deep": {"resolution": 32, "width": 8, "num_classes": 3},
    "progan": {"resolution": 16, "width": 4, "channel_max": 8, "latent_dim": 6},
    "stylegan": {"resolution": 16, "width": 4, "channel_max": 8, "latent_dim": 6, "style_features": 5},
}
VARIANTS = [
    ("biggan", "studiogan"),
    ("biggan-deep", "studiogan-legacy"),
    ("biggan-deep", "studiogan"),
    ("progan", "gan-zoo"),
    ("stylegan", "rosinality"),
]


def counts(game):
    return [sum(p.numel() for p in part.parameters()) for part in (game.generator, game.discriminator)]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_variants(name, variant):
    game = create(name, **SMALL[name], variant=variant)
    side = SMALL[name]["resolution"]
    assert game.sample(2).shape == (2, 3, side, side)
    labels = (torch.tensor([0, 1]),) if "num_classes" in SMALL[name] else ()
    assert game.discriminator(torch.randn(2, 3, side, side), *labels).shape == (2,)
    with pytest.raises(ValueError, match=r"variant: expected one of 'paper', .*, got 'own'"):
        create(name, **SMALL[name], variant="own")


def test_studiogans_widths():
    # Half the discriminator at 32 px; at 64 px a generator whose first map is as wide and its last half as wide.
    paper, studio = (create("biggan", **SMALL["biggan"], variant=v) for v in ("paper", "studiogan"))
    assert counts(studio)[0] == counts(paper)[0]
    assert studio.discriminator.linear.in_features * 2 == paper.discriminator.linear.in_features
    larger = SMALL["biggan"] | {"resolution": 64}
    paper, studio = (create("biggan", **larger, variant=v).generator for v in ("paper", "studiogan"))
    assert (paper.linear.out_features, studio.linear.out_features) == (16 * 64, 16 * 64)
    assert paper.output_conv.in_channels == 2 * studio.output_conv.in_channels


def test_shortcuts_behind_the_activation():
    for variant, without_negative in (("studiogan", True), ("paper", False)):
        block = create("biggan", **SMALL["biggan"], variant=variant).discriminator.blocks[1].eval()
        x = torch.randn(2, block.conv1.in_channels, 8, 8)
        assert torch.allclose(block(x), block(x.relu()), atol=1e-6) == without_negative


def test_rosinalitys_bias_is_weaker_at_the_border():
    block = create("stylegan", **SMALL["stylegan"], variant="rosinality").generator.synthesis.blocks[1]
    torch.nn.init.zeros_(block.conv0.weight)
    torch.nn.init.ones_(block.conv0.bias)
    y = block.blur(block.conv0(torch.zeros(1, 8, 4, 4)))[0, 0].detach()
    torch.testing.assert_close(torch.stack([y[0, 0], y[0, 3], y[3, 3]]), torch.tensor([0.5625, 0.75, 1.0]))
    assert block.epilogue0.adain.prologue_bias is None


@pytest.mark.parametrize("name", ["progan", "stylegan"])
def test_widths_of_all_levels(name):
    config = {**SMALL[name], "width": [8, 4, 6]}
    game = create(name, **config)
    torgb = game.generator.get_submodule("torgb" if name == "progan" else "synthesis.torgb")
    assert [layer.in_channels for layer in torgb] == [8, 4, 6]
    assert [layer.out_channels for layer in game.discriminator.fromrgb] == [8, 4, 6]
    with pytest.raises(ValueError, match="width: expected one number, or 3 for the maps of 4×4 to 16×16, got 2"):
        create(name, **{**config, "width": [8, 4]})
    with pytest.raises(ValueError, match="width: expected a positive whole number, got 0"):
        create(name, **{**config, "width": [8, 0, 4]})


def test_progan_that_begins_at_its_last_resolution():
    game = create("progan", **SMALL["progan"], start=16)
    assert game.growth.level == 2
    assert game.growth.alpha is None


def test_deviations_of_samples_that_follow_each_other():
    x = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = ConsecutiveStdDev(4)(x)
    expected = [(group.var(0, correction=1) + 1e-8).sqrt().mean() for group in (x[:4], x[4:])]
    torch.testing.assert_close(y[:, 2, 0, 0], torch.stack(expected).repeat_interleave(4))
    torch.testing.assert_close(y[:, :2], x)
    whole = (x[:6].var(0, correction=1) + 1e-8).sqrt().mean()
    torch.testing.assert_close(ConsecutiveStdDev(4)(x[:6])[:, 2, 1, 1], whole.expand(6))
    assert not ConsecutiveStdDev(4)(x[:1])[:, 2].any()
    assert ConsecutiveStdDev(4)(x[:0]).shape == (0, 3, 3, 3)
    leaf = x[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(ConsecutiveStdDev(2), leaf)
    assert torch.autograd.gradgradcheck(ConsecutiveStdDev(2), leaf)
