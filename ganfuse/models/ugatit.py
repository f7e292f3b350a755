"""U-GAT-IT: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance Normalization for Image-to-Image
Translation (Kim, Kim, Kang & Lee 2020, arXiv 1907.10830).

CycleGAN's demand, with translators that attend to what tells the two domains apart and choose by themselves, channel by
channel, between instance and layer normalisation, and with a global and a local discriminator for each domain. At 256
px the four kinds of networks have 278,959,808 (light: 10,589,888), 53,130,176 and 3,290,560 parameters.
"""

from collections.abc import Sequence
from typing import Literal, cast, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfuse.engine.game import Batch, Turn, evaluation_mode
from ganfuse.engine.heat_colors import overlay_heat
from ganfuse.engine.losses import least_squares_discriminator_loss, least_squares_generator_loss
from ganfuse.engine.noise import Noise
from ganfuse.engine.optimizers import Adam
from ganfuse.engine.precision import at_least_float32
from ganfuse.engine.schedules import ConstantThenLinear
from ganfuse.engine.translation import TranslationGame, l1
from ganfuse.models.checks import check_choice, check_positive, check_range
from ganfuse.models.registry import register_model
from ganfuse.models.ugatit_networks import Generator, Judgement, Judges, Translated, least_side

__all__ = ["UGATITGame", "ugatit"]

OPTIMIZERS = ("adam", "lean_adam")
# The paper's global discriminator has 7 layers and its local one two less.
_GLOBAL_LAYERS = 7
_LOCAL_FEWER = 2


