"""Normalisations that can be computed together with the activation behind them: which ones, and how.

A kind of norm is a name, under which patched forwards find the function that computes it from the original module's own
parameters and buffers. `find_norm` recognises PyTorch's layers; other files add those of codebases to `KINDS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ganfuse.interop.patches.swapping import original_class
from ganfuse.kernels import batch_norm_act, group_norm_act, instance_norm_act

__all__ = [
    "KINDS",
    "NormKind",
    "activation_of",
    "batch_statistics",
    "find_norm",
    "left_norm",
    "norm_act",
    "own_hooks",
    "refuse_map",
    "runs_fused",
]


@dataclass(frozen=True)
class NormKind:
    """How one kind of layer is computed.

    Attributes:
        label: for the report.
        run: of the module, the arguments of its call, the activation's name and its negative slope.
        reason: why a call does not take our form; None where it does.
        on_cpu: whether our form was measured to be faster on CPUs, where others keep the module's own code.
    """

    label: str
    run: Callable[[nn.Module, tuple[Any, ...], str, float], Tensor]
    reason: Callable[[nn.Module, tuple[Any, ...]], str | None]
    on_cpu: bool


def find_norm(module: nn.Module) -> str | None:
    """The name in `KINDS` of a layer of torch.nn; None for another module.

    Classes that inherit from one of PyTorch's count as it, if all that they inherit is what a call runs.
    """
    for name, kind in _TORCH.items():
        if isinstance(module, kind) and _runs_as(module, kind):
            return name
    return None


def left_norm(module: nn.Module) -> str | None:
    """Why a layer that looks like one of torch.nn's norms is none of the kinds; None for other modules."""
    if isinstance(module, nn.InstanceNorm2d) and module.track_running_stats:
        return "it keeps running statistics, which instance normalisation here does not"
    for kind in _TORCH.values():
        if isinstance(module, kind) and not _runs_as(module, kind):
            return f"its class has a forward of its own, not that of {kind.__name__}"
    return None


def own_hooks(module: nn.Module) -> bool:
    """Whether anything is hooked to the call of a module."""
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return any(map(bool, hooks)) or _hooked_everywhere()


def _hooked_everywhere() -> bool:
    """Whether hooks of all modules are registered (`torch.nn.modules.module.register_module_forward_hook`)."""
    return bool(getattr(torch.nn.modules.module, "_has_any_global_hook", bool)())


def activation_of(module: nn.Module) -> tuple[str, float] | None:
    """Name and slope, for our kernels, of an activation module; None for others."""
    kind = type(module)
    if kind is nn.ReLU:
        return "relu", 0.0
    if kind is nn.LeakyReLU:
        return "leaky_relu", float(module.negative_slope)  # type: ignore[arg-type]
    if kind is nn.SiLU:
        return "silu", 0.0
    return None


def norm_act(module: nn.Module, kind: str, everywhere: bool, activation: str, slope: float, *args: Any) -> Tensor:
    """The norm `module` of `args`, and an activation: in one pass where that is possible and faster.

    Called by patched forwards.
    """
    if runs_fused(module, kind, everywhere, args):
        return KINDS[kind].run(module, args, activation, slope)
    y: Tensor = module(*args)
    if activation == "relu":
        return torch.relu(y)
    return F.leaky_relu(y, slope) if activation == "leaky_relu" else F.silu(y)


def runs_fused(module: nn.Module, kind: str, everywhere: bool, args: tuple[Any, ...]) -> bool:
    """Whether a call takes our form."""
    how = KINDS[kind]
    return (everywhere or how.on_cpu or args[0].device.type != "cpu") and how.reason(module, args) is None


def refuse_map(x: Any, channels: int) -> str | None:
    """Why x is no map that the kernels take; None if it is one."""
    if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != channels or not x.is_floating_point():
        return f"the input is not (B, {channels}, H, W) of a floating type"
    if x.numel() == 0:
        return "the input is empty"
    return None


def _runs_as(module: nn.Module, kind: type[nn.Module]) -> bool:
    given = original_class(module)
    if isinstance(module, nn.InstanceNorm2d) and module.track_running_stats:
        return False
    names = ("forward", "__call__", "_check_input_dim", "_apply_instance_norm", "__getattr__")
    return "forward" not in module.__dict__ and all(
        getattr(given, name, None) is getattr(kind, name, None) for name in names
    )


def _takes_batch_statistics(module: Any) -> bool:
    return module.training or (module.running_mean is None and module.running_var is None)


def _batch_reason(module: Any, args: tuple[Any, ...]) -> str | None:
    (x,) = args
    wrong = refuse_map(x, module.num_features)
    if wrong is None and _takes_batch_statistics(module) and x.numel() == x.shape[1]:
        wrong = "there is one value per channel"
    if wrong is None and isinstance(module, nn.SyncBatchNorm) and x.device.type == "cpu":
        wrong = "PyTorch's synchronised layer refuses CPUs"
    return wrong


def batch_statistics(module: Any) -> dict[str, Any]:
    """What PyTorch's layer of batch normalisation hands on in a call, which it counts: statistics, modes, momentum."""
    momentum = module.momentum
    if module.training and module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(module.num_batches_tracked)
    keeps = not module.training or module.track_running_stats
    return {
        "running_mean": module.running_mean if keeps else None,
        "running_var": module.running_var if keeps else None,
        "training": _takes_batch_statistics(module),
        "momentum": 0.0 if momentum is None else momentum,
        "eps": module.eps,
    }


def _batch(module: Any, args: tuple[Any, ...], activation: str, slope: float) -> Tensor:
    group = None
    if isinstance(module, nn.SyncBatchNorm) and module.training and dist.is_available() and dist.is_initialized():
        group = module.process_group if module.process_group is not None else dist.group.WORLD
    return batch_norm_act(
        args[0], module.weight, module.bias, activation=activation, negative_slope=slope, process_group=group,
        **batch_statistics(module),
    )  # fmt: skip


def _instance_reason(module: Any, args: tuple[Any, ...]) -> str | None:
    (x,) = args
    wrong = refuse_map(x, module.num_features)
    # PyTorch's layer raises there.
    return "there is one value per channel" if wrong is None and x.shape[2] * x.shape[3] == 1 else wrong


def _instance(module: Any, args: tuple[Any, ...], activation: str, slope: float) -> Tensor:
    return instance_norm_act(
        args[0], module.weight, module.bias, eps=module.eps, activation=activation, negative_slope=slope
    )


def _group_reason(module: Any, args: tuple[Any, ...]) -> str | None:
    return refuse_map(args[0], module.num_channels)


def _group(module: Any, args: tuple[Any, ...], activation: str, slope: float) -> Tensor:
    (x,) = args
    if x.is_cuda and torch.is_autocast_enabled("cuda"):
        # Autocast runs this layer in float32, and its result is.
        x = x.float()
    return group_norm_act(
        x, module.num_groups, module.weight, module.bias, eps=module.eps, activation=activation, negative_slope=slope
    )


_TORCH: dict[str, type[nn.Module]] = {
    "batch norm": nn.BatchNorm2d,
    "synchronised batch norm": nn.SyncBatchNorm,
    "instance norm": nn.InstanceNorm2d,
    "group norm": nn.GroupNorm,
}

KINDS: dict[str, NormKind] = {
    "batch norm": NormKind("batch_norm_act", _batch, _batch_reason, False),
    "synchronised batch norm": NormKind("batch_norm_act", _batch, _batch_reason, False),
    "instance norm": NormKind("instance_norm_act", _instance, _instance_reason, True),
    "group norm": NormKind("group_norm_act", _group, _group_reason, False),
}
