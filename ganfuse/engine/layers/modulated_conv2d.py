"""The layers of StyleGAN2's networks that are made of modulated convolutions, and the one that takes images in.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN". Parameters and buffers have the names,
shapes and meaning of StyleGAN2-ADA's SynthesisLayer, ToRGBLayer and Conv2dLayer, so that state dicts fit.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganfuse.engine.layers.activation import bias_act_name, describe_activation
from ganfuse.engine.layers.equalized import EqualizedConv2d, EqualizedLinear
from ganfuse.kernels import modulated_conv2d, setup_filter
from ganfuse.kernels.bias_act.reference import ACTIVATIONS
from ganfuse.kernels.precision import without_autocast

NOISE_MODES = ("random", "const", "none")


class _Modulated(nn.Module):
    """Weights, the map from a latent w to styles, and the checks that both layers share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_features: int,
        conv_clamp: float | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "out_channels": out_channels, "style_features": style_features}
        for name, value in sizes.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, so that its middle is a pixel, got {kernel_size!r}")
        if conv_clamp is not None and not conv_clamp >= 0:
            raise ValueError(f"conv_clamp must be at least 0 or None, got {conv_clamp!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.style_features = style_features
        self.conv_clamp = conv_clamp
        self.affine = EqualizedLinear(style_features, in_channels, bias_init=1.0, device=device, dtype=dtype)
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))

    def reset_parameters(self) -> None:
        """Weights from N(0, 1), no bias, and styles that are 1 for w = 0."""
        self.affine.reset_parameters()
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def styles(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, in_channels) from (B, style_features), in the parameters' type whatever autocast says."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x: expected (B, {self.in_channels}, H, W), got {tuple(x.shape)}")
        if w.shape != (x.shape[0], self.style_features) or not w.is_floating_point():
            raise ValueError(
                f"w: expected floats of shape ({x.shape[0]}, {self.style_features}), got {w.dtype} {tuple(w.shape)}"
            )
        styles: Tensor = without_autocast(self.affine, w.to(self.affine.weight.dtype))
        return styles

    def _describe_sizes(self) -> str:
        clamp = "" if self.conv_clamp is None else f", conv_clamp={self.conv_clamp}"
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, {self.style_features}{clamp}"