class UGATITGame(TranslationGame):
    """The networks and losses of U-GAT-IT; the arguments are those of `ugatit`.

    Attributes:
        generator_ab, generator_ba: see `ganfuse.models.ugatit_networks.Generator`.
        discriminator_a, discriminator_b: each with a `global_discriminator` and a `local_discriminator`.
    """

    name = "ugatit"
    size_multiple = Generator.size_multiple
    least_size = Generator.least_size
    generator_ab: Generator
    generator_ba: Generator
    discriminator_a: Judges
    discriminator_b: Judges

    def __init__(
        self,
        *,
        resolution: int,
        channels: int,
        width: int,
        light: bool,
        style_grid: int | None,
        blocks: int,
        global_layers: int | None,
        local_layers: int | None,
        raw_attention: bool,
        lambda_adversarial: float,
        lambda_cycle: float,
        lambda_identity: float,
        lambda_cam: float,
        crop: int | None,
        generator_lr: float,
        discriminator_lr: float,
        betas: Sequence[float],
        weight_decay: float,
        constant_steps: int,
        decay_steps: int,
        optimizer: str,
        ema_decay: float | None,
    ) -> None:
        check_positive(resolution=resolution, channels=channels, width=width, blocks=blocks)
        check_range(0, float("inf"), lambda_adversarial=lambda_adversarial, lambda_cycle=lambda_cycle)
        check_range(0, float("inf"), lambda_identity=lambda_identity, lambda_cam=lambda_cam)
        check_range(0, float("inf"), weight_decay=weight_decay, constant_steps=constant_steps, decay_steps=decay_steps)
        check_range(0, float("inf"), generator_lr=generator_lr, discriminator_lr=discriminator_lr)
        check_choice("optimizer", optimizer, OPTIMIZERS)
        size = resolution if crop is None else crop
        if light and style_grid not in (None, 1):
            raise ValueError(f"style_grid: the light model has a grid of 1, got {style_grid!r}; leave one of them out")
        grid = 1 if light else style_grid
        if grid is not None:
            check_positive(style_grid=grid)
            if grid > size // 4:
                raise ValueError(f"style_grid: expected 1 to {size // 4}, the side of the maps, got {grid}")
        lean = optimizer == "lean_adam"
        super().__init__(
            resolution=resolution,
            channels=channels,
            generator_optimizer=Adam(generator_lr, betas, weight_decay=weight_decay, lean=lean),
            discriminator_optimizer=Adam(discriminator_lr, betas, weight_decay=weight_decay, lean=lean),
            schedule=ConstantThenLinear(constant_steps, decay_steps, "steps") if decay_steps else None,
            crop=crop,
            ema_decay=ema_decay,
        )
        if grid is None:
            self.one_size = True
            self.size_multiple = self.least_size = size
        self.global_layers = _layers("global_layers", global_layers, _GLOBAL_LAYERS, size)
        fewer = max(3, self.global_layers - _LOCAL_FEWER)
        self.local_layers = _layers("local_layers", local_layers, fewer, size)
        self.lambda_adversarial = lambda_adversarial
        self.lambda_cycle = lambda_cycle
        self.lambda_identity = lambda_identity
        self.lambda_cam = lambda_cam

        def generator() -> Generator:
            return Generator(resolution=size, channels=channels, width=width, blocks=blocks, style_grid=grid)

        def judges() -> Judges:
            return Judges(
                channels,
                width=width,
                layers=(self.global_layers, self.local_layers),
                raw_attention=raw_attention,
            )

        self.generator_ab, self.generator_ba = generator(), generator()
        self.discriminator_a, self.discriminator_b = judges(), judges()

    def turns(self) -> Sequence[Turn]:
        # First the discriminators; then the generators on images made anew, as in the authors' code.
        return [Turn("discriminators", self.discriminator_loss), Turn("generators", self.generator_loss)]

    def discriminator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Least squares of eight pairs of outputs: patches and auxiliary classifiers, global and local, of A and B."""
        a, b = self.domains(batch, noise)
        with torch.no_grad():
            fake_b, fake_a = self.generator_ab(a), self.generator_ba(b)
        terms = {
            f"discriminator_{name}": _judges_loss(judges, real, fake)
            for name, judges, real, fake in (
                ("a", self.discriminator_a, a, fake_a),
                ("b", self.discriminator_b, b, fake_b),
            )
        }
        loss = self.lambda_adversarial * (terms["discriminator_a"] + terms["discriminator_b"])
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def generator_loss(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Eq. 9 of the paper: adversarial, cycle, identity and CAM losses of both directions."""
        a, b = self.domains(batch, noise)
        # Each translator sees the image to translate and the one to leave alone in one batch: everything in it treats
        # images by themselves, and the weights of the first linear layer get one gradient less.
        to_b = self.generator_ab.translate(torch.cat([a, b]))
        to_a = self.generator_ba.translate(torch.cat([b, a]))
        (fake_b, same_b), (fake_a, same_a) = to_b.images.chunk(2), to_a.images.chunk(2)
        terms = {
            "gan_ab": _deception(self.discriminator_b(fake_b)),
            "gan_ba": _deception(self.discriminator_a(fake_a)),
            "cycle_a": l1(self.generator_ba(fake_b), a),
            "cycle_b": l1(self.generator_ab(fake_a), b),
            "identity": l1(same_a, a) + l1(same_b, b),
            "cam": _cam_loss(to_b) + _cam_loss(to_a),
        }
        loss = (
            self.lambda_adversarial * (terms["gan_ab"] + terms["gan_ba"])
            + self.lambda_cycle * (terms["cycle_a"] + terms["cycle_b"])
            + self.lambda_identity * terms["identity"]
            + self.lambda_cam * terms["cam"]
        )
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    @overload
    def translate(self, images: Tensor, direction: str = "ab", *, heat_map: Literal[False] = False) -> Tensor: ...

    @overload
    def translate(self, images: Tensor, direction: str = "ab", *, heat_map: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def translate(
        self, images: Tensor, direction: str = "ab", *, heat_map: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See `TranslationGame.translate`.

        Args:
            images, direction: see there.
            heat_map: also return where the translator looks, (B, 1, H, W), each image's from 0 to 1.
        """
        translated = super().translate(images, direction)
        if not heat_map:
            return translated
        return translated, self.heat_map(images, direction)

    def shown(self, image: Tensor, direction: str) -> list[Tensor]:
        """An image, where the translator looks, the translation, and that translated back, all in colour."""
        shown = [picture.expand(-1, 3, -1, -1) for picture in super().shown(image, direction)]
        return [shown[0], overlay_heat(image, self.heat_map(image, direction)).to(image), *shown[1:]]

    def heat_map(self, images: Tensor, direction: str = "ab") -> Tensor:
        """Where the translator looks, (B, 1, H, W), each image's from 0 to 1; arguments as of `translate`."""
        translator = cast(Generator, self.translator(direction))
        with evaluation_mode(translator):
            return translator.heat_map(images)


def _judges_loss(judges: Judges, real: Tensor, fake: Tensor) -> Tensor:
    """Σ E (D(x) − 1)² + E D(G)² over the outputs, without the ½ of Mao et al.; real and generated in one batch."""
    outputs = [output.chunk(2) for judgement in judges(torch.cat([real, fake.to(real.dtype)])) for output in judgement]
    return torch.stack([2.0 * least_squares_discriminator_loss(*pair) for pair in outputs]).sum()


def _deception(judgements: Sequence[Judgement]) -> Tensor:
    """Σ E (D(G) − 1)² over the outputs."""
    outputs = [output for judgement in judgements for output in judgement]
    return torch.stack([2.0 * least_squares_generator_loss(output) for output in outputs]).sum()


def _cam_loss(translated: Translated) -> Tensor:
    """−E log η(source) − E log(1 − η(target)): eq. 8, of a batch whose first half is of the source domain."""
    source, target = at_least_float32(translated.cam_logits).chunk(2)
    return F.softplus(-source).mean() + F.softplus(target).mean()


def _layers(key: str, given: int | None, paper: int, size: int) -> int:
    """The layers of a discriminator: those asked for, or the paper's, or as many as images of that size allow."""
    if given is None:
        given = paper
        while given > 3 and least_side(given) > size:
            given -= 1
    check_positive(**{key: given})
    if given < 3 or least_side(given) > size:
        raise ValueError(
            f"{key}: expected 3 or more, and images of at least 3·2^({key} − 2) px; got {given} for {size} px"
        )
    return given


@register_model(
    summary="attention by class activation maps, adaptive layer-instance normalisation; unpaired domains",
    paper="U-GAT-IT: Unsupervised Generative Attentional Networks with Adaptive Layer-Instance Normalization for "
    "Image-to-Image Translation",
    arxiv="1907.10830",
    data_kind="unpaired",
)
def ugatit(
    *,
    resolution: int = 256,
    channels: int = 3,
    width: int = 64,
    light: bool = False,
    style_grid: int | None = None,
    blocks: int = 4,
    global_layers: int | None = None,
    local_layers: int | None = None,
    raw_attention: bool = False,
    lambda_adversarial: float = 1.0,
    lambda_cycle: float = 10.0,
    lambda_identity: float = 10.0,
    lambda_cam: float = 1000.0,
    crop: int | None = None,
    generator_lr: float = 1e-4,
    discriminator_lr: float = 1e-4,
    betas: Sequence[float] = (0.5, 0.999),
    weight_decay: float = 1e-4,
    constant_steps: int = 500_000,
    decay_steps: int = 500_000,
    optimizer: str = "adam",
    ema_decay: float | None = None,
) -> UGATITGame:
    """U-GAT-IT with the recipe of the paper (section 3.1 and appendix A), which has batches of one image.

    Args:
        resolution: side of the data's images, a multiple of 4.
        channels: of both domains' images.
        width: channels at full resolution, of translators and discriminators (64).
        light: the authors' light model: AdaLIN's gain and bias are computed from the maps' means, and the translators
            take images of any size that is a multiple of 4. The full model computes them from the whole maps, which
            takes a linear layer of resolution² · width² parameters: 268 million at 256 px, in each translator.
        style_grid: between the two: from the maps averaged down to this many places a side. 1 is the light model,
            resolution/4 the full one; 16 has 16.8 million parameters in that layer, and takes images of any size, too.
        blocks: residual blocks before and after the attention (4).
        global_layers, local_layers: of the discriminators; None: 7 and 5 as in the paper, fewer where the images are
            too small for them (the global one needs 96 px).
        raw_attention: see `ganfuse.models.class_activation.ClassActivationAttention`.
        lambda_adversarial, lambda_cycle, lambda_identity, lambda_cam: weights of the losses (1, 10, 10, 1000).
        crop: side of random crops that are trained on (the authors load at 286 and crop 256); None: whole images.
        generator_lr, discriminator_lr, betas: of Adam (1e-4, 0.5, 0.999).
        weight_decay: L2 penalty of all parameters (1e-4).
        constant_steps, decay_steps: the rates stay, then fall linearly to 0 (500,000 and 500,000); no decay with 0.
        optimizer: "adam", or "lean_adam", whose moments of the full model's huge layer take a quarter of the memory
            (`ganfuse.engine.lean_adam`).
        ema_decay: of a moving average of the translators, which the paper does not have; None: none.

    Raises:
        ValueError: values out of range, and sizes that the networks do not take.
    """
    return UGATITGame(
        resolution=resolution,
        channels=channels,
        width=width,
        light=light,
        style_grid=style_grid,
        blocks=blocks,
        global_layers=global_layers,
        local_layers=local_layers,
        raw_attention=raw_attention,
        lambda_adversarial=lambda_adversarial,
        lambda_cycle=lambda_cycle,
        lambda_identity=lambda_identity,
        lambda_cam=lambda_cam,
        crop=crop,
        generator_lr=generator_lr,
        discriminator_lr=discriminator_lr,
        betas=betas,
        weight_decay=weight_decay,
        constant_steps=constant_steps,
        decay_steps=decay_steps,
        optimizer=optimizer,
        ema_decay=ema_decay,
    )
