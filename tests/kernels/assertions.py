"""The one tolerance rule of the kernels' tests."""

import torch
from torch import Tensor

# What a sum may lose where plain PyTorch, by luck or because it is what `exact` was computed with, loses nothing; in
# units of the type's rounding, of the size of the exact values. Zeros in float64 are compared with sums of order 1.
_FLOOR = 3.0
_FLOOR_FLOAT64 = 512.0


def assert_as_accurate(actual: Tensor, plain: Tensor, exact: Tensor, name: str = "result", factor: float = 2.0) -> None:
    """Assert that `actual` is at most `factor` times as far from `exact` as plain PyTorch in the same type is.

    "Far" is the root mean square of the errors, for the largest of a few roundings is a matter of luck. That a single
    wrong element does not hide in the mean, the largest error may be twice `factor` times plain PyTorch's largest.

    Args:
        actual: what is tested.
        plain: the same computed by plain PyTorch in the type of `actual`.
        exact: the same computed in float64. A NaN or infinity in `actual` where this is finite fails.
        name: for the message.
    """
    assert actual.shape == exact.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(exact.shape)}"
    assert actual.dtype == plain.dtype, f"{name}: type {actual.dtype}, expected {plain.dtype}"
    assert exact.dtype == torch.float64, "the exact value must be float64"
    assert torch.isfinite(exact).all(), f"{name}: the exact value is not finite, so there is nothing to compare with"
    if exact.numel() == 0:
        return
    error = (actual.detach().double() - exact).abs().nan_to_num(nan=float("inf"))
    plain_error = (plain.detach().double() - exact).abs().nan_to_num(nan=float("inf"))
    double = actual.dtype == torch.float64
    eps = torch.finfo(actual.dtype).eps * (_FLOOR_FLOAT64 if double else _FLOOR)
    for norm, slack in ((_rms, factor), (torch.amax, 2 * factor)):
        got, plains, scale = (norm(x).item() for x in (error, plain_error, exact.abs()))
        # Plain PyTorch may overflow where we must not: its NaN allows nothing.
        allowed = eps * (max(1.0, scale) if double else scale) * slack / factor
        allowed += slack * plains if plains < float("inf") else 0.0
        if got <= allowed:
            continue
        place = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
        kind = "mean" if norm is _rms else "largest"
        values = ", ".join(
            f"{which} {x[place].item():.6g}" for which, x in (("got", actual), ("exact", exact), ("plain", plain))
        )
        raise AssertionError(
            f"{name}: {kind} error {got:.3g}, allowed {allowed:.3g}, plain PyTorch's is {plains:.3g}; "
            f"worst at {place}: {values}"
        )


def _rms(x: Tensor) -> Tensor:
    return x.double().square().mean().sqrt()