class ModulatedConv2d(_Modulated):
    """StyleGAN2's synthesis layer: a convolution modulated by a latent, noise, bias and activation.

    ``clamp(gain · act(conv(x; demodulated weight · affine(w)) + strength · noise + bias))``, computed as
    `ganfuse.kernels.modulated_conv2d` says. Keeps the size of x, times `up` / `down`.

    Args:
        in_channels, out_channels, kernel_size: as in nn.Conv2d; `kernel_size` is odd.
        style_features: elements of a sample's latent w.
        up, down: integer factors of filtered resampling before and after the convolution.
        demodulate: divide by the norm of each sample's weights; False: take them as they are.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"``, ``"silu"``, or one of `ganfuse.kernels.bias_act`'s. Its
            factor is `bias_act`'s: √2 for ReLU, leaky ReLU and SiLU, else 1.
        negative_slope: of the leaky ReLU.
        noise: add noise, one map for all channels, times a strength that is learnt, from 0.
        resolution: height and width (or both) of the result, for the map of constant noise; None: there is none.
        resample_filter: taps of the filter, kept as a buffer (`ganfuse.kernels.setup_filter`).
        conv_clamp: the result is limited to ±conv_clamp; None: no limit.

    Raises:
        ValueError: for arguments out of range, and inputs that do not fit.
    """

    noise_const: Tensor | None
    noise_strength: nn.Parameter | None
    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        style_features: int,
        *,
        up: int = 1,
        down: int = 1,
        demodulate: bool = True,
        activation: str = "leaky_relu",
        negative_slope: float = 0.2,
        noise: bool = True,
        resolution: int | tuple[int, int] | None = None,
        resample_filter: Sequence[float] = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, style_features, conv_clamp, device, dtype)
        for name, factor in (("up", up), ("down", down)):
            if isinstance(factor, bool) or not isinstance(factor, int) or factor < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {factor!r}")
        if resolution is not None and not noise:
            raise ValueError(f"resolution is that of the noise, and noise is False; got {resolution!r}")
        self.up = up
        self.down = down
        self.demodulate = demodulate
        self.activation = activation
        self.negative_slope = negative_slope
        self.act = bias_act_name(activation)
        self.resolution = (resolution, resolution) if isinstance(resolution, int) else resolution
        # setup_filter reads numbers, which the meta device has none of.
        with torch.device("cpu"):
            taps = setup_filter(list(resample_filter))
        self.register_buffer("resample_filter", taps.to(self.weight.device))
        constant = None if self.resolution is None else torch.empty(self.resolution, device=device, dtype=dtype)
        self.register_buffer("noise_const", constant)
        self.noise_strength = nn.Parameter(torch.empty((), device=device, dtype=dtype)) if noise else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As in `ToRGB`; noise of strength 0, and a new map of constant noise."""
        super().reset_parameters()
        if self.noise_const is not None:
            nn.init.normal_(self.noise_const)
        if self.noise_strength is not None:
            nn.init.zeros_(self.noise_strength)

    def forward(self, x: Tensor, w: Tensor, noise_mode: str = "random", gain: float = 1.0) -> Tensor:
        """(B, in_channels, H, W) and (B, style_features) → (B, out_channels, H · up / down, W · up / down).

        Args:
            noise_mode: ``"random"``: new for every sample, ``"const"``: the layer's own map, ``"none"``.
            gain: factor of the result and of `conv_clamp`.
        """
        styles = self.styles(x, w)
        if noise_mode not in NOISE_MODES:
            raise ValueError(f"noise_mode must be one of {', '.join(map(repr, NOISE_MODES))}, got {noise_mode!r}")
        return modulated_conv2d(
            x, self.weight, styles, self._noise(x, noise_mode), self.up, self.down, self.kernel_size // 2,
            # A module in another precision has its buffers so; filters are float32.
            self.resample_filter.float() if self.up > 1 or self.down > 1 else None, self.demodulate,
            # StyleGAN2 convolves where it upsamples, and correlates elsewhere; its weights are made so.
            flip_weight=self.up == 1, bias=self.bias, act=self.act,
            alpha=self.negative_slope if self.act == "lrelu" else None, gain=ACTIVATIONS[self.act].gain * gain,
            clamp=None if self.conv_clamp is None else self.conv_clamp * gain,
        )  # fmt: skip

    def _noise(self, x: Tensor, mode: str) -> Tensor | None:
        strength = self.noise_strength
        if strength is None or mode == "none":
            return None
        height, width = (side * self.up // self.down for side in x.shape[2:])
        if mode == "random":
            return torch.randn((x.shape[0], 1, height, width), device=x.device, dtype=strength.dtype) * strength
        if self.noise_const is None:
            raise ValueError("noise_mode 'const' needs a layer that was made with resolution=")
        if self.noise_const.shape != (height, width):
            raise ValueError(
                f"noise_mode 'const': the layer was made with resolution={self.resolution}, x gives {(height, width)}"
            )
        return self.noise_const * strength

    def extra_repr(self) -> str:
        resampling = f", up={self.up}" if self.up > 1 else ""
        resampling += f", down={self.down}" if self.down > 1 else ""
        activation = describe_activation(self.activation, self.negative_slope)
        return (
            f"{self._describe_sizes()}{resampling}, demodulate={self.demodulate}, {activation}, "
            f"noise={self.noise_strength is not None}, resolution={self.resolution}"
        )


class ToRGB(_Modulated):
    """StyleGAN2's output layer: a modulated convolution, not demodulated, with bias and no activation.

    Its weights have an equalised learning rate: styles are divided by kernel_size · √in_channels.

    Args:
        in_channels: of the map. out_channels: of the image.
        style_features: elements of a sample's latent w.
        kernel_size: odd.
        conv_clamp: the result is limited to ±conv_clamp; None: no limit.

    Raises:
        ValueError: for arguments out of range, and inputs that do not fit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        style_features: int,
        kernel_size: int = 1,
        *,
        conv_clamp: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, style_features, conv_clamp, device, dtype)
        self.weight_gain = 1 / (kernel_size * math.sqrt(in_channels))
        self.reset_parameters()

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(B, in_channels, H, W) and (B, style_features) → (B, out_channels, H, W)."""
        return modulated_conv2d(
            x, self.weight, self.styles(x, w) * self.weight_gain, padding=self.kernel_size // 2, demodulate=False,
            bias=self.bias, clamp=self.conv_clamp,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return self._describe_sizes()


class FromRGB(EqualizedConv2d):
    """StyleGAN2's input layer: an `EqualizedConv2d` of a single pixel with its activation.

    Args:
        in_channels: of the image. out_channels: of the map.
        activation, negative_slope, conv_clamp: as in `EqualizedConv2d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        activation: str = "leaky_relu",
        negative_slope: float = 0.2,
        conv_clamp: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            1,
            activation=activation,
            negative_slope=negative_slope,
            conv_clamp=conv_clamp,
            device=device,
            dtype=dtype,
        )
