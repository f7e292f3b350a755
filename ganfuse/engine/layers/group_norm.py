"""Group normalisation with its activation (Wu & He 2018, arXiv 1803.08494)."""

import torch
from torch import Tensor, nn

from ganfuse.engine.layers.norm_act import NormAct2d, check_map, take_over
from ganfuse.kernels import group_norm_act


class GroupNormAct2d(NormAct2d, nn.GroupNorm):
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
        self._set_activation(activation, negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        check_map(x, self.num_channels)
        return group_norm_act(x, self.num_groups, self.weight, self.bias, **self._options())

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
        return take_over(new, module)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self._describe_activation()}"
