"""Instance normalisation with its activation (Ulyanov et al. 2016, arXiv 1607.08022)."""

import torch
from torch import Tensor, nn

from ganfuse.engine.layers.norm_act import NormAct2d, check_map, check_positive, take_over
from ganfuse.kernels import instance_norm_act


class InstanceNormAct2d(NormAct2d, nn.InstanceNorm2d):
    """`torch.nn.InstanceNorm2d` without running statistics, followed by an activation; the same state_dict.

    Unlike PyTorch's it keeps channels_last.

    Args:
        num_features: channels C of the input (B, C, H, W).
        eps: added to the variance.
        affine: whether to learn a gain and a bias for each channel.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky ReLU.

    Raises:
        ValueError: for arguments out of range, and an input of another shape.
    """

    def __init__(
        self,
        num_features: int,
        *,
        eps: float = 1e-5,
        affine: bool = False,
        activation: str = "none",
        negative_slope: float = 0.2,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_positive(num_features=num_features)
        super().__init__(num_features, eps, affine=affine, device=device, dtype=dtype)
        self._set_activation(activation, negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        check_map(x, self.num_features)
        return instance_norm_act(x, self.weight, self.bias, **self._options())

    @classmethod
    def from_torch(
        cls, module: nn.InstanceNorm2d, *, activation: str = "none", negative_slope: float = 0.2
    ) -> "InstanceNormAct2d":
        """A layer that takes over a PyTorch layer's parameters: the same objects, so optimisers stay valid.

        Raises:
            ValueError: `module` is another layer, or tracks running statistics.
        """
        if not isinstance(module, nn.InstanceNorm2d):
            raise ValueError(f"module: expected nn.InstanceNorm2d, got {type(module).__name__}")
        if module.track_running_stats:
            raise ValueError("module: instance normalisation by running statistics (track_running_stats) is not built")
        new = cls(
            module.num_features,
            eps=module.eps,
            affine=module.affine,
            activation=activation,
            negative_slope=negative_slope,
            device="meta",
        )
        return take_over(new, module)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}, {self._describe_activation()}"
