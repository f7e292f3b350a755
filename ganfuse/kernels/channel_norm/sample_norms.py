"""Norms whose statistics are of one sample: InstanceNorm, AdaIN, AdaLIN, ILN, GroupNorm."""

from torch import Tensor

from ganfuse.kernels.channel_norm import native
from ganfuse.kernels.channel_norm.allocation import Attributes
from ganfuse.kernels.channel_norm.op import check_common, normalise
from ganfuse.kernels.channel_norm.prologue import Prologue, check_noise, check_parameter, check_prologue
from ganfuse.kernels.channel_norm.small import taken


def instance_norm_act(
    x: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float = 1e-5,
    unbiased: bool = False,
    activation: str = "none",
    negative_slope: float = 0.2,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    prologue: Prologue | None = None,
    backend: str | None = None,
) -> Tensor:
    """``act(gain · (x − mean)/sqrt(var + eps) + bias + noise · noise_strength)``, statistics per sample and channel.

    Ulyanov et al. 2016, arXiv:1607.08022; with per-sample gain and bias AdaIN, Huang and Belongie 2017,
    arXiv:1703.06868, eq. 8. Differentiable as `batch_norm_act` is. On 1×1 maps the variance is 0, and y is the bias.

    Args:
        x: (B, C, H, W), or (B, C, L), (B, C, D, H, W).
        gain, bias: (C,), or (B, C) for one per sample, or None.
        unbiased: divide the variance by H·W − 1, as `Tensor.var` does, instead of H·W.
        activation, negative_slope, noise, noise_strength, backend: as in `batch_norm_act`.
        prologue: what happens to x before its statistics are taken; with it, the whole epilogue of a StyleGAN layer is
            one call. Not beside `noise`, which comes after gain and bias.

    Returns:
        Like x, in x's type and layout.

    Raises:
        ValueError: shapes, types or devices do not fit, or `backend` cannot run here.
    """
    op = "instance_norm_act"
    small = (
        noise is None
        and noise_strength is None
        and prologue is None
        and taken("row", backend, x, gain, bias, eps, activation, negative_slope)
    )
    if small:
        y = native.group_norm(x, x.shape[1], gain, bias, eps, unbiased, activation, negative_slope)
        if y is not None:
            return y
    else:
        check_common(op, x, gain, bias, least_ndim=3, eps=eps, activation=activation, negative_slope=negative_slope)
        check_noise(op, noise, noise_strength, x)
        check_prologue(op, prologue, noise, x)
    attributes = Attributes("row", 1, float(eps), bool(unbiased), activation, float(negative_slope), "", "")
    return normalise(
        op,
        attributes,
        backend,
        x,
        gain,
        bias,
        handed_back=small,
        noise=noise,
        noise_strength=noise_strength,
        prologue=prologue,
    )[0]


def layer_instance_norm_act(
    x: Tensor,
    rho: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float = 1e-5,
    unbiased: bool = True,
    activation: str = "none",
    negative_slope: float = 0.2,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """``act(gain · (rho · IN(x) + (1 − rho) · LN(x)) + bias + noise · noise_strength)``.

    IN is per channel, LN over all channels of a sample.

    Kim et al. 2020, "U-GAT-IT", arXiv:1907.10830, eq. 1: AdaLIN with per-sample gain and bias, ILN with (C,) ones. The
    clipping of rho to [0, 1] is the caller's. Differentiable as `batch_norm_act` is.

    Args:
        x: (B, C, H, W), or (B, C, L), (B, C, D, H, W).
        rho: (C,).
        gain, bias: (C,), or (B, C) for one per sample, or None.
        unbiased: divide the variances by one less than the number of elements (by 1 where there is one element, so
            that the variance of IN on 1×1 maps is 0).
        activation, negative_slope, noise, noise_strength, backend: as in `batch_norm_act`.

    Returns:
        Like x, in x's type and layout.

    Raises:
        ValueError: shapes, types or devices do not fit, or `backend` cannot run here.
    """
    op = "layer_instance_norm_act"
    small = (
        noise is None
        and noise_strength is None
        and taken("mix", backend, x, gain, bias, eps, activation, negative_slope)
    )
    check_parameter(op, "rho", rho, x, per_sample=False, required=True)
    if small:
        y = native.layer_instance_norm(x, rho, gain, bias, eps, unbiased, activation, negative_slope)
        if y is not None:
            return y
    else:
        check_common(op, x, gain, bias, least_ndim=3, eps=eps, activation=activation, negative_slope=negative_slope)
        check_noise(op, noise, noise_strength, x)
    attributes = Attributes("mix", 1, float(eps), bool(unbiased), activation, float(negative_slope), "", "")
    return normalise(
        op, attributes, backend, x, gain, bias, rho, handed_back=small, noise=noise, noise_strength=noise_strength
    )[0]


def group_norm_act(
    x: Tensor,
    num_groups: int,
    gain: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float = 1e-5,
    activation: str = "none",
    negative_slope: float = 0.2,
    noise: Tensor | None = None,
    noise_strength: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """``act(gain · (x − mean)/sqrt(var + eps) + bias + noise · noise_strength)``, statistics per sample and group.

    Wu and He 2018, "Group Normalization", arXiv:1803.08494. Differentiable as `batch_norm_act` is.

    Args:
        x: (B, C, H, W), or (B, C), (B, C, L), (B, C, D, H, W).
        num_groups: divides C; 1 is LayerNorm over a whole sample.
        gain, bias: (C,), or (B, C) for one per sample, or None.
        activation, negative_slope, noise, noise_strength, backend: as in `batch_norm_act`.

    Returns:
        Like x, in x's type and layout.

    Raises:
        ValueError: shapes, types or devices do not fit, num_groups does not divide C, or `backend` cannot run here.
    """
    op = "group_norm_act"
    small = (
        noise is None
        and noise_strength is None
        and taken("group", backend, x, gain, bias, eps, activation, negative_slope)
    )
    if small and type(num_groups) is int and num_groups >= 1 and x.shape[1] % num_groups == 0:
        y = native.group_norm(x, num_groups, gain, bias, eps, False, activation, negative_slope)
        if y is not None:
            return y
    if not small:
        check_common(op, x, gain, bias, least_ndim=2, eps=eps, activation=activation, negative_slope=negative_slope)
        check_noise(op, noise, noise_strength, x)
    if isinstance(num_groups, bool) or not isinstance(num_groups, int) or num_groups < 1 or x.shape[1] % num_groups:
        raise ValueError(f"{op}: num_groups must be a positive divisor of C = {x.shape[1]}, got {num_groups!r}")
    attributes = Attributes("group", num_groups, float(eps), False, activation, float(negative_slope), "", "")
    return normalise(
        op, attributes, backend, x, gain, bias, handed_back=small, noise=noise, noise_strength=noise_strength
    )[0]
