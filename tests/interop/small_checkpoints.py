"""A small checkpoint of each network of each source, for tests of what all sources have in common."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.interop import (
    biggan_layouts,
    test_cyclegan_pix2pix,
    test_hf_biggan_deep,
    test_progan,
    test_sagan,
    test_studiogan,
    test_stylegan1_rosinality,
    test_stylegan2_ada,
    test_stylegan2_rosinality,
    test_ugatit_pytorch,
    test_unetgan,
)
from tests.interop.plain_networks import State, drawn

CLASSES = 5


@dataclass(frozen=True)
class Small:
    """Of one network.

    Attributes:
        state: makes its state dict.
        image: side of its images.
        latents: of a generator's z; 0: it takes images.
        classes: whether it takes labels.
    """

    state: Callable[[], State]
    image: int
    latents: int = 0
    classes: bool = False

    def inputs(self, n: int = 2) -> tuple[Tensor, ...]:
        rng = torch.Generator().manual_seed(1)
        first = torch.randn(n, self.latents, generator=rng)
        if not self.latents:
            first = torch.rand(n, 3, self.image, self.image, generator=rng) * 2 - 1
        return (first, torch.arange(n) % CLASSES) if self.classes else (first,)


_PAPER, _STUDIO = biggan_layouts, test_studiogan

SMALL = {
    ("biggan-pytorch", "generator"): Small(
        lambda: drawn(_PAPER.generator(4, classes=CLASSES, shared=6, piece=5, attention_after=1)), 32, 20, True
    ),
    ("biggan-pytorch", "discriminator"): Small(
        lambda: drawn(_PAPER.discriminator(4, classes=CLASSES, attention_after=())), 32, 0, True
    ),
    ("cyclegan-pix2pix", "generator"): Small(lambda: drawn(test_cyclegan_pix2pix.generator_layout(4, 2)), 16),
    ("cyclegan-pix2pix", "discriminator"): Small(lambda: drawn(test_cyclegan_pix2pix.discriminator_layout(4, 2)), 32),
    ("hf-biggan-deep", "generator"): Small(lambda: drawn(test_hf_biggan_deep.layout(4, CLASSES, 6)), 128, 6, True),
    ("progan", "generator"): Small(
        lambda: test_progan.state_of(test_progan.generator_layout(test_progan.REGULAR, 6)), 16, 6
    ),
    ("progan", "discriminator"): Small(
        lambda: test_progan.state_of(test_progan.discriminator_layout(test_progan.REGULAR)), 16
    ),
    ("sagan", "generator"): Small(lambda: drawn(test_sagan.generator_layout(8, 5)), 64, 5),
    ("sagan", "discriminator"): Small(lambda: drawn(test_sagan.discriminator_layout(4)), 64),
    ("studiogan", "generator"): Small(lambda: _STUDIO.state_of(_STUDIO.generator((8, 8, 8, 8), [1])), 32, 12, True),
    ("studiogan", "discriminator"): Small(
        lambda: _STUDIO.state_of(_STUDIO.discriminator((8, 8, 8, 8), 2, [0])), 32, 0, True
    ),
    ("stylegan1-rosinality", "generator"): Small(
        lambda: test_stylegan1_rosinality.state_of(test_stylegan1_rosinality.generator_layout()), 32, 7
    ),
    ("stylegan1-rosinality", "discriminator"): Small(
        lambda: test_stylegan1_rosinality.state_of(test_stylegan1_rosinality.discriminator_layout(True)), 32
    ),
    ("stylegan2-ada", "generator"): Small(
        lambda: test_stylegan2_ada.state_of(test_stylegan2_ada.generator_layout(6, 7, CLASSES)), 16, 6, True
    ),
    ("stylegan2-ada", "discriminator"): Small(
        lambda: test_stylegan2_ada.state_of(test_stylegan2_ada.discriminator_layout(CLASSES)), 16, 0, True
    ),
    ("stylegan2-rosinality", "generator"): Small(lambda: test_stylegan2_rosinality.generator_state()[1], 16, 7),
    ("stylegan2-rosinality", "discriminator"): Small(lambda: test_stylegan2_rosinality.discriminator_state()[1], 16),
    ("ugatit-pytorch", "generator"): Small(
        lambda: test_ugatit_pytorch.generators_state(test_ugatit_pytorch.generator_layout(4)), 16
    ),
    ("ugatit-pytorch", "discriminator"): Small(lambda: drawn(test_ugatit_pytorch.discriminator_layout(4, 4)), 32),
    ("unetgan", "generator"): Small(lambda: drawn(test_unetgan.generator_layout(2, 6)), 128, 6),
    ("unetgan", "discriminator"): Small(lambda: drawn(test_unetgan.discriminator_layout(4, CLASSES, 1)), 128, 0, True),
}
