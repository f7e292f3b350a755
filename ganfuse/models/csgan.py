"""CSGAN: Cyclic-Synthesized Generative Adversarial Networks for Image-to-Image Transformation (Kancharagunta & Dubey
2019, arXiv 1901.03554).

CycleGAN's networks and losses, trained on pairs, and a loss of its own between the image that a translator synthesises
from the partner, Syn_A = G_BA(b), and the one that comes back from the cycle, Cyc_A = G_BA(G_AB(a)). Not to be confused
with CS-GAN, compressed sensing, which LOGAN descends from.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ganfuse.engine.translation import l1
from ganfuse.models.checks import check_range
from ganfuse.models.cyclegan import CycleGANGame
from ganfuse.models.registry import register_model

__all__ = ["CSGANGame", "csgan"]


class CSGANGame(CycleGANGame):
    """CycleGAN with the cyclic-synthesised loss; the arguments are those of `csgan`."""

    name = "csgan"
    data_kind = "paired"

    def __init__(self, *, lambda_synthesised: float, **options: Any) -> None:
        check_range(0, float("inf"), lambda_synthesised=lambda_synthesised)
        super().__init__(**options)
        self.lambda_synthesised = lambda_synthesised

    def further_terms(
        self, terms: dict[str, Tensor], fake_a: Tensor, fake_b: Tensor, cycle_a: Tensor, cycle_b: Tensor
    ) -> Tensor | float:
        """μ (|Syn_A − Cyc_A| + |Syn_B − Cyc_B|), with Cyc held fixed as in the authors' code.

        So the synthesised images follow the cycled ones and not the other way round. Both are there already: nothing is
        generated twice.
        """
        terms["synthesised_a"] = l1(fake_a, cycle_a.detach())
        terms["synthesised_b"] = l1(fake_b, cycle_b.detach())
        return self.lambda_synthesised * (terms["synthesised_a"] + terms["synthesised_b"])


@register_model(
    summary="CycleGAN on pairs, with a loss between synthesised and cycled images",
    paper="CSGAN: Cyclic-Synthesized Generative Adversarial Networks for Image-to-Image Transformation",
    arxiv="1901.03554",
    data_kind="paired",
)
def csgan(
    *,
    resolution: int = 256,
    channels: int = 3,
    width: int = 64,
    blocks: int | None = 9,
    dropout: float = 0.0,
    upsampling: str = "transposed",
    discriminator_layers: int = 3,
    lambda_cycle: float = 10.0,
    lambda_synthesised: float = 30.0,
    lambda_identity: float = 0.0,
    pool_size: int = 50,
    crop: int | None = None,
    generator_lr: float = 2e-4,
    discriminator_lr: float = 2e-4,
    betas: Sequence[float] = (0.5, 0.999),
    constant_epochs: float = 100,
    decay_epochs: float = 100,
    ema_decay: float | None = None,
) -> CSGANGame:
    """CSGAN with the recipe of the paper, which has batches of one pair.

    Args:
        lambda_cycle: λ, weight of the cycle loss (10).
        lambda_synthesised: μ, weight of the cyclic-synthesised loss (30).
        lambda_identity: as in `cyclegan`; the paper has no such loss.
        crop: side of random crops that are trained on, the same of both images of a pair; None: whole images.
        resolution, channels, width, blocks, dropout, upsampling, discriminator_layers, pool_size, generator_lr,
            discriminator_lr, betas, constant_epochs, decay_epochs, ema_decay: as in `cyclegan`.

    Raises:
        ValueError: values out of range, and sizes that the networks do not take.
    """
    return CSGANGame(
        resolution=resolution,
        channels=channels,
        width=width,
        blocks=blocks,
        dropout=dropout,
        upsampling=upsampling,
        discriminator_layers=discriminator_layers,
        lambda_cycle=lambda_cycle,
        lambda_synthesised=lambda_synthesised,
        lambda_identity=lambda_identity,
        pool_size=pool_size,
        crop=crop,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        constant_epochs=constant_epochs,
        decay_epochs=decay_epochs,
        ema_decay=ema_decay,
    )
