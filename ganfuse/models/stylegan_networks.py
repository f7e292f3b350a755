"""The synthesis network and the generator of StyleGAN (Karras et al. 2019, arXiv 1812.04948, figure 1b)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganfuse.engine.layers import AdaIN2d, EqualizedConv2d, EqualizedLinear
from ganfuse.models.checks import check_choice
from ganfuse.models.growth import BASE, doubled, fade_in
from ganfuse.models.mapping_network import MappingNetwork
from ganfuse.models.progressive_layers import Blur, linear_conv, widths_of
from ganfuse.models.style_generator import StyleGenerator

__all__ = ["VARIANTS", "Generator", "Synthesis"]

#: Whose details: the paper's authors', or those of rosinality's style-based-gan-pytorch.
VARIANTS = ("paper", "rosinality")
#: ε of instance normalisation.
_EPS = {"paper": 1e-8, "rosinality": 1e-5}


class Epilogue(nn.Module):
    """What follows a convolution: noise, bias, leaky ReLU, and instance normalisation with a style of w; one call.

    Args:
        features: channels.
        style_features: of w.
        resolution: of the map, for the constant noise.
        eps: of the normalisation.
        bias: whether there is one here.
    """

    noise_const: Tensor

    def __init__(self, features: int, style_features: int, resolution: int, *, eps: float, bias: bool) -> None:
        super().__init__()
        self.adain = AdaIN2d(
            features,
            style_features,
            eps=eps,
            linear=EqualizedLinear,
            noise=True,
            prologue_bias=bias,
            prologue_activation="leaky_relu",
        )
        self.register_buffer("noise_const", torch.randn(1, 1, resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise_mode: str) -> Tensor:
        """(B, features, H, W) and (B, style_features) → (B, features, H, W)."""
        noise = {"const": self.noise_const, "none": torch.zeros_like(self.noise_const)}.get(noise_mode)
        styled: Tensor = self.adain(x, w, noise)
        return styled


class SynthesisBlock(nn.Module):
    """Two layers of a resolution: behind the learnt constant 4×4, or behind nearest ×2, a convolution and a blur.

    Args:
        inputs: channels that come in; 0: the block begins with the constant.
        outputs: channels that go out.
        style_features: of w.
        resolution: of the map that goes out.
        variant: in "rosinality"'s, the bias of the first convolution comes before the blur, which weakens it at the
            border, and the constant has none.
    """

    def __init__(
        self, inputs: int, outputs: int, style_features: int, resolution: int, *, variant: str = "paper"
    ) -> None:
        super().__init__()
        early_bias = variant == "rosinality"
        self.const = nn.Parameter(torch.ones(outputs, BASE, BASE)) if inputs == 0 else None
        self.conv0 = linear_conv(inputs, outputs, up=2, bias=early_bias) if inputs else None
        self.blur = Blur() if inputs else None
        self.epilogue0 = Epilogue(outputs, style_features, resolution, eps=_EPS[variant], bias=not early_bias)
        self.conv1 = linear_conv(outputs, outputs)
        self.epilogue1 = Epilogue(outputs, style_features, resolution, eps=_EPS[variant], bias=True)

    def forward(self, x: Tensor | None, ws: Tensor, noise_mode: str) -> Tensor:
        """(B, inputs, H/2, W/2) and ws (B, 2, style_features) → (B, outputs, H, W)."""
        if self.const is not None:
            x = self.const.expand(ws.shape[0], -1, -1, -1)
        else:
            assert self.conv0 is not None
            assert self.blur is not None
            x = self.blur(self.conv0(x))
        x = self.epilogue0(x, ws[:, 0], noise_mode)
        styled: Tensor = self.epilogue1(self.conv1(x), ws[:, 1], noise_mode)
        return styled


class Synthesis(nn.Module):
    """Latents w (B, 2 · (level + 1), style_features) to images (B, channels, r, r) of a level's resolution.

    Args:
        resolution: of the last level, a power of two.
        channels: of the images.
        width: channels of the largest map; they double with every halving up to `channel_max`. Or those of all maps
            from 4×4 on.
        style_features: of w.
        variant: one of `VARIANTS`, see `SynthesisBlock`; the ε of instance normalisation is 1e-8 in the paper's code,
            1e-5 in rosinality's.
    """

    def __init__(
        self,
        *,
        resolution: int,
        channels: int = 3,
        width: int | Sequence[int] = 16,
        channel_max: int = 512,
        style_features: int = 512,
        variant: str = "paper",
    ) -> None:
        super().__init__()
        check_choice("variant", variant, VARIANTS)
        widths = widths_of(resolution, width, channel_max)
        self.style_features = style_features
        self.blocks = nn.ModuleList(
            SynthesisBlock(inputs, outputs, style_features, BASE << level, variant=variant)
            for level, (inputs, outputs) in enumerate(zip([0, *widths], widths))
        )
        # By level.
        self.torgb = nn.ModuleList(EqualizedConv2d(features, channels, 1, resample_filter=None) for features in widths)

    @property
    def last_level(self) -> int:
        """That of the final resolution."""
        return len(self.blocks) - 1

    def forward(self, ws: Tensor, level: int, alpha: Tensor | None, noise_mode: str) -> Tensor:
        """Images; see `Generator.forward`."""
        expected = (2 * (level + 1), self.style_features)
        if ws.dim() != 3 or ws.shape[1:] != expected:
            raise ValueError(f"ws: expected (B, {expected[0]}, {expected[1]}), got {tuple(ws.shape)}")
        x: Tensor | None = None
        old: Tensor | None = None
        for index, block in enumerate(self.blocks[: level + 1]):
            old, x = x, block(x, ws[:, 2 * index : 2 * index + 2], noise_mode)
        image: Tensor = self.torgb[level](x)
        return image if alpha is None else fade_in(doubled(self.torgb[level - 1](old)), image, alpha)


class Generator(StyleGenerator):
    """z (B, latent_dim) and labels (B,) to images of a level's resolution, around [-1, 1] (no tanh).

    Args:
        latent_dim: of z.
        num_classes: None: an unconditional generator.
        mapping_layers, mapping_lr_multiplier: of the mapping network.
        resolution and the others: see `Synthesis`.
    """

    synthesis: Synthesis

    def __init__(
        self,
        *,
        resolution: int,
        num_classes: int | None = None,
        latent_dim: int = 512,
        style_features: int = 512,
        mapping_layers: int = 8,
        mapping_lr_multiplier: float = 0.01,
        channels: int = 3,
        width: int | Sequence[int] = 16,
        channel_max: int = 512,
        variant: str = "paper",
    ) -> None:
        mapping = MappingNetwork(
            latent_dim,
            style_features,
            num_layers=mapping_layers,
            num_classes=num_classes,
            gain=math.sqrt(2.0),
            activation_gain=1.0,
            lr_multiplier=mapping_lr_multiplier,
        )
        synthesis = Synthesis(
            resolution=resolution,
            channels=channels,
            width=width,
            channel_max=channel_max,
            style_features=style_features,
            variant=variant,
        )
        super().__init__(mapping, synthesis)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        *,
        level: int | None = None,
        alpha: Tensor | None = None,
        mixed: tuple[Tensor, Tensor] | None = None,
        truncation: float = 1.0,
        truncation_cutoff: int | None = None,
        noise_mode: str | None = None,
    ) -> Tensor:
        """Images.

        Args:
            z, labels: see the class.
            level: of the images; None: the last one.
            alpha: share of the level's own layers while they fade in, a tensor of shape (); None: 1.
            mixed, truncation, truncation_cutoff: see `StyleGenerator.styles`.
            noise_mode: "random": new for every image and layer, "const": each layer's own, "none"; None: "random" in
                training mode, "const" in evaluation mode.
        """
        level = self.synthesis.last_level if level is None else level
        ws = self.styles(
            z,
            labels,
            2 * (level + 1),
            mixed=mixed,
            truncation=truncation,
            truncation_cutoff=truncation_cutoff,
        )
        images: Tensor = self.synthesis(ws, level, alpha, self.noise_mode(noise_mode))
        return images
