"""Whose details a BigGAN has: those of the paper's authors, or those of PyTorch-StudioGAN, whose checkpoints differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ganfuse.models.checks import check_choice
from ganfuse.models.layer_factory import LayerFactory, orthogonal_

__all__ = ["DEEP_VARIANTS", "VARIANTS", "Variant", "variant_of"]

Widths = Mapping[int, tuple[int, ...]]

# Multiples of the width, of the generator's first map and after each block (Brock et al. 2019, arXiv 1809.11096,
# appendix B, tables 4 to 6; BigGAN-deep: 7 to 9).
_GENERATOR = {
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
    512: (16, 16, 8, 8, 4, 2, 1, 1),
}
# Of the discriminator after each block; the last block, at 32 px the last two, keep the resolution. BigGAN-deep's are
# of its first convolution and after each pair of blocks, the first of which halves the map but in the last pair at 32.
_DISCRIMINATOR = {
    32: (4, 4, 4, 4),
    64: (1, 2, 4, 8, 16),
    128: (1, 2, 4, 8, 16, 16),
    256: (1, 2, 4, 8, 8, 16, 16),
    512: (1, 1, 2, 4, 8, 8, 16, 16),
}
_STUDIO_GENERATOR = {**_GENERATOR, 64: (16, 8, 4, 2, 1)}


@dataclass(frozen=True)
class Variant:
    """Details that the paper leaves open or others have changed.

    Attributes:
        generator_widths, discriminator_widths: multiples of the unit of width, see above.
        norm_eps: ε of batch normalisation.
        activated_shortcut: the shortcuts of the discriminator begin behind the first activation, as they do where that
            works in place.
        full_shortcut: the shortcuts of BigGAN-deep are 1×1 convolutions, always in the generator, in the discriminator
            where the size or the channels change.
    """

    generator_widths: Widths = field(default_factory=lambda: _GENERATOR)
    discriminator_widths: Widths = field(default_factory=lambda: _DISCRIMINATOR)
    norm_eps: float = 1e-5
    activated_shortcut: bool = False
    full_shortcut: bool = False

    def layers(self, activation: str = "relu", *, spectral: bool = True) -> LayerFactory:
        """How BigGAN makes its layers: orthogonal initialisation, and the ε of its authors' PyTorch code."""
        return LayerFactory(
            orthogonal_, spectral=spectral, spectral_eps=1e-6, norm_eps=self.norm_eps, activation=activation
        )


_PAPER = Variant()
VARIANTS = {
    "paper": _PAPER,
    "studiogan": Variant(
        _STUDIO_GENERATOR, {**_DISCRIMINATOR, 32: (2, 2, 2, 2)}, norm_eps=1e-4, activated_shortcut=True
    ),
}
# "studiogan-legacy" has the paper's shortcuts, "studiogan" convolutions in their place.
DEEP_VARIANTS = {
    "paper": _PAPER,
    "studiogan-legacy": Variant(_STUDIO_GENERATOR, norm_eps=1e-4, activated_shortcut=True),
    "studiogan": Variant(
        _STUDIO_GENERATOR,
        {**_DISCRIMINATOR, 32: (1, 4, 4, 4)},
        norm_eps=1e-4,
        activated_shortcut=True,
        full_shortcut=True,
    ),
}


def variant_of(name: object, variants: Mapping[str, Variant]) -> Variant:
    """Raises ValueError for a name that is not among `variants`."""
    check_choice("variant", name, list(variants))
    return variants[str(name)]
