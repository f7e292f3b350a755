"""The definition in plain PyTorch."""

from torch import Tensor

from ganfuse.kernels.bias_act.reference import bias_act


def scaled_bias_act(
    x: Tensor,
    scale: Tensor | None,
    noise: Tensor | None,
    b: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
) -> Tensor:
    """``clamp(gain · act(scale[b, c] · x + noise + b[c]))``."""
    if scale is not None:
        x = x * scale.to(x.dtype)[:, :, None, None]
    if noise is not None:
        x = x + noise.to(x.dtype)
    return bias_act(x, b, 1, act, alpha, gain, clamp)
