"""How a system makes its layers: initialisation, spectral normalisation, activation and the small numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.engine.layers import (
    BatchNormAct2d,
    ConditionalBatchNorm2d,
    Conv2dDownsample,
    SelfAttention2d,
    UpsampleConv2d,
    spectral_norm,
)

__all__ = ["LayerFactory", "orthogonal_"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_SLOPE = 0.2


def orthogonal_(weight: Tensor) -> Tensor:
    """`nn.init.orthogonal_` (Saxe et al. 2014, arXiv 1312.6120) for a weight of any memory format."""
    with torch.no_grad():
        return weight.copy_(nn.init.orthogonal_(torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)))


@dataclass(frozen=True)
class LayerFactory:
    """Makes the layers of a system's networks, all in one manner.

    Attributes:
        init: fills every weight in place; biases begin at 0. Xavier's (Glorot & Bengio 2010) by default.
        spectral: normalise the weights spectrally.
        spectral_eps: smallest norm that the normalisation divides by.
        norm_eps: of batch normalisation.
        activation: "relu" or "leaky_relu", the latter with slope 0.2.
    """

    init: Callable[[Tensor], object] = nn.init.xavier_uniform_
    spectral: bool = True
    spectral_eps: float = 1e-12
    norm_eps: float = 1e-5
    activation: str = "relu"

    def conv2d(self, inputs: int, outputs: int, kernel_size: int, *, stride: int = 1) -> nn.Conv2d:
        """A convolution that keeps the size, or divides it by the stride, in channels_last.

        In this layout a training step of SAGAN is 1.3 times as fast on a CPU, and GPUs want it for their tensor cores.
        """
        return self._convolution(nn.Conv2d(inputs, outputs, kernel_size, stride, padding=(kernel_size - 1) // 2))

    def upsample_conv2d(self, inputs: int, outputs: int, kernel_size: int) -> UpsampleConv2d:
        """A convolution behind a ×2 nearest upsampling."""
        return self._convolution(UpsampleConv2d(inputs, outputs, kernel_size))

    def conv2d_downsample(self, inputs: int, outputs: int, kernel_size: int) -> Conv2dDownsample:
        """A convolution in front of a 2×2 mean."""
        return self._convolution(Conv2dDownsample(inputs, outputs, kernel_size))

    def conv_transpose2d(self, inputs: int, outputs: int) -> nn.ConvTranspose2d:
        """A transposed convolution, 4×4 with stride 2, that doubles the size."""
        return self._convolution(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1))

    def linear(self, inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
        """A linear layer."""
        return self._begun(nn.Linear(inputs, outputs, bias=bias))

    def embedding(self, classes: int, features: int, *, spectral: bool = True) -> nn.Embedding:
        """An embedding of labels; `spectral=False` leaves this one as it is."""
        return self._begun(nn.Embedding(classes, features), spectral=spectral)

    def attention(self, channels: int, *, pool_keys: bool = True) -> SelfAttention2d:
        """SAGAN's attention layer."""
        layer = SelfAttention2d(channels, pool_keys=pool_keys)
        for conv in layer.children():
            self._begun(conv)
        return layer

    def batch_norm(
        self, features: int, *, num_classes: int | None = None, condition_features: int | None = None
    ) -> BatchNormAct2d | ConditionalBatchNorm2d:
        """Batch normalisation and the activation: on a label's embedding, on a vector's linear maps, or on nothing.

        The embeddings begin at 0, as in SAGAN; the maps begin like all weights and are normalised like them.
        """
        if num_classes is None and condition_features is None:
            return BatchNormAct2d(features, eps=self.norm_eps, activation=self.activation, negative_slope=_SLOPE)
        layer = ConditionalBatchNorm2d(
            features,
            num_classes=num_classes,
            condition_features=condition_features,
            eps=self.norm_eps,
            activation=self.activation,
            negative_slope=_SLOPE,
        )
        if condition_features is not None:
            self._begun(layer.gain)
            self._begun(layer.bias)
        return layer

    def activate(self, x: Tensor, *, inplace: bool = False) -> Tensor:
        """The activation alone."""
        return F.relu(x, inplace) if self.activation == "relu" else F.leaky_relu(x, _SLOPE, inplace)

    def _convolution(self, conv: ModuleT) -> ModuleT:
        conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self._begun(conv)

    def _begun(self, layer: ModuleT, *, spectral: bool = True) -> ModuleT:
        self.init(layer.get_parameter("weight"))
        if getattr(layer, "bias", None) is not None:
            nn.init.zeros_(layer.get_parameter("bias"))
        if not (self.spectral and spectral):
            return layer
        return spectral_norm(layer, eps=self.spectral_eps)
