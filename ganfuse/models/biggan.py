"""BigGAN: Large Scale GAN Training for High Fidelity Natural Image Synthesis (Brock et al. 2019, arXiv 1809.11096).

SAGAN's networks made wider, with hierarchical latents: z is cut into one piece for the first layer and one for each
block, where it joins a class embedding that all blocks share, and linear maps of the two are gain and bias of batch
normalisation (appendix B, figure 15). Where the paper is silent this follows its authors' PyTorch code.

At 128 px with 1000 classes the players have 70,433,988 and 87,982,370 parameters.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from ganfuse.models.biggan_game import BigGANGame
from ganfuse.models.biggan_variants import VARIANTS, variant_of
from ganfuse.models.blocks import DownBlock, UpBlock
from ganfuse.models.checks import check_attention, check_classes, check_positive, check_resolution
from ganfuse.models.layer_factory import LayerFactory
from ganfuse.models.registry import register_model
from ganfuse.models.residual_networks import (
    FIRST,
    ProjectionDiscriminator,
    ResidualGenerator,
    attention_after,
    doublings,
)

RESOLUTIONS = (32, 64, 128, 256, 512)
GENERATOR_WIDTHS = VARIANTS["paper"].generator_widths
DISCRIMINATOR_WIDTHS = VARIANTS["paper"].discriminator_widths
ATTENTION = {32: 0, 64: 32, 128: 64, 256: 128, 512: 64}
PIECE = 20
"""Latents per piece: 120 at 128 px, 140 at 256, 160 at 512 (appendix B)."""


def layers_of(activation: str = "relu") -> LayerFactory:
    """How BigGAN makes its layers: orthogonal initialisation, and the ε of its authors' PyTorch code."""
    return VARIANTS["paper"].layers(activation)


class Generator(ResidualGenerator):
    """z (B, latent_dim) and labels (B,) to images (B, channels, resolution, resolution) in [-1, 1].

    Args:
        resolution: 32, 64, 128, 256 or 512.
        num_classes: None makes an unconditional generator, whose conditions are the pieces of z alone.
        channels: of the images.
        width: unit of width, ``ch`` in the paper.
        latent_dim: size of z, a multiple of the number of blocks + 1.
        shared_features: size of the shared class embedding.
        attention_resolution: which map the attention works on; 0: no attention.
        variant: one of `VARIANTS`.
        layers: makes the layers; None: as the variant does.
    """

    def __init__(
        self,
        *,
        resolution: int = 128,
        num_classes: int | None = 1000,
        channels: int = 3,
        width: int = 96,
        latent_dim: int = 120,
        shared_features: int = 128,
        attention_resolution: int = 64,
        variant: str = "paper",
        layers: LayerFactory | None = None,
    ) -> None:
        details = variant_of(variant, VARIANTS)
        layers = layers or details.layers()
        widths = [width * factor for factor in details.generator_widths[resolution]]
        pieces = len(widths)
        if latent_dim % pieces:
            raise ValueError(f"latent_dim: z is cut into {pieces} equal pieces at {resolution} px, got {latent_dim!r}")
        piece = latent_dim // pieces
        condition_features = piece + (0 if num_classes is None else shared_features)
        norm = partial(layers.batch_norm, condition_features=condition_features)
        super().__init__(
            resolution=resolution,
            channels=channels,
            latent_dim=latent_dim,
            num_classes=num_classes,
            linear=layers.linear(piece, widths[0] * FIRST * FIRST),
            blocks=[UpBlock(i, o, norm=norm, layers=layers) for i, o in pairwise(widths)],
            attention=attention_after(doublings(2 * FIRST, resolution), widths[1:], attention_resolution, layers),
            features=widths[-1],
            layers=layers,
        )
        self.piece = piece
        # Not spectrally normalised: its authors found that to cripple the generator.
        self.shared: nn.Embedding | None = None
        if num_classes is not None:
            self.shared = layers.embedding(num_classes, shared_features, spectral=False)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.check_inputs(z, labels)
        first, *conditions = torch.split(z, self.piece, dim=1)
        if self.shared is not None:
            embedded = self.shared(labels)
            conditions = [torch.cat([embedded, piece], dim=1) for piece in conditions]
        return self.synthesize(first, conditions)


