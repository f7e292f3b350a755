"""Layers with an equalised learning rate (Karras et al. 2018, "Progressive Growing of GANs", section 4.1).

Weights start from N(0, 1) and are scaled whenever they are used, by He's constant gain/√fan_in, so that optimisers
which normalise their steps, such as Adam, move all of them at the same relative speed. With a `lr_multiplier` λ they
start from N(0, 1/λ²) and are scaled by λ more, biases too: the same function, learnt λ times as slowly (Karras et al.
2019, "A Style-Based Generator", appendix C).

ProGAN has ``gain=√2`` and ``activation_gain=1``; StyleGAN likewise, with ``lr_multiplier=0.01`` in its mapping network;
StyleGAN2 has ``gain=1``, and factors behind its activations, √2 for the leaky ReLU, which are the defaults here.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers.activation import bias_act_name
from ganfuse.kernels import bias_act, conv2d_downsample, setup_filter, upsample_conv2d
from ganfuse.kernels.backend import exporting
from ganfuse.kernels.bias_act.reference import ACTIVATIONS
from ganfuse.kernels.conv2d_resample import conv2d_resample
from ganfuse.kernels.precision import arithmetic_dtype

#: Types in which a number times a weight's scale loses nothing.
_WIDE = (torch.float32, torch.float64)


class _Equalized(nn.Module):
    """The parameters, their scales, and what follows the product: bias, activation, gain, clamp."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: bool,
        activation: str,
        negative_slope: float,
        gain: float,
        activation_gain: float | None,
        lr_multiplier: float,
        bias_init: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if not lr_multiplier > 0:
            raise ValueError(f"lr_multiplier must be positive, got {lr_multiplier!r}")
        for name, value in (("gain", gain), ("activation_gain", activation_gain), ("bias_init", bias_init)):
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}")
        self.activation = activation
        self.negative_slope = negative_slope
        self.gain = gain
        self.lr_multiplier = lr_multiplier
        self.bias_init = bias_init
        self.act = bias_act_name(activation)
        self.activation_gain = ACTIVATIONS[self.act].gain if activation_gain is None else activation_gain
        self.weight_scale = gain / math.sqrt(math.prod(shape[1:])) * lr_multiplier
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(shape[0], device=device, dtype=dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights from N(0, 1/lr_multiplier²); biases that are `bias_init` once they are scaled."""
        nn.init.normal_(self.weight, std=1.0 / self.lr_multiplier)
        if self.bias is not None:
            nn.init.constant_(self.bias, self.bias_init / self.lr_multiplier)

    def scaled_bias(self) -> Tensor | None:
        if self.bias is None or self.lr_multiplier == 1.0:
            return self.bias
        return self.bias * self.lr_multiplier

    def is_linear(self, gain: float, clamp: float | None) -> bool:
        """Whether nothing follows the bias."""
        return self.act == "linear" and self.activation_gain * gain == 1.0 and clamp is None

    def activated(self, y: Tensor, bias: Tensor | None, gain: float, clamp: float | None, dim: int = 1) -> Tensor:
        """clamp(gain · act(y + bias)) in one pass."""
        if bias is None and self.is_linear(gain, clamp):
            return y
        if bias is not None and bias.dtype != torch.float32:
            bias = bias.to(y.dtype)
        alpha = self.negative_slope if self.act == "lrelu" else None
        limit = None if clamp is None else clamp * gain
        return bias_act(y, bias, dim, self.act, alpha, self.activation_gain * gain, limit)

    def describe(self) -> str:
        slope = f", negative_slope={self.negative_slope}" if self.act == "lrelu" else ""
        return (
            f"bias={self.bias is not None}, activation={self.activation!r}{slope}, gain={self.gain:.6g}, "
            f"activation_gain={self.activation_gain:.6g}, lr_multiplier={self.lr_multiplier}"
        )


class EqualizedLinear(_Equalized):
    """A linear layer with an equalised learning rate and an activation behind it.

    ``activation_gain · act(x · (weight · gain · lr_multiplier / √in_features)ᵀ + bias · lr_multiplier)``; the names and
    the meaning of StyleGAN2-ADA's FullyConnectedLayer, whose state dict fits.

    Args:
        in_features, out_features, bias: as in nn.Linear.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"``, ``"silu"``, or one of `ganfuse.kernels.bias_act`'s.
        negative_slope: of the leaky ReLU.
        gain: numerator of the weight's scale.
        activation_gain: factor of the activation; None: `bias_act`'s, √2 for ReLU, leaky ReLU and SiLU, else 1.
        lr_multiplier: λ of this module's description.
        bias_init: what the scaled bias starts from.

    Raises:
        ValueError: for arguments out of range, and an input that does not fit.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        activation: str = "none",
        negative_slope: float = 0.2,
        gain: float = 1.0,
        activation_gain: float | None = None,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_positive(in_features=in_features, out_features=out_features)
        super().__init__(
            (out_features, in_features), bias, activation, negative_slope, gain, activation_gain, lr_multiplier,
            bias_init, device, dtype,
        )  # fmt: skip
        self.in_features = in_features
        self.out_features = out_features

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) → (..., out_features), in x's type or autocast's."""
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"x: expected (..., {self.in_features}), got {tuple(x.shape)}")
        rows = x.reshape(-1, self.in_features)
        dtype = arithmetic_dtype(x)
        weight = self.weight.to(dtype).t()
        alpha = self.weight_scale
        if self.bias is None or dtype in _WIDE:
            # A factor of the product would be one of the weight's gradient, too, which is larger than the rows are.
            rows, alpha = rows * alpha, 1.0
        if self.bias is None:
            y = torch.mm(rows, weight)
        else:
            y = torch.addmm(self.bias.to(dtype), rows, weight, beta=self.lr_multiplier, alpha=alpha)
        return self.activated(y, None, 1.0, None).reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.describe()}"


class EqualizedConv2d(_Equalized):
    """A convolution with an equalised learning rate, filtered up- or downsampling, and an activation behind it.

    Names and meaning of StyleGAN2-ADA's Conv2dLayer, whose state dict fits. With ``resample_filter=(1, 1)``, the
    upsampling is the nearest neighbour's and the downsampling 2×2 means, as in ProGAN, at the cost of the low
    resolution (`ganfuse.kernels.upsample_conv2d`).

    Args:
        in_channels, out_channels, kernel_size, bias: as in nn.Conv2d.
        padding: around the (upsampled) map; None: kernel_size // 2, which keeps the size if `kernel_size` is odd.
        up, down: factors, before and after the convolution.
        resample_filter: taps of the filter that goes with them (`ganfuse.kernels.setup_filter`), kept as a buffer.
            None, without `up` and `down`, keeps none.
        conv_clamp: the result is limited to ±conv_clamp; None: no limit.
        activation, negative_slope, gain, activation_gain, lr_multiplier, bias_init: as in `EqualizedLinear`; the
            weight's scale is gain · lr_multiplier / (kernel_size · √in_channels).

    Raises:
        ValueError: for arguments out of range, and an input that does not fit.
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        *,
        padding: int | None = None,
        up: int = 1,
        down: int = 1,
        resample_filter: Sequence[float] | None = (1, 3, 3, 1),
        conv_clamp: float | None = None,
        activation: str = "none",
        negative_slope: float = 0.2,
        gain: float = 1.0,
        activation_gain: float | None = None,
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_positive(
            in_channels=in_channels, out_channels=out_channels, kernel_size=kernel_size, up=up, down=down
        )  # fmt: skip
        if padding is not None and (isinstance(padding, bool) or not isinstance(padding, int) or padding < 0):
            raise ValueError(f"padding must be a whole number of at least 0 or None, got {padding!r}")
        if conv_clamp is not None and not conv_clamp >= 0:
            raise ValueError(f"conv_clamp must be at least 0 or None, got {conv_clamp!r}")
        super().__init__(
            (out_channels, in_channels, kernel_size, kernel_size), bias, activation, negative_slope, gain,
            activation_gain, lr_multiplier, bias_init, device, dtype,
        )  # fmt: skip
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.padding = kernel_size // 2 if padding is None else padding
        self.up = up
        self.down = down
        self.conv_clamp = conv_clamp
        taps = None if resample_filter is None else tuple(float(t) for t in resample_filter)
        self._box = taps is not None and len(taps) == 2 and taps[0] == taps[1] != 0
        if (up, down) != (1, 1) and taps is None:
            raise ValueError("resample_filter: expected the taps of a filter to go with up or down, got None")
        self._halves = self._box and kernel_size in (1, 3) and self.padding == kernel_size // 2
        self._halves = self._halves and sorted((up, down)) == [1, 2]
        # Made on the CPU, for on the meta device the taps would have no values to check.
        with torch.device("cpu"):
            buffer = None if taps is None or self._halves else setup_filter(taps)
        self.register_buffer("resample_filter", None if buffer is None else buffer.to(self.weight.device))

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """(B, in_channels, H, W) → (B, out_channels, H · up / down, W · up / down), in x's type or autocast's.

        Args:
            gain: factor of the result and of `conv_clamp`, such as √½ in front of a sum of two.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"x: expected (B, {self.in_channels}, H, W), got {tuple(x.shape)}")
        dtype = arithmetic_dtype(x)
        # What is smaller is scaled, and its gradient. An exported graph takes any number of images.
        if dtype == self.weight.dtype and dtype in _WIDE and not exporting() and x.numel() < self.weight.numel():
            weight: Tensor = self.weight
            x = x * self.weight_scale
        else:
            weight, x = (self.weight * self.weight_scale).to(dtype), x.to(dtype)
        bias = self.scaled_bias()
        plain = (self.up, self.down) == (1, 1)
        # Convolutions on CPUs add a bias for nothing.
        if (plain or self._halves) and (x.device.type == "cpu" or self.is_linear(gain, self.conv_clamp)):
            own, bias = (None if bias is None else bias.to(weight.dtype)), None
        else:
            own = None
        if plain:
            y = F.conv2d(x, weight, own, padding=self.padding)
        elif self._halves:
            y = (upsample_conv2d if self.up == 2 else conv2d_downsample)(x, weight, own)
        else:
            # A module in half precision has its buffers so; filters are float32.
            f = None if self.resample_filter is None else self.resample_filter.float()
            y = conv2d_resample(x, weight, f, self.up, self.down, self.padding)
        return self.activated(y, bias, gain, self.conv_clamp)

    def extra_repr(self) -> str:
        resampling = f", up={self.up}" if self.up > 1 else ""
        resampling += f", down={self.down}" if self.down > 1 else ""
        clamp = "" if self.conv_clamp is None else f", conv_clamp={self.conv_clamp}"
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, padding={self.padding}"
            f"{resampling}{clamp}, {self.describe()}"
        )


def _check_positive(**sizes: int) -> None:
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
