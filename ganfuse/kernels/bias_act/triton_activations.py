"""Activations with their first and second derivatives, in `tl` arithmetic alone and accurate near zero."""

import triton
import triton.language as tl


@triton.jit
def expm1(u):
    """``exp(u) − 1`` without the loss of digits around 0."""
    result = tl.exp(u) - 1.0
    if u.dtype != tl.float64:
        series = 1.0 + u * (1 / 7)
        series = 1.0 + u * (1 / 6) * series
        series = 1.0 + u * (1 / 5) * series
        series = 1.0 + u * (1 / 4) * series
        series = 1.0 + u * (1 / 3) * series
        series = 1.0 + u * (1 / 2) * series
        result = tl.where(tl.abs(u) < 0.35, u * series, result)
    return result


@triton.jit
def log1p_of_exp(u):
    """``log(1 + exp(u))`` for u ≤ 0, by the series of the inverse hyperbolic tangent (no digits lost for small u)."""
    e = tl.exp(u)
    if u.dtype == tl.float64:
        result = tl.log(1.0 + e)
    else:
        s = e / (2.0 + e)
        q = s * s
        series = 1 / 11 + q * (1 / 13)
        series = 1 / 9 + q * series
        series = 1 / 7 + q * series
        series = 1 / 5 + q * series
        series = 1 / 3 + q * series
        result = 2.0 * s * (1.0 + q * series)
    return result


@triton.jit
def tanh(u):
    t = expm1(-2.0 * tl.abs(u))
    t = t / (t + 2.0)
    return tl.where(u < 0, t, -t)


@triton.jit
def value(u, alpha, ACT: tl.constexpr):
    """act(u)."""
    result = u
    if ACT == "relu":
        # Not maximum, which turns NaN into 0.
        result = tl.where(u <= 0, 0.0, u)
    elif ACT == "lrelu":
        result = tl.where(u > 0, u, alpha * u)
    elif ACT == "tanh":
        result = tanh(u)
    elif ACT == "sigmoid":
        result = tl.sigmoid(u)
    elif ACT == "elu":
        result = tl.where(u > 0, u, expm1(u))
    elif ACT == "selu":
        result = tl.where(u > 0, 1.0507009873554805 * u, 1.7580993408473766 * expm1(u))
    elif ACT == "softplus":
        # PyTorch's is the identity from 20 on.
        result = tl.where(u > 20.0, u, tl.where(u > 0, u, 0.0) + log1p_of_exp(-tl.abs(u)))
    elif ACT == "swish":
        result = u * tl.sigmoid(u)
    return result


@triton.jit
def first_derivative(u, alpha, ACT: tl.constexpr):
    """act′(u)."""
    result = tl.full(u.shape, 1.0, u.dtype)
    if ACT == "relu":
        result = tl.where(u > 0, 1.0, 0.0).to(u.dtype)
    elif ACT == "lrelu":
        result = tl.where(u > 0, result, alpha)
    elif ACT == "tanh":
        t = tanh(u)
        result = 1.0 - t * t
    elif ACT == "sigmoid":
        s = tl.sigmoid(u)
        result = s * (1.0 - s)
    elif ACT == "elu":
        result = tl.where(u > 0, result, tl.exp(u))
    elif ACT == "selu":
        result = tl.where(u > 0, 1.0507009873554805 * result, 1.7580993408473766 * tl.exp(u))
    elif ACT == "softplus":
        result = tl.where(u > 20.0, result, tl.sigmoid(u))
    elif ACT == "swish":
        s = tl.sigmoid(u)
        result = s * (1.0 + u * (1.0 - s))
    return result


@triton.jit
def second_derivative(u, ACT: tl.constexpr):
    """act″(u) of an activation that has one."""
    result = tl.zeros(u.shape, u.dtype)
    if ACT == "tanh":
        t = tanh(u)
        result = -2.0 * t * (1.0 - t * t)
    elif ACT == "sigmoid":
        s = tl.sigmoid(u)
        result = s * (1.0 - s) * (1.0 - 2.0 * s)
    elif ACT == "elu":
        result = tl.where(u > 0, result, tl.exp(u))
    elif ACT == "selu":
        result = tl.where(u > 0, result, 1.7580993408473766 * tl.exp(u))
    elif ACT == "softplus":
        s = tl.sigmoid(u)
        result = tl.where(u > 20.0, result, s * (1.0 - s))
    elif ACT == "swish":
        s = tl.sigmoid(u)
        result = s * (1.0 - s) * (2.0 + u * (1.0 - 2.0 * s))
    return result
