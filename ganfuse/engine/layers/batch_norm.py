"""Batch normalisation with its activation, plain and conditional (Ioffe & Szegedy 2015; Dumoulin et al. 2017)."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Not _BatchNorm: SyncBatchNorm.convert_sync_batchnorm would turn subclasses of that into layers that have lost the
# activation and the condition.
from torch.nn.modules.batchnorm import _NormBase

from ganfuse.engine.layers.norm_act import NormAct2d, check_map, check_positive, take_over
from ganfuse.engine.layers.process_group import InProcessGroup
from ganfuse.kernels import batch_norm_act


class _BatchNormBase(InProcessGroup, NormAct2d, _NormBase):
    """Buffers, running statistics and the call of the kernel that the two layers share; state as nn.BatchNorm2d."""

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
        process_group: Any,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        check_positive(num_features=num_features)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self._set_activation(activation, negative_slope)
        self.process_group = process_group

    def _batch_norm(self, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
        momentum = self.momentum
        # Once each: modules look their tensors up in Python, which on small maps is a share of a layer's time.
        batches = self.num_batches_tracked
        if self.training and batches is not None:
            batches.add_(1)
            if momentum is None:
                # The average of all batches so far. (Reading the count waits for the device, as in PyTorch.)
                momentum = 1.0 / float(batches)
        return batch_norm_act(
            x,
            gain,
            bias,
            self.running_mean,
            self.running_var,
            training=self.training,
            momentum=0.0 if momentum is None else momentum,
            eps=self.eps,
            activation=self.activation,
            negative_slope=self.negative_slope,
            process_group=self.process_group,
        )

    def extra_repr(self) -> str:
        group = "" if self.process_group is None else ", synchronised"
        activation = self._describe_activation()
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, {activation}{group}"


class BatchNormAct2d(_BatchNormBase):
    """`torch.nn.BatchNorm2d` followed by an activation; the same state_dict.

    Args:
        num_features: channels C of the input (B, C, H, W).
        eps, momentum, affine, track_running_stats: as in `torch.nn.BatchNorm2d`.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` or ``"silu"``.
        negative_slope: of the leaky ReLU.
        process_group: a `torch.distributed` group whose processes hold parts of one batch, over all of which training
            takes its statistics; twice differentiable, unlike `torch.nn.SyncBatchNorm`. None: this process alone. May
            be set on the layer later.

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
        process_group: Any = None,
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
            process_group=process_group,
            device=device,
            dtype=dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        check_map(x, self.num_features)
        return self._batch_norm(x, self.weight, self.bias)

    @classmethod
    def from_torch(
        cls, module: nn.BatchNorm2d | nn.SyncBatchNorm, *, activation: str = "none", negative_slope: float = 0.2
    ) -> "BatchNormAct2d":
        """A layer that takes over a PyTorch layer's parameters and buffers: the same objects, so optimisers stay valid.

        Raises:
            ValueError: `module` is another layer, or synchronised without a process group before there is any.
        """
        if not isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
            raise ValueError(f"module: expected nn.BatchNorm2d or nn.SyncBatchNorm, got {type(module).__name__}")
        group = None
        if isinstance(module, nn.SyncBatchNorm):
            group = module.process_group
            if group is None:
                if not (dist.is_available() and dist.is_initialized()):
                    raise ValueError(
                        "module: a SyncBatchNorm of all processes needs torch.distributed to be initialised"
                    )
                group = dist.group.WORLD
        new = cls(
            module.num_features,
            eps=module.eps,
            momentum=module.momentum,
            affine=module.affine,
            track_running_stats=module.track_running_stats,
            activation=activation,
            negative_slope=negative_slope,
            process_group=group,
            device="meta",
        )
        return take_over(new, module)


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
        process_group: a `torch.distributed` group whose processes hold parts of one batch, over all of which training
            takes its statistics; twice differentiable, unlike `torch.nn.SyncBatchNorm`. None: this process alone. May
            be set on the layer later.

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
        process_group: Any = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if num_classes is None and condition_features is None:
            raise ValueError(
                "ConditionalBatchNorm2d needs num_classes or condition_features; without a condition use BatchNormAct2d"
            )
        if num_classes is not None and condition_features is not None:
            raise ValueError("ConditionalBatchNorm2d takes num_classes or condition_features, not both")
        conditions = {"num_classes": num_classes, "condition_features": condition_features}
        check_positive(**{name: value for name, value in conditions.items() if value is not None})
        super().__init__(
            num_features,
            eps=eps,
            momentum=momentum,
            affine=False,
            track_running_stats=True,
            activation=activation,
            negative_slope=negative_slope,
            process_group=process_group,
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
        """(B, C, H, W) and a condition for each sample → (B, C, H, W)."""
        check_map(x, self.num_features)
        self._check_condition(condition, x.shape[0])
        gain, bias = self.gain(condition), self.bias(condition)
        # Under autocast a linear layer's result is bfloat16, whose steps around 1 are of 1/128.
        precise = torch.promote_types(gain.dtype, torch.float32)
        return self._batch_norm(x, 1 + gain.to(precise), bias)

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
