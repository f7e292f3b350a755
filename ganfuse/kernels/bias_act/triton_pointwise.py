"""Kernels over a tensor read as rows and columns: the bias changes from row to row (NCHW) or along them (NHWC)."""

import triton
import triton.language as tl

from ganfuse.kernels.bias_act.triton_activations import first_derivative, second_derivative, value


@triton.jit
def pin(high, low, ACC: tl.constexpr):
    """A number of the accumulator's type: launchers pass float32 and, for float64, what that drops."""
    return tl.cast(high, ACC) + tl.cast(low, ACC)


@triton.jit
def _tile(row, column, rows, columns, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, EVEN_C: tl.constexpr):
    """Offsets of a tile's elements from the tile's first, and which of them exist."""
    r = tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    offsets = r[:, None].to(tl.int64) * columns + c[None, :]
    mask = (row + r < rows)[:, None]
    if not EVEN_C:
        mask = mask & (column + c < columns)[None, :]
    return offsets, mask


@triton.jit
def _bias(
    b, row, column, rows, columns, channels,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, INNER: tl.constexpr, BIAS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """The bias of a tile, as a column or as a row of it."""
    if BIAS == "rows":
        r = row + tl.arange(0, BLOCK_R)
        result = tl.load(b + r % channels, mask=r < rows, other=0.0).to(ACC)[:, None]
    else:
        c = column + tl.arange(0, BLOCK_C)
        result = tl.load(b + c // INNER, mask=c < columns, other=0.0).to(ACC)[None, :]
    return result


@triton.jit
def bias_act_forward(
    x, b, y,
    alpha, alpha_low, gain, gain_low, clamp, clamp_low,
    rows, column_units, channels, chunks,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, UNIT: tl.constexpr, EVEN_C: tl.constexpr, INNER: tl.constexpr,
    BIAS: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """y = clamp(gain · act(x + b)). One program: a tile of BLOCK_R rows and BLOCK_C columns."""
    columns = tl.cast(column_units, tl.int64) * UNIT
    pid = tl.program_id(0)
    row = (pid // chunks).to(tl.int64) * BLOCK_R
    column = (pid % chunks).to(tl.int64) * BLOCK_C
    first = row * columns + column
    offsets, mask = _tile(row, column, rows, columns, BLOCK_R, BLOCK_C, EVEN_C)
    u = tl.load(x + first + offsets, mask=mask, other=0.0).to(ACC)
    if BIAS != "none":
        u += _bias(b, row, column, rows, columns, channels, BLOCK_R, BLOCK_C, INNER, BIAS, ACC)
    result = value(u, pin(alpha, alpha_low, ACC), ACT) * pin(gain, gain_low, ACC)
    if CLAMP:
        limit = pin(clamp, clamp_low, ACC)
        # Comparisons that NaN fails, so that it stays.
        result = tl.where(result > limit, limit, tl.where(result < -limit, -limit, result))
    tl.store(y + first + offsets, result.to(y.dtype.element_ty), mask=mask)


@triton.jit
def bias_act_gradient(
    x, b, h, h_bias, grad, out, out_curved, partial,
    alpha, alpha_low, gain, gain_low, clamp, clamp_low,
    rows, column_units, channels, chunks, repeats,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, UNIT: tl.constexpr, EVEN_C: tl.constexpr, INNER: tl.constexpr,
    BIAS: tl.constexpr, ACT: tl.constexpr, CLAMP: tl.constexpr, ACC: tl.constexpr,
    SLOPE: tl.constexpr, CURVE: tl.constexpr, BIAS_COTANGENT: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Both backwards. With H = h + h_bias, f(u) = clamp(gain · act(u)) and u = x + b:

    SLOPE: out = f′(u) · H, the gradient of x for a gradient H of y, and equally that of grad for a cotangent H of it.
    CURVE: out_curved = f″(u) · grad · H, the double backward's gradient of x.
    SUM: sums over a tile's columns (bias along rows) or rows of the last of these, for the gradient of the bias.

    One program: `repeats` tiles of BLOCK_R rows, one below the other.
    """
    columns = tl.cast(column_units, tl.int64) * UNIT
    pid = tl.program_id(0)
    block = (pid // chunks).to(tl.int64)
    column = (pid % chunks).to(tl.int64) * BLOCK_C
    slope = pin(alpha, alpha_low, ACC)
    factor = pin(gain, gain_low, ACC)
    total = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    for i in range(repeats):
        row = (block * repeats + i) * BLOCK_R
        first = row * columns + column
        offsets, mask = _tile(row, column, rows, columns, BLOCK_R, BLOCK_C, EVEN_C)
        u = tl.load(x + first + offsets, mask=mask, other=0.0).to(ACC)
        cotangent = tl.load(h + first + offsets, mask=mask, other=0.0).to(ACC)
        if BIAS != "none":
            u += _bias(b, row, column, rows, columns, channels, BLOCK_R, BLOCK_C, INNER, BIAS, ACC)
        if BIAS_COTANGENT:
            cotangent += _bias(h_bias, row, column, rows, columns, channels, BLOCK_R, BLOCK_C, INNER, BIAS, ACC)
            # Beyond the tensor the bias's cotangent is there, but no element.
            cotangent = tl.where(mask, cotangent, 0.0)
        cotangent *= factor
        if CLAMP:
            limit = pin(clamp, clamp_low, ACC)
            result = value(u, slope, ACT) * factor
            cotangent = tl.where(tl.abs(result) <= limit, cotangent, 0.0)
        last = cotangent
        if SLOPE:
            last = first_derivative(u, slope, ACT) * cotangent
            tl.store(out + first + offsets, last.to(out.dtype.element_ty), mask=mask)
        if CURVE:
            g = tl.load(grad + first + offsets, mask=mask, other=0.0).to(ACC)
            last = second_derivative(u, ACT) * g * cotangent
            tl.store(out_curved + first + offsets, last.to(out_curved.dtype.element_ty), mask=mask)
        if SUM:
            if BIAS == "rows":
                r = row + tl.arange(0, BLOCK_R)
                tl.store(partial + r * chunks + pid % chunks, tl.sum(last, 1), mask=r < rows)
            else:
                total += last
    if SUM:
        if BIAS == "columns":
            c = column + tl.arange(0, BLOCK_C)
            tl.store(partial + block * columns + c, tl.sum(total, 0), mask=c < columns)
