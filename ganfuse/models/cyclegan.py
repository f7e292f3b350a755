"""CycleGAN: Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (Zhu, Park, Isola & Efros
2017, arXiv 1703.10593).

A residual translator each way, a 70×70 PatchGAN for each domain, least-squares adversarial losses, and the demand that
an image translated there and back be the image. At 3 channels and the default width each translator has 11,378,179
parameters (7,837,699 below 256 px) and each discriminator 2,764,737.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ganfuse.engine.game import Batch, Turn
from ganfuse.engine.losses import least_squares_discriminator_loss, least_squares_generator_loss
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.replay_pool import ReplayPool
from ganfuse.engine.schedules import ConstantThenLinear
from ganfuse.engine.translation import TranslationGame, judged_together, l1
from ganfuse.models.checks import check_count, check_positive, check_range
from ganfuse.models.patch_discriminator import PatchDiscriminator, least_size
from ganfuse.models.registry import register_model
from ganfuse.models.resnet_generator import ResnetGenerator

__all__ = ["CycleGANGame", "cyclegan"]


class CycleGANGame(TranslationGame):
    """The networks and losses of CycleGAN; the arguments are those of `cyclegan`.

    All players move in one turn on one forward pass. That is what the authors' order, the generators' step and then the
    discriminators' on the images made before it, computes: neither loss depends on the other player's step.
    """

    name = "cyclegan"
    size_multiple = ResnetGenerator.size_multiple
    least_size = ResnetGenerator.least_size

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        width: int,
        blocks: int | None,
        dropout: float,
        upsampling: str,
        discriminator_layers: int,
        lambda_cycle: float,
        lambda_identity: float,
        pool_size: int,
        crop: int | None,
        generator_lr: float,
        discriminator_lr: float,
        betas: Sequence[float],
        constant_epochs: float,
        decay_epochs: float,
        ema_decay: float | None,
    ) -> None:
        check_positive(resolution=resolution, channels=channels, width=width, discriminator_layers=discriminator_layers)
        check_range(0, float("inf"), lambda_cycle=lambda_cycle, lambda_identity=lambda_identity)
        check_range(0, float("inf"), constant_epochs=constant_epochs, decay_epochs=decay_epochs)
        check_range(0, float("inf"), generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        check_range(0, 1, dropout=dropout)
        check_count(pool_size=pool_size)
        super().__init__(
            resolution=resolution,
            channels=channels,
            generator_optimizer=Adam(generator_lr, betas),
            discriminator_optimizer=Adam(discriminator_lr, betas),
            schedule=ConstantThenLinear(constant_epochs, decay_epochs) if decay_epochs else None,
            crop=crop,
            ema_decay=ema_decay,
        )
        size = self.training_size
        if size < least_size(discriminator_layers):
            raise ValueError(
                f"discriminator_layers: {discriminator_layers} of them need images of at least "
                f"{least_size(discriminator_layers)} px, got {size}"
            )
        if blocks is None:
            blocks = 9 if size >= 256 else 6
        check_positive(blocks=blocks)
        self.lambda_cycle = lambda_cycle
        self.lambda_identity = lambda_identity

        def translator() -> ResnetGenerator:
            return ResnetGenerator(channels, width=width, blocks=blocks, dropout=dropout, upsampling=upsampling)

        self.generator_ab, self.generator_ba = translator(), translator()
        self.discriminator_a = PatchDiscriminator(channels, width=width, layers=discriminator_layers)
        self.discriminator_b = PatchDiscriminator(channels, width=width, layers=discriminator_layers)
        self.pool_a = ReplayPool(pool_size, (channels, size, size))
        self.pool_b = ReplayPool(pool_size, (channels, size, size))

    def turns(self) -> Sequence[Turn]:
        # The discriminators first: their share of the graph is small, and the first backward pass frees none of it.
        return [Turn(("discriminators", "generators"), self.loss, name="translation", capturable=False)]

    def loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Both players' losses, "loss/generators" and "loss/discriminators", and their parts."""
        a, b = self.domains(batch, noise)
        # What one translator makes of both domains it makes in one batch.
        fake_b, same_b = self._forth_and_same(self.generator_ab, a, b)
        fake_a, same_a = self._forth_and_same(self.generator_ba, b, a)
        cycle_a, cycle_b = self.generator_ba(fake_b), self.generator_ab(fake_a)
        terms = {
            # (D − 1)², without the ½ of Mao et al.: Zhu et al. halve the discriminators' loss alone (section 4).
            "gan_ab": 2.0 * least_squares_generator_loss(self.discriminator_b(fake_b)),
            "gan_ba": 2.0 * least_squares_generator_loss(self.discriminator_a(fake_a)),
            "cycle_a": l1(cycle_a, a),
            "cycle_b": l1(cycle_b, b),
        }
        loss = terms["gan_ab"] + terms["gan_ba"] + self.lambda_cycle * (terms["cycle_a"] + terms["cycle_b"])
        if same_a is not None and same_b is not None:
            terms["identity"] = l1(same_a, a) + l1(same_b, b)
            loss = loss + self.lambda_cycle * self.lambda_identity * terms["identity"]
        loss = loss + self.further_terms(terms, fake_a, fake_b, cycle_a, cycle_b)
        judged_a = judged_together(self.discriminator_a, a, self.pool_a.exchange(fake_a, noise))
        judged_b = judged_together(self.discriminator_b, b, self.pool_b.exchange(fake_b, noise))
        terms["discriminator_a"] = least_squares_discriminator_loss(*judged_a)
        terms["discriminator_b"] = least_squares_discriminator_loss(*judged_b)
        return {
            "loss/generators": loss,
            "loss/discriminators": terms["discriminator_a"] + terms["discriminator_b"],
            **{name: term.detach() for name, term in terms.items()},
        }

    def further_terms(
        self, terms: dict[str, Tensor], fake_a: Tensor, fake_b: Tensor, cycle_a: Tensor, cycle_b: Tensor
    ) -> Tensor | float:
        """What a descendant adds to the generators' loss; it puts the parts into `terms`, which are logged."""
        return 0.0

    def _forth_and_same(
        self, generator: Callable[[Tensor], Tensor], source: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """G(source), and G(target), which should be the target, if that has a weight."""
        if not self.lambda_cycle * self.lambda_identity:
            return generator(source), None
        both = generator(torch.cat([source, target]))
        return both[: len(source)], both[len(source) :]


@register_model(
    summary="two residual translators, PatchGANs, least squares, cycle consistency; unpaired domains",
    paper="Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
    arxiv="1703.10593",
    data_kind="unpaired",
)
def cyclegan(
    *,
    resolution: int = 256,
    channels: int = 3,
    width: int = 64,
    blocks: int | None = None,
    dropout: float = 0.0,
    upsampling: str = "transposed",
    discriminator_layers: int = 3,
    lambda_cycle: float = 10.0,
    lambda_identity: float = 0.5,
    pool_size: int = 50,
    crop: int | None = None,
    generator_lr: float = 2e-4,
    discriminator_lr: float = 2e-4,
    betas: Sequence[float] = (0.5, 0.999),
    constant_epochs: float = 100,
    decay_epochs: float = 100,
    ema_decay: float | None = None,
) -> CycleGANGame:
    """CycleGAN with the recipe of the paper (section 4 and appendix 7), which has batches of one image.

    Args:
        resolution: side of the data's images, a multiple of 4, at least 24 with the default discriminators.
        channels: of both domains' images.
        width: channels at full resolution, of translators and discriminators (64).
        blocks: residual blocks of a translator; None: 9 from 256 px on, 6 below, as in the paper.
        dropout: in the blocks; the paper has none.
        upsampling: "transposed" convolutions as in the paper, or "resize", which leaves no checkerboards.
        discriminator_layers: of stride 2: 3 judge patches of 70 px, 2 of 34 px, 1 of 16 px.
        lambda_cycle: weight of the cycle loss (10).
        lambda_identity: weight of the identity loss as a share of `lambda_cycle`: an image of the target domain should
            stay as it is, which keeps colours. 0.5 in section 5.2, for photographs from paintings; 0 elsewhere there.
        pool_size: generated images of earlier steps that each discriminator is shown (50, section 4); 0: none.
        crop: side of random crops that are trained on (the authors load at 286 and crop 256); None: whole images.
        generator_lr, discriminator_lr, betas: of Adam (2e-4, 0.5; section 4).
        constant_epochs, decay_epochs: the rates stay, then fall linearly to 0 (100 and 100); no decay with 0. An epoch
            is a pass over domain A's or B's images, whichever are more.
        ema_decay: of a moving average of the translators, which the paper does not have; None: none.

    Raises:
        ValueError: values out of range, and sizes that the networks do not take.
    """
    return CycleGANGame(
        resolution=resolution,
        channels=channels,
        width=width,
        blocks=blocks,
        dropout=dropout,
        upsampling=upsampling,
        discriminator_layers=discriminator_layers,
        lambda_cycle=lambda_cycle,
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
