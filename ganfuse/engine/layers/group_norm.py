"""Group normalisation with its activation (Wu & He 2018, arXiv 1803.08494)."""

import torch
from torch import Tensor, nn

from ganfuse.engine.layers.activation import check_activation, describe_activation
from ganfuse.kernels import group_norm_act


class GroupNormAct2d(nn.GroupNorm):
    """`torch.nn.GroupNorm` on feature maps, followed by an activation; the same state_dict.

    Args:
        num_groups: into how many groups the channels are split; divides num_channels. With 1 it is layer normalisation
            over channels and positions.
        num_channels: channels C of the input (B, C, H, W).
        eps: added to the variance.
        affine: whether to learn a gain and a bias for each channel.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky ReLU.

    Raises:
        ValueError: for arguments out of range, and an input of another shape.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        *,
        eps: float = 1e-5,
        affine: bool = True,
        activation: str = "none",
        negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_channels < 1 or num_groups < 1 or num_channels % num_groups:
            raise ValueError(f"num_groups must divide num_channels, {num_channels}, got {num_groups}")
        super().__init__(num_groups, num_channels, eps, affine, device=device, dtype=dtype)
        self.activation = check_activation(activation)
        self.negative_slope = negative_slope

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        if x.dim() != 4 or x.shape[1] != self.num_channels:
            raise ValueError(f"x: expected (B, {self.num_channels}, H, W), got {tuple(x.shape)}")
        return group_norm_act(
            x,
            self.num_groups,
            self.weight,
            self.bias,
            eps=self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
        )

    @classmethod
    def from_torch(
        cls, module: nn.GroupNorm, *, activation: str = "none", negative_slope: float = 0.2
    ) -> "GroupNormAct2d":
        """A layer that takes over a PyTorch layer's parameters: the same objects, so optimisers stay valid.

        Raises:
            ValueError: `module` is another layer.
        """
        if not isinstance(module, nn.GroupNorm):
            raise ValueError(f"module: expected nn.GroupNorm, got {type(module).__name__}")
        new = cls(
            module.num_groups,
            module.num_channels,
            eps=module.eps,
            affine=module.affine,
            activation=activation,
            negative_slope=negative_slope,
            device="meta",
        )
        new._parameters.update(module._parameters)
        return new.train(module.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {describe_activation(self.activation, self.negative_slope)}"
