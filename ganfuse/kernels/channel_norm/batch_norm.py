"""Batch normalisation + activation: public function, running statistics, groups of processes."""

import math
from typing import Any

from torch import Tensor

from ganfuse.kernels.channel_norm import native
from ganfuse.kernels.channel_norm.allocation import Attributes
from ganfuse.kernels.channel_norm.op import check_common, normalise
from ganfuse.kernels.channel_norm.prologue import check_noise, check_parameter
from ganfuse.kernels.channel_norm.running import RunningStatistics
from ganfuse.kernels.channel_norm.small import taken

_OP = "batch_norm_act"


def batch_norm_act(
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.2,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    process_group: Any = None,
    backend: str | None = None,
) -> Tensor:
    """``act(gain · (x − mean)/sqrt(var + eps) + bias + noise · noise_strength)``, one mean and variance per channel.

    Ioffe and Szegedy 2015, "Batch Normalization", arXiv:1502.03167; with per-sample gain and bias, conditional batch
    normalisation (de Vries et al. 2017, arXiv:1707.00683). Twice differentiable with fused kernels, any number of times
    through the reference; for the backward only x and per-channel numbers are kept.

    Args:
        x: (B, C, H, W), or (B, C), (B, C, L), (B, C, D, H, W).
        gain, bias: (C,), or (B, C) for one per sample, or None; any floating type.
        running_mean, running_var: (C,) or None (both or neither). In training they are updated in place, `running_var`
            with the unbiased variance: ``running += momentum · (batch − running)``.
        training: statistics of this batch (of all processes of `process_group`); else the running ones, which are
            constants to every derivative. Without running statistics, those of the batch.
        activation: ``"none"``, ``"relu"``, ``"leaky_relu"`` (with `negative_slope`) or ``"silu"``.
        noise: (B, 1, H, W) or (1, 1, H, W), one map for all channels, and `noise_strength` (C,); or both None.
        process_group: a `torch.distributed` group whose processes hold parts, of any sizes, of one batch; gradients
            are those of the sum of the processes' losses. None: this process alone.
        backend: ``"auto"``, ``"reference"``, ``"eager"`` or ``"triton"``; None follows `ganfuse.use_backend`.

    Returns:
        Like x, in x's type and layout.

    Raises:
        ValueError: shapes, types or devices do not fit; one value per channel in training; `backend` cannot run here.
    """
    kind = "batch" if training or running_mean is None else "given"
    running = None
    if training and running_mean is not None and running_var is not None:
        running = RunningStatistics(running_mean, running_var, momentum)
    # (In evaluation the running statistics are checked first.)
    small = (
        kind == "batch"
        and noise is None
        and noise_strength is None
        and process_group is None
        and type(momentum) is float
        and 0.0 <= momentum <= 1.0
        and taken(kind, backend, x, gain, bias, eps, activation, negative_slope)
    )
    if small and (running is not None or running_mean is running_var):
        y = native.batch_norm(x, gain, bias, running, eps, activation, negative_slope)
        if y is not None:
            return y
    check_common(_OP, x, gain, bias, least_ndim=2, eps=eps, activation=activation, negative_slope=negative_slope)
    check_parameter(_OP, "running_mean", running_mean, x, per_sample=False)
    check_parameter(_OP, "running_var", running_var, x, per_sample=False)
    check_noise(_OP, noise, noise_strength, x)
    if (running_mean is None) != (running_var is None):
        raise ValueError(f"{_OP}: running_mean and running_var must both be given, or neither")
    if not isinstance(momentum, (int, float)) or not 0.0 <= momentum <= 1.0:
        raise ValueError(f"{_OP}: momentum must be a number in [0, 1], got {momentum!r}")
    group = _group_name(process_group) if kind == "batch" else ""
    if kind == "batch" and not group and x.shape[0] * math.prod(x.shape[2:]) <= 1:
        raise ValueError(f"{_OP}: in training more than one value per channel is needed, got x of {tuple(x.shape)}")
    attributes = Attributes(kind, 1, float(eps), False, activation, float(negative_slope), group, "")
    mean, var = (None, None) if kind == "batch" else (running_mean, running_var)
    y, moments = normalise(
        _OP, attributes, backend, x, gain, bias, None, mean, var,
        noise=noise, noise_strength=noise_strength, running=running,
        handed_back=small and (running is None or running.updated),
    )  # fmt: skip
    if running is not None and not running.updated:
        assert moments is not None
        running.update(moments.detach())
    return y


def _group_name(process_group: Any) -> str:
    """Name by which the op finds the group again; "" for a group of one."""
    if process_group is None:
        return ""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(f"{_OP}: process_group needs torch.distributed to be initialised (init_process_group)")
    if not isinstance(process_group, dist.ProcessGroup):
        kind = type(process_group).__name__
        raise ValueError(f"{_OP}: process_group must be a torch.distributed process group or None, got {kind}")
    return str(process_group.group_name) if dist.get_world_size(process_group) > 1 else ""
