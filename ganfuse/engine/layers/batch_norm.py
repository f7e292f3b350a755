"""Batch normalisation with its activation, plain and conditional (Ioffe & Szegedy 2015; Dumoulin et al. 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Not _BatchNorm: SyncBatchNorm.convert_sync_batchnorm would turn subclasses of that into layers that have lost the
# activation and the condition.
from torch.nn.modules.batchnorm import _NormBase

from ganfuse.engine.layers.activation import activate_fresh, check_activation


class _BatchNormBase(_NormBase):
    """Buffers, running statistics and the call of F.batch_norm that the two layers share; state as nn.BatchNorm2d."""

    def __init__(
        self,
        num_features: int,
        *,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        activation: str,
        negative_slope: float,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.activation = check_activation(activation)
        self.negative_slope = negative_slope

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"x: expected (B, {self.num_features}, H, W), got {tuple(x.shape)}")

    def _batch_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        use_batch = self.training or self.running_mean is None
        return F.batch_norm(x, self.running_mean, self.running_var, weight, bias, use_batch, momentum or 0.0, self.eps)

    def extra_repr(self) -> str:
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, activation={self.activation!r}{slope}"


class BatchNormAct2d(_BatchNormBase):
    """`torch.nn.BatchNorm2d` followed by an activation; the same state_dict.

    Args:
        num_features: channels C of the input (B, C, H, W).
        eps, momentum, affine, track_running_stats: as in `torch.nn.BatchNorm2d`.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky ReLU.

    Raises:
        ValueError: for arguments out of range, an input of another shape, and one value per channel in training.
    """

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        activation: str = "none",
        negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            affine=affine,
            track_running_stats=track_running_stats,
            activation=activation,
            negative_slope=negative_slope,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        self._check_input(x)
        return activate_fresh(self._batch_norm(x, self.weight, self.bias), self.activation, self.negative_slope)


class ConditionalBatchNorm2d(_BatchNormBase):
    """Batch normalisation whose gain and bias depend on the sample, followed by an activation.

    ``y = act((1 + gain(c)) · (x − mean) / sqrt(var + eps) + bias(c))``, with ``gain`` and ``bias`` embeddings of a
    label (SAGAN) or bias-free linear maps of a conditioning vector (BigGAN, Brock et al. 2019, appendix B). Both start
    at zero, so that a new layer is plain batch normalisation.

    Args:
        num_features: channels C of the input (B, C, H, W).
        num_classes: the condition is an integer label in [0, num_classes), shape (B,).
        condition_features: the condition is a vector, shape (B, condition_features). Exactly one of the two is given.
        eps, momentum: as in `torch.nn.BatchNorm2d`, whose running statistics it keeps under the same names.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky ReLU.

    Raises:
        ValueError: for arguments out of range, and inputs whose shapes or types do not fit.
    """

    gain: nn.Module
    bias: nn.Module  # type: ignore[assignment]  # BigGAN-PyTorch's name for it, where nn.BatchNorm2d has a parameter

    def __init__(
        self,
        num_features: int,
        *,
        num_classes: int | None = None,
        condition_features: int | None = None,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        activation: str = "none",
        negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_classes is None and condition_features is None:
            raise ValueError(
                "ConditionalBatchNorm2d needs num_classes or condition_features; without a condition use BatchNormAct2d"
            )
        if num_classes is not None and condition_features is not None:
            raise ValueError("ConditionalBatchNorm2d takes num_classes or condition_features, not both")
        for key, value in (("num_classes", num_classes), ("condition_features", condition_features)):
            if value is not None and value < 1:
                raise ValueError(f"{key} must be at least 1, got {value}")
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            affine=False,
            track_running_stats=True,
            activation=activation,
            negative_slope=negative_slope,
            device=device,
            dtype=dtype,
        )
        del self.weight, self.bias
        self.num_classes = num_classes
        self.condition_features = condition_features
        for name in ("gain", "bias"):
            layer: nn.Embedding | nn.Linear
            if num_classes is not None:
                layer = nn.Embedding(num_classes, num_features, device=device, dtype=dtype)
            else:
                assert condition_features is not None
                layer = nn.Linear(condition_features, num_features, bias=False, device=device, dtype=dtype)
            nn.init.zeros_(layer.weight)
            setattr(self, name, layer)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        self._check_input(x)
        self._check_condition(condition, x.shape[0])
        normalised = self._batch_norm(x, None, None)
        # In the activation's type, since float32 gains would promote a half precision feature map to float32.
        gain = (1 + self.gain(condition)).to(normalised.dtype)[:, :, None, None]
        bias = self.bias(condition).to(normalised.dtype)[:, :, None, None]
        return activate_fresh(torch.addcmul(bias, normalised, gain), self.activation, self.negative_slope)

    def _check_condition(self, condition: Tensor, batch: int) -> None:
        if self.num_classes is not None:
            if condition.shape != (batch,) or condition.dtype not in (torch.int64, torch.int32):
                raise ValueError(
                    f"condition: expected int64 labels of shape ({batch},), "
                    f"got {condition.dtype} {tuple(condition.shape)}"
                )
        elif condition.shape != (batch, self.condition_features) or not condition.is_floating_point():
            raise ValueError(
                f"condition: expected floats of shape ({batch}, {self.condition_features}), "
                f"got {condition.dtype} {tuple(condition.shape)}"
            )

    def extra_repr(self) -> str:
        of = f"num_classes={self.num_classes}" if self.num_classes else f"condition_features={self.condition_features}"
        return f"{super().extra_repr()}, {of}"
