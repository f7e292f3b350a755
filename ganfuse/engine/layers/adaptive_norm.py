"""Normalisation whose gain and bias come from elsewhere: AdaIN, AdaLIN; and ILN, AdaLIN with parameters of its own."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ganfuse.engine.layers.activation import check_activation, describe_activation
from ganfuse.engine.layers.clipped_parameters import UnitIntervalParameter
from ganfuse.engine.layers.norm_act import NormAct2d, check_map, check_positive
from ganfuse.kernels import Prologue, instance_norm_act, layer_instance_norm_act


class AdaIN2d(NormAct2d):
    """Adaptive instance normalisation, followed by an activation (Huang & Belongie 2017; Karras et al. 2019, eq. 1).

    ``y = act((1 + gain(s)) · (x − mean) / sqrt(var + eps) + bias(s))``, where ``gain(s)`` and ``bias(s)`` are the two
    halves of one linear map of the sample's style vector, and mean and variance those of each channel of each sample.

    With `noise`, `prologue_bias` and `prologue_activation`, x is first made ``act'(x + noise · noise_strength +
    prologue_bias)``: all that a StyleGAN layer does behind its convolution is one call then,
    ``AdaIN2d(C, 512, eps=1e-8, noise=True, prologue_bias=True, prologue_activation="leaky_relu")``.

    Args:
        num_features: channels C of the input (B, C, H, W).
        style_features: elements of the style vector.
        eps: added to the variance.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky ReLU.
        linear: makes the linear map from its numbers of inputs and outputs; `torch.nn.Linear` with bias 0 by default.
        noise: whether there is a parameter `noise_strength`, (C,) from 0, and noise that it multiplies.
        prologue_bias: whether there is a parameter `prologue_bias`, (C,) from 0.
        prologue_activation, prologue_negative_slope: likewise before the statistics.

    Raises:
        ValueError: for arguments out of range, and inputs whose shapes do not fit.
    """

    style: nn.Module
    noise_strength: nn.Parameter | None
    prologue_bias: nn.Parameter | None

    def __init__(
        self,
        num_features: int,
        style_features: int,
        *,
        eps: float = 1e-5,
        activation: str = "none",
        negative_slope: float = 0.2,
        linear: Callable[[int, int], nn.Module] | None = None,
        noise: bool = False,
        prologue_bias: bool = False,
        prologue_activation: str = "none",
        prologue_negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(num_features=num_features, style_features=style_features)
        self.num_features = num_features
        self.style_features = style_features
        self.eps = eps
        self._set_activation(activation, negative_slope)
        self.prologue_activation = check_activation(prologue_activation, "prologue_activation")
        self.prologue_negative_slope = prologue_negative_slope
        for name, there in (("noise_strength", noise), ("prologue_bias", prologue_bias)):
            value = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype)) if there else None
            self.register_parameter(name, value)
        if linear is not None:
            self.style = linear(style_features, 2 * num_features)
        else:
            layer = nn.Linear(style_features, 2 * num_features, device=device, dtype=dtype)
            nn.init.zeros_(layer.bias)
            self.style = layer

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None = None) -> Tensor:
        """(B, C, H, W) and (B, style_features) → (B, C, H, W).

        Args:
            noise: (B, 1, H, W) or (1, 1, H, W), of a layer that has noise; None draws it anew for each sample, standard
                normal.
        """
        check_map(x, self.num_features)
        if style.shape != (x.shape[0], self.style_features) or not style.is_floating_point():
            raise ValueError(
                f"style: expected floats of shape ({x.shape[0]}, {self.style_features}), "
                f"got {style.dtype} {tuple(style.shape)}"
            )
        gain, bias = self.style(style).chunk(2, 1)
        # Under autocast a linear layer's result is bfloat16, whose steps around 1 are of 1/128.
        precise = torch.promote_types(gain.dtype, torch.float32)
        return instance_norm_act(x, 1 + gain.to(precise), bias, prologue=self._prologue(x, noise), **self._options())

    def _prologue(self, x: Tensor, noise: Tensor | None) -> Prologue | None:
        if self.noise_strength is None:
            if noise is not None:
                raise ValueError("noise: this layer has none (noise=False), so expected None, got a tensor")
            if self.prologue_bias is None and self.prologue_activation == "none":
                return None
        elif noise is None:
            dtype = torch.promote_types(x.dtype, torch.float32)
            noise = torch.randn((x.shape[0], 1, *x.shape[2:]), device=x.device, dtype=dtype)
        return Prologue(
            noise, self.noise_strength, self.prologue_bias, self.prologue_activation, self.prologue_negative_slope
        )

    def extra_repr(self) -> str:
        parts = [f"{self.num_features}, {self.style_features}, eps={self.eps}", self._describe_activation()]
        parts += ["noise=True"] if self.noise_strength is not None else []
        parts += ["prologue_bias=True"] if self.prologue_bias is not None else []
        if self.prologue_activation != "none":
            parts.append(describe_activation(self.prologue_activation, self.prologue_negative_slope, "prologue_"))
        return ", ".join(parts)


class _LayerInstanceNorm2d(NormAct2d, UnitIntervalParameter):
    """What AdaLIN and ILN share: rho, and reading the shape (1, C, 1, 1) that other codebases give to parameters."""

    def __init__(
        self,
        num_features: int,
        *,
        rho: float = 0.9,
        eps: float = 1e-5,
        unbiased: bool = True,
        activation: str = "none",
        negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_positive(num_features=num_features)
        if not 0.0 <= rho <= 1.0:
            raise ValueError(f"rho must be in [0, 1], got {rho!r}")
        self.num_features = num_features
        self.eps = eps
        self.unbiased = unbiased
        self._set_activation(activation, negative_slope)
        self.rho = nn.Parameter(torch.full((num_features,), rho, device=device, dtype=dtype))

    def _layer_instance_norm(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        check_map(x, self.num_features)
        return layer_instance_norm_act(x, self.rho, gain, bias, unbiased=self.unbiased, **self._options())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        state = dict(state_dict)
        for name in self._parameters:
            value = state.get(prefix + name)
            if isinstance(value, Tensor) and value.shape == (1, self.num_features, 1, 1):
                state[prefix + name] = value.reshape(self.num_features)
        super()._load_from_state_dict(state, prefix, *rest)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, unbiased={self.unbiased}, {self._describe_activation()}"


class AdaLIN2d(_LayerInstanceNorm2d):
    """Adaptive layer-instance normalisation, followed by an activation (Kim et al. 2020, "U-GAT-IT", eq. 1).

    ``y = act(gain · (rho · IN(x) + (1 − rho) · LN(x)) + bias)`` with one learnt rho per channel, which every optimiser
    step leaves in [0, 1] (see `ganfuse.engine.layers.clipped_parameters`).

    Args:
        num_features: channels C of the input (B, C, H, W).
        rho: its initial value; 0.9 in U-GAT-IT.
        eps: added to both variances.
        unbiased: divide sums of squares by N − 1, as the authors' PyTorch code does (their TensorFlow code: by N).
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky ReLU.

    Raises:
        ValueError: for arguments out of range, and inputs whose shapes do not fit.
    """

    def forward(self, x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
        """(B, C, H, W), and gain and bias (B, C) → (B, C, H, W)."""
        check_map(x, self.num_features)
        for name, value in (("gain", gain), ("bias", bias)):
            if value.shape != (x.shape[0], self.num_features):
                raise ValueError(f"{name}: expected ({x.shape[0]}, {self.num_features}), got {tuple(value.shape)}")
        return self._layer_instance_norm(x, gain, bias)


class ILN2d(_LayerInstanceNorm2d):
    """Layer-instance normalisation with a learnt gain and bias per channel, followed by an activation.

    The normalisation of U-GAT-IT's up-sampling blocks (Kim et al. 2020): `AdaLIN2d` with parameters of its own,
    ``weight`` from 1 and ``bias`` from 0.

    Args:
        num_features: channels C of the input (B, C, H, W).
        rho: its initial value; 0, layer normalisation, in U-GAT-IT.
        eps, unbiased, activation, negative_slope: as in `AdaLIN2d`.

    Raises:
        ValueError: for arguments out of range, and an input of another shape.
    """

    def __init__(
        self,
        num_features: int,
        *,
        rho: float = 0.0,
        eps: float = 1e-5,
        unbiased: bool = True,
        activation: str = "none",
        negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            rho=rho,
            eps=eps,
            unbiased=unbiased,
            activation=activation,
            negative_slope=negative_slope,
            device=device,
            dtype=dtype,
        )
        self.weight = nn.Parameter(torch.ones(num_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(num_features, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        return self._layer_instance_norm(x, self.weight, self.bias)