class Discriminator(ProjectionDiscriminator):
    """Images (B, channels, resolution, resolution) and labels (B,) to logits (B,).

    The arguments are those of `Generator`.
    """

    def __init__(
        self,
        *,
        resolution: int = 128,
        num_classes: int | None = 1000,
        channels: int = 3,
        width: int = 96,
        attention_resolution: int = 64,
        variant: str = "paper",
        layers: LayerFactory | None = None,
    ) -> None:
        details = variant_of(variant, VARIANTS)
        layers = layers or details.layers()
        widths = [width * factor for factor in details.discriminator_widths[resolution]]
        halvings = len(widths) - (2 if resolution == 32 else 1)
        blocks = [
            DownBlock(
                inputs,
                outputs,
                downsample=index < halvings,
                preactivation=index > 0,
                activated_shortcut=details.activated_shortcut,
                layers=layers,
            )
            for index, (inputs, outputs) in enumerate(zip([channels, *widths], widths))
        ]
        sizes = list(accumulate(blocks, lambda size, block: size // (1 + block.downsample), initial=resolution))[1:]
        super().__init__(
            resolution=resolution,
            channels=channels,
            num_classes=num_classes,
            blocks=blocks,
            attention=attention_after(sizes, widths, attention_resolution, layers),
            features=widths[-1],
            layers=layers,
        )


@register_model(
    summary="wide residual networks, hierarchical latents, orthogonal regularisation, truncated sampling",
    paper="Large Scale GAN Training for High Fidelity Natural Image Synthesis",
    arxiv="1809.11096",
    resolutions=RESOLUTIONS,
)
def biggan(
    *,
    resolution: int = 128,
    num_classes: int | None = 1000,
    channels: int = 3,
    width: int = 96,
    latent_dim: int | None = None,
    shared_features: int = 128,
    attention_resolution: int | None = None,
    variant: str = "paper",
    loss: str = "hinge",
    generator_lr: float = 5e-5,
    discriminator_lr: float = 2e-4,
    betas: Sequence[float] = (0.0, 0.999),
    adam_eps: float = 1e-6,
    discriminator_steps: int = 2,
    orthogonal: float = 1e-4,
    ema_decay: float | None = 0.9999,
    ema_start: int = 20_000,
) -> BigGANGame:
    """BigGAN with the recipe of the paper (section 3, appendix C), which trains with batches of 2048.

    Such batches are made of micro-batches: the trainer's ``batch_size=2048, accumulation=8``. Statistics of batch
    normalisation are then those of a micro-batch. For batches of 256 to 512 the paper's authors take
    ``generator_lr=1e-4, discriminator_lr=4e-4, discriminator_steps=1`` in their PyTorch code.

    Args:
        resolution: 32, 64, 128, 256 or 512; the paper's are the last three.
        num_classes: None (or 0 or 1) makes both players unconditional.
        channels: of the images, 1 or 3 usually.
        width: unit of width, ``ch`` in the paper: 96; 64 is the smaller model of its table 1.
        latent_dim: size of z ~ N(0, 1); None: 20 for the first layer and 20 for each block.
        shared_features: size of the shared class embedding.
        attention_resolution: which map the attention works on; None: 64, at 256 px 128, at 64 px 32, at 32 px none; 0:
            none.
        variant: "studiogan": widths, ε and shortcuts of PyTorch-StudioGAN, see `ganfuse.models.biggan_variants`.
        loss, generator_lr, discriminator_lr, betas, discriminator_steps: see `AdversarialGame`.
        adam_eps: of both optimisers, as in the authors' code.
        orthogonal: β of orthogonal regularisation (section 3.1).
        ema_decay: of the generator's moving average (appendix C); None: none.
        ema_start: the step at which averaging begins, as in the authors' code.

    Raises:
        ValueError: for a resolution that is not there and values out of range.
    """
    check_resolution("BigGAN", resolution, RESOLUTIONS)
    check_positive(channels=channels, width=width, shared_features=shared_features)
    classes = check_classes(num_classes)
    if latent_dim is None:
        latent_dim = PIECE * len(variant_of(variant, VARIANTS).generator_widths[resolution])
    check_positive(latent_dim=latent_dim)
    if attention_resolution is None:
        attention_resolution = ATTENTION[resolution]
    check_attention(attention_resolution, doublings(2 * FIRST, resolution // 2), resolution)
    generator = Generator(
        resolution=resolution,
        num_classes=classes,
        channels=channels,
        width=width,
        latent_dim=latent_dim,
        shared_features=shared_features,
        attention_resolution=attention_resolution,
        variant=variant,
    )
    discriminator = Discriminator(
        resolution=resolution,
        num_classes=classes,
        channels=channels,
        width=width,
        attention_resolution=attention_resolution,
        variant=variant,
    )
    return BigGANGame(
        generator,
        discriminator,
        loss,
        latent_dim=latent_dim,
        num_classes=classes,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        adam_eps=adam_eps,
        discriminator_steps=discriminator_steps,
        orthogonal=orthogonal,
        ema_decay=ema_decay,
        ema_start=ema_start,
    )
